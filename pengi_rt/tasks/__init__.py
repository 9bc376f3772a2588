"""The engine's tasks, one module or package each."""
