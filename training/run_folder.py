"""What the folder of a run (``output_dir``) holds."""

CHECKPOINT = "model.safetensors"
"""The trained model; there when the run has ended."""

CONFIG = "config.json"
METRICS = "metrics.jsonl"

STATES = "state"
"""Folder of the states to resume from."""
