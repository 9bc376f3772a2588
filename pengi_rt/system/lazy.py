"""Names that are imported only when they are used."""

from importlib import import_module
from typing import Any


def lazily(name: str) -> Any:
    """Import what ``"module:name"`` stands for."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
