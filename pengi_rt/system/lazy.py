"""Import by name, where it is first needed."""

from importlib import import_module
from typing import Any


def lazily(name: str) -> Any:
    """The object that ``"module:name"`` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
