"""Recordings classified by the answers of a language model, in either of the paper's two ways."""
