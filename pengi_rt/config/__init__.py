"""Model configs and task options: frozen dataclasses, checked when they are made."""
