"""Matching once, then one formula a file."""
