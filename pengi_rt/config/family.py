"""Families of models: what the parts of a model are called, and what they can do.

A plan's config names its family. A new family is one module (or folder) and one call of
:func:`register_family`; the plan's reader and writer, the session, the backends and the command
line look things up in its spec. A family's code is imported only when one of its plans is opened.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast, runtime_checkable

from pengi_rt.config.checked import build
from pengi_rt.errors import UsageError
from pengi_rt.system.lazy import lazily
from pengi_rt.system.quote import shown

if TYPE_CHECKING:
    from pengi_rt.config.parts import DecoderConfig, GenerationConfig

DEFAULT = "pengi"
"""The family of a config that does not name one."""

PARTS = {
    "audio": "audio encoder",
    "prompt": "text encoder",
    "text": "text encoder",
    "decoder": "decoder",
}
"""The parts that tasks need, and what messages call them.

``audio`` embeds a window; ``prompt`` turns a prompt into a prefix for the decoder; ``text`` embeds
a text as one vector, which is compared with others by cosine; ``decoder`` generates text.
"""

_GENERATE = ("audio", "prompt", "decoder")
_MATCH = ("audio", "prompt", "text", "decoder")

TASKS: Mapping[str, tuple[str, ...]] = {
    "generate": _GENERATE,
    "stream": _GENERATE,
    "describe": _GENERATE,
    "classify by text-matching": _MATCH,
    "classify by log-likelihood": _GENERATE,
    "explain": _GENERATE,
    "index": _MATCH,
    "search": _MATCH,
    "embed": ("audio",),
    "embed texts": ("text",),
    "embed prefixes": ("audio", "decoder"),
}
"""What a plan can do, and the :data:`PARTS` that each task needs."""


class FamilyConfig(Protocol):
    """What every family's config has. The classes are frozen dataclasses, made from JSON."""

    @property
    def family(self) -> str:
        """The family's name."""

    @property
    def name(self) -> str:
        """The name of the model."""

    @property
    def sample_rate(self) -> int:
        """Sample rate of the windows, Hz."""

    @property
    def clip_seconds(self) -> float:
        """Length of one window, seconds."""

    @property
    def clip_samples(self) -> int:
        """Samples of one window."""

    @property
    def hop_length(self) -> int:
        """Samples; windows that start less than this far apart are the same to the model."""

    @property
    def d_proj(self) -> int:
        """Width of the embeddings."""


@runtime_checkable
class GenerativeConfig(FamilyConfig, Protocol):
    """What the config of a model with a decoder has, besides."""

    @property
    def decoder(self) -> "DecoderConfig":
        """The decoder."""

    @property
    def generation(self) -> "GenerationConfig":
        """The defaults of ``generate``."""

    @property
    def stop_id(self) -> int:
        """The token that ends an answer."""

    @property
    def pad_id(self) -> int:
        """The token that fills a finished beam."""

    @property
    def audio_prefix_length(self) -> int:
        """Rows of a window's prefix."""

    @property
    def prefix_length(self) -> int:
        """Rows of the longest prefix: a window's, then a prompt's."""

    def prompt_rows(self, tokens: int) -> int:
        """Rows of the prefix of a prompt with this many tokens."""


def generative(config: FamilyConfig) -> GenerativeConfig:
    """``config``, of a plan that has a decoder (:meth:`pengi_rt.plan.reader.Plan.require`)."""
    assert isinstance(config, GenerativeConfig), f"{config.family} models have no decoder"
    return config


