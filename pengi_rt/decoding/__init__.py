"""Beam search over any backend."""
