"""The framing of each audio format, one module per format."""
