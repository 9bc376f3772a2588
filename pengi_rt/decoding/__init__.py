"""Beam search, sampling and streaming over any backend."""
