"""The command line: one small module per verb. Nothing here imports torch before a verb needs it."""
