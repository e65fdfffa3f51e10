"""Configurations of other fine-tuners, read into ours."""
