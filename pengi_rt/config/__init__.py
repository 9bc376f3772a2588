"""What a model is, and what a caller may ask of it: frozen dataclasses, checked when made."""
