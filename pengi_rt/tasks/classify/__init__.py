"""Choosing among labels."""
