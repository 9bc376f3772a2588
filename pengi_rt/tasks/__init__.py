"""What the engine can do with recordings, one module or package per task."""
