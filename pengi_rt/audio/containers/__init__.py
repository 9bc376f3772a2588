"""What the framing of each audio format says, one module a format."""
