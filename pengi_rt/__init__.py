"""pengi-rt: audio and a text prompt in, text out (Pengi, Deshmukh et al., NeurIPS 2023).

Every public name is available here and is imported on first use, so ``import pengi_rt`` costs
nothing::

    import pengi_rt
    engine = pengi_rt.load("pengi.plan")
    print(engine.generate("dog.wav", prompt="generate audio caption").text)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pengi_rt.system.telemetry import disable_telemetry
from pengi_rt.system.version import __version__

if TYPE_CHECKING:
    from pengi_rt.audio.recording import AudioLike, Recording, load_windows
    from pengi_rt.config.options import (
        ClassifyOptions,
        DescribeOptions,
        ExplainOptions,
        GenerateOptions,
        IndexOptions,
        ReadOptions,
        SearchOptions,
    )
    from pengi_rt.config.pengi import PengiConfig
    from pengi_rt.engine import Engine, load
    from pengi_rt.errors import AudioError, PengiError
    from pengi_rt.plan.reader import Plan
    from pengi_rt.results.classification import Classification, ClassifiedWindow, LabelScore
    from pengi_rt.results.description import Description
    from pengi_rt.results.embedding import AudioEmbedding, TextEmbedding
    from pengi_rt.results.explanation import Explanation
    from pengi_rt.results.generation import Beam, Result, Timings, Window
    from pengi_rt.results.search import Hit, Indexed
    from pengi_rt.results.timeline import Pooled, Segment
    from pengi_rt.tasks.search.index import Index

_HOME = {
    "AudioEmbedding": "pengi_rt.results.embedding",
    "AudioError": "pengi_rt.errors",
    "AudioLike": "pengi_rt.audio.recording",
    "Beam": "pengi_rt.results.generation",
    "Classification": "pengi_rt.results.classification",
    "ClassifiedWindow": "pengi_rt.results.classification",
    "ClassifyOptions": "pengi_rt.config.options",
    "DescribeOptions": "pengi_rt.config.options",
    "Description": "pengi_rt.results.description",
    "Engine": "pengi_rt.engine",
    "ExplainOptions": "pengi_rt.config.options",
    "Explanation": "pengi_rt.results.explanation",
    "GenerateOptions": "pengi_rt.config.options",
    "Hit": "pengi_rt.results.search",
    "Index": "pengi_rt.tasks.search.index",
    "IndexOptions": "pengi_rt.config.options",
    "Indexed": "pengi_rt.results.search",
    "LabelScore": "pengi_rt.results.classification",
    "PengiConfig": "pengi_rt.config.pengi",
    "PengiError": "pengi_rt.errors",
    "Plan": "pengi_rt.plan.reader",
    "Pooled": "pengi_rt.results.timeline",
    "ReadOptions": "pengi_rt.config.options",
    "Recording": "pengi_rt.audio.recording",
    "Result": "pengi_rt.results.generation",
    "SearchOptions": "pengi_rt.config.options",
    "Segment": "pengi_rt.results.timeline",
    "TextEmbedding": "pengi_rt.results.embedding",
    "Timings": "pengi_rt.results.generation",
    "Window": "pengi_rt.results.generation",
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
    "ClassifyOptions",
    "DescribeOptions",
    "Description",
    "Engine",
    "ExplainOptions",
    "Explanation",
    "GenerateOptions",
    "Hit",
    "Index",
    "IndexOptions",
    "Indexed",
    "LabelScore",
    "PengiConfig",
    "PengiError",
    "Plan",
    "Pooled",
    "ReadOptions",
    "Recording",
    "Result",
    "SearchOptions",
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
    """Import a public name from its own module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'pengi_rt' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
