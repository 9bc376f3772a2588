"""Names of the files in the folder of a run (``output_dir``)."""

CHECKPOINT = "model.safetensors"
"""The trained model, written when the run ends."""

CONFIG = "config.json"
METRICS = "metrics.jsonl"

STATES = "state"
"""Folder of the resume states."""
