"""The engine file: a ZIP of graphs, weights and tokenizers, checked before use."""