class Table(NamedTuple):
    """An embedding table of the decoder, from which backends gather rows."""

    tensor: str
    """The name of the tensor."""
    shape: tuple[int, int]
    int8: bool
    """Whether a plan with int8 weights stores it as int8; if not, as float16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySpec:
    """What is known about a family without importing it.

    Classes and functions are named ``"module:name"``.
    """

    name: str
    config: str
    """A dataclass with the attributes of :class:`FamilyConfig`; and those of
    :class:`GenerativeConfig`, if there is a decoder."""
    graphs: Mapping[str, str]
    """``config -> pengi_rt.plan.graph.GraphRules`` for each ONNX graph that a plan may hold."""
    optional: frozenset[str] = frozenset()
    """Graphs that a plan for ONNX Runtime may leave out."""
    parts: str | None = None
    """``config -> Mapping[str, tuple[str, ...]]``: the :data:`PARTS` that each graph is, given the
    config; without it, each graph is the part of its own name."""
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    """``(json_bytes, config) -> tokenizer`` for the graphs of these names, ``text`` like
    :class:`~pengi_rt.text.tokenizers.PromptTokenizer` and ``decoder`` like
    :class:`~pengi_rt.text.tokenizers.DecoderTokenizer`."""
    tables: str | None = None
    """``config -> Mapping[str, Table]``: the decoder's embeddings, of ``tokens`` and of
    ``positions``."""
    modules: str | None = None
    """``config -> pengi_rt.backends.torch.Network``, whose state has the plan's names."""
    summary: str | None = None
    """``config -> Mapping[str, str]``: the lines that ``inspect`` prints about the model."""
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: TASKS)
    """What a plan of this family can do, and the parts that each task needs."""

    def parts_of(self, config: FamilyConfig, graphs: Iterable[str]) -> frozenset[str]:
        """The parts of a plan with these graphs."""
        by_graph = lazily(self.parts)(config) if self.parts else {}
        return frozenset(part for graph in graphs for part in by_graph.get(graph, (graph,)))

    def tasks_of(self, parts: Iterable[str]) -> tuple[str, ...]:
        """What a plan with these parts can do."""
        held = set(parts)
        return tuple(task for task, needed in self.tasks.items() if held.issuperset(needed))

    def refusal(self, task: str, parts: Iterable[str]) -> str:
        """Why a plan with these parts cannot do ``task``, what it can do, and what to do."""
        held = set(parts)
        missing = [part for part in self.tasks.get(task, ()) if part not in held]
        named = dict.fromkeys(PARTS.get(part, part) for part in missing)
        lacking = " and ".join(f"no {name}" for name in named) or "nothing for it"
        can = ", ".join(self.tasks_of(held)) or "nothing"
        others = any(part in self.graphs for part in missing)  # other plans of the family have it
        advice = f"; export a checkpoint that has {'one' if len(named) == 1 else 'them'}" * others
        return f"holds {lacking}, so it cannot {task}: it can {can}{advice}"


_SPECS: dict[str, FamilySpec] = {}


def register_family(spec: FamilySpec) -> None:
    """Register a family under its name."""
    _SPECS[spec.name] = spec


def unregister_family(name: str) -> None:
    """Forget a family."""
    del _SPECS[name]


def family_of(config: FamilyConfig) -> FamilySpec:
    """The family of a config."""
    return _SPECS[config.family]


def tables_of(config: FamilyConfig) -> Mapping[str, Table]:
    """The decoder's embedding tables, by what they embed; none without a decoder."""
    named = family_of(config).tables
    tables: Mapping[str, Table] = lazily(named)(config) if named else {}
    return tables


def read_config(data: object) -> FamilyConfig:
    """The config of a plan of any family, from plain JSON data.

    Raises:
        UsageError: the family is unknown, or a value is missing or invalid.
    """
    name = data.get("family", DEFAULT) if isinstance(data, dict) else DEFAULT
    if not isinstance(name, str) or name not in _SPECS:
        raise UsageError(
            f"the model is of the family {shown(name)}; this version of pengi-rt knows "
            f"{', '.join(_SPECS)}"
        )
    return cast("FamilyConfig", build(lazily(_SPECS[name].config), data, "config"))


register_family(
    FamilySpec(
        name="pengi",
        config="pengi_rt.config.pengi:PengiConfig",
        graphs={
            "audio": "pengi_rt.plan.pengi:audio_graph",
            "text": "pengi_rt.plan.pengi:text_graph",
            "decoder": "pengi_rt.plan.pengi:decoder_graph",
        },
        parts="pengi_rt.plan.pengi:parts",
        tokenizers={
            "text": "pengi_rt.text.tokenizers:PromptTokenizer",
            "decoder": "pengi_rt.text.tokenizers:DecoderTokenizer",
        },
        tables="pengi_rt.plan.pengi:tables",
        modules="pengi_rt.models.pengi:Pengi",
        summary="pengi_rt.plan.pengi:summary",
    )
)
