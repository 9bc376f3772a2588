"""The backends: one module each, all with the same small protocol."""
