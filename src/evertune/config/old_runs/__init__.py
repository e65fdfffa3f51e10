"""Reads how runs were launched elsewhere, and writes them as a configuration; nothing of it is ever executed."""
