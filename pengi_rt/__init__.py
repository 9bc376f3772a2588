"""pengi-rt: answers audio and a text prompt with text (Pengi, Deshmukh et al., NeurIPS 2023).

Everything public is reached from here and imported when first touched, so that ``import pengi_rt``
costs nothing::

    import pengi_rt
    engine = pengi_rt.load("pengi.plan")
    print(engine.generate("dog.wav", prompt="generate audio caption").text)
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pengi_rt.config import ModelConfig
    from pengi_rt.engine import Engine, load
    from pengi_rt.errors import PengiError
    from pengi_rt.plan import Plan
    from pengi_rt.results import Beam, Result, Timings, Window

_HOME = {
    "Beam": "pengi_rt.results",
    "Engine": "pengi_rt.engine",
    "ModelConfig": "pengi_rt.config",
    "PengiError": "pengi_rt.errors",
    "Plan": "pengi_rt.plan",
    "Result": "pengi_rt.results",
    "Timings": "pengi_rt.results",
    "Window": "pengi_rt.results",
    "load": "pengi_rt.engine",
}

__all__ = [
    "Beam",
    "Engine",
    "ModelConfig",
    "PengiError",
    "Plan",
    "Result",
    "Timings",
    "Window",
    "__version__",
    "load",
]


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'pengi_rt' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
