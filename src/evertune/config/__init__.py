"""Reads, checks and explains configuration files."""
