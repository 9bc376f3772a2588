"""Beam search, sampling, streaming and likelihoods over any backend."""
