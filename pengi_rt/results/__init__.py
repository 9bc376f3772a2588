"""The tasks' return types."""
