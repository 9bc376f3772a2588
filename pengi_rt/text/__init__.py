"""Tokenizers, and the prompts of the published tasks."""
