"""The reference model in plain PyTorch."""
