"""pengi-rt: answers audio and a text prompt with text (Pengi, Deshmukh et al., NeurIPS 2023).

Everything public is reached from here and imported when first touched, so that ``import pengi_rt``
costs nothing::

    import pengi_rt
    engine = pengi_rt.load("pengi.plan")
    print(engine.generate("dog.wav", prompt="generate audio caption").text)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pengi_rt.system.telemetry import disable_telemetry

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pengi_rt.audio.recording import AudioLike, Recording, load_windows
    from pengi_rt.classification.results import Classification, ClassifiedWindow, LabelScore
    from pengi_rt.config import ModelConfig
    from pengi_rt.describe import Description
    from pengi_rt.embed import AudioEmbedding, TextEmbedding
    from pengi_rt.engine import Engine, load
    from pengi_rt.errors import AudioError, PengiError
    from pengi_rt.explain import Explanation
    from pengi_rt.plan import Plan
    from pengi_rt.results import Beam, Result, Timings, Window
    from pengi_rt.retrieval.index import Index
    from pengi_rt.retrieval.indexing import Indexed
    from pengi_rt.retrieval.searching import Hit
    from pengi_rt.segments import Pooled, Segment

_HOME = {
    "AudioEmbedding": "pengi_rt.embed",
    "AudioError": "pengi_rt.errors",
    "AudioLike": "pengi_rt.audio.recording",
    "Beam": "pengi_rt.results",
    "Classification": "pengi_rt.classification.results",
    "ClassifiedWindow": "pengi_rt.classification.results",
    "Description": "pengi_rt.describe",
    "Engine": "pengi_rt.engine",
    "Explanation": "pengi_rt.explain",
    "Hit": "pengi_rt.retrieval.searching",
    "Index": "pengi_rt.retrieval.index",
    "Indexed": "pengi_rt.retrieval.indexing",
    "LabelScore": "pengi_rt.classification.results",
    "ModelConfig": "pengi_rt.config",
    "PengiError": "pengi_rt.errors",
    "Plan": "pengi_rt.plan",
    "Pooled": "pengi_rt.segments",
    "Recording": "pengi_rt.audio.recording",
    "Result": "pengi_rt.results",
    "Segment": "pengi_rt.segments",
    "TextEmbedding": "pengi_rt.embed",
    "Timings": "pengi_rt.results",
    "Window": "pengi_rt.results",
    "load": "pengi_rt.engine",
    "load_windows": "pengi_rt.audio.recording",
}

__all__ = [
    "AudioEmbedding",
    "AudioError",
    "AudioLike",
    "Beam",
    "Classification",
    "ClassifiedWindow",
    "Description",
    "Engine",
    "Explanation",
    "Hit",
    "Index",
    "Indexed",
    "LabelScore",
    "ModelConfig",
    "PengiError",
    "Plan",
    "Pooled",
    "Recording",
    "Result",
    "Segment",
    "TextEmbedding",
    "Timings",
    "Window",
    "__version__",
    "load",
    "load_windows",
]


disable_telemetry()


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'pengi_rt' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
