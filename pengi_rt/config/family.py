"""Families of models: what the parts of a model are called, and what they can do.

A plan's config names its family. A new family is one module (or folder) and one call of
:func:`register_family`; the plan's reader and writer, the session, the backends and the command
line look things up in its spec. A family's code is imported only when one of its plans is opened.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from pengi_rt.config.checked import build
from pengi_rt.errors import UsageError
from pengi_rt.system.lazy import lazily
from pengi_rt.system.quote import shown

if TYPE_CHECKING:
    from pengi_rt.config.model import ModelConfig

DEFAULT = "pengi"
"""The family of a config that does not name one."""

PARTS = {"audio": "audio encoder", "text": "text encoder", "decoder": "decoder"}
"""The graphs that tasks run, as messages call them."""

_AUDIO, _ENCODERS, _ALL = ("audio",), ("audio", "text"), ("audio", "text", "decoder")

TASKS: Mapping[str, tuple[str, ...]] = {
    "generate": _ALL,
    "stream": _ALL,
    "describe": _ALL,
    "classify": _ALL,
    "explain": _ALL,
    "index": _ALL,
    "search": _ENCODERS,
    "embed": _AUDIO,
    "embed texts": _ENCODERS,
    "embed prefixes": ("audio", "decoder"),
}
"""What a model can do, and the graphs that each task needs."""


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
    def clip_samples(self) -> int:
        """Samples of one window."""

    @property
    def hop_length(self) -> int:
        """Samples; windows that start less than this far apart are the same to the model."""


class Table(NamedTuple):
    """An embedding table, from which backends gather rows."""

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
    """A dataclass with the attributes of :class:`FamilyConfig`."""
    graphs: Mapping[str, str]
    """``config -> pengi_rt.plan.graph.GraphRules`` for each ONNX graph that a plan may hold."""
    optional: frozenset[str] = frozenset()
    """Graphs that a plan for ONNX Runtime may leave out."""
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    """``(json_bytes, config) -> tokenizer`` for each tokenizer in a plan."""
    tables: str | None = None
    """``config -> Mapping[str, Table]``: the tensors that backends gather from."""
    modules: str | None = None
    """``config -> torch.nn.Module``: the network; its state has the names of the plan's tensors."""
    summary: str | None = None
    """``config -> Mapping[str, str]``: the lines that ``inspect`` prints about the model."""
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: TASKS)
    """What a model of this family can do, and the graphs that each task needs."""

    def tasks_of(self, graphs: Iterable[str]) -> tuple[str, ...]:
        """What a plan with these graphs can do."""
        held = set(graphs)
        return tuple(task for task, needed in self.tasks.items() if held.issuperset(needed))

    def refusal(self, task: str, graphs: Iterable[str]) -> str:
        """Why a plan with these graphs cannot do ``task``, and what it can do."""
        held = set(graphs)
        missing = [part for part in self.tasks.get(task, ()) if part not in held]
        lacking = " and ".join(f"no {PARTS.get(part, part)}" for part in missing)
        can = ", ".join(self.tasks_of(held)) or "nothing"
        return f"holds {lacking or 'nothing for it'}, so it cannot {task}: it can {can}"


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


def read_config(data: object) -> "ModelConfig":
    """The config of a plan of any family, from plain JSON data.

    The return type is Pengi's config. Fields that other families lack are read only after
    :meth:`pengi_rt.plan.reader.Plan.require` has checked that the task is possible.

    Raises:
        UsageError: the family is unknown, or a value is missing or invalid.
    """
    name = data.get("family", DEFAULT) if isinstance(data, dict) else DEFAULT
    if not isinstance(name, str) or name not in _SPECS:
        raise UsageError(
            f"the model is of the family {shown(name)}; this version of pengi-rt knows "
            f"{', '.join(_SPECS)}"
        )
    return cast("ModelConfig", build(lazily(_SPECS[name].config), data, "config"))


register_family(
    FamilySpec(
        name="pengi",
        config="pengi_rt.config.model:ModelConfig",
        graphs={
            "audio": "pengi_rt.plan.pengi:audio_graph",
            "text": "pengi_rt.plan.pengi:text_graph",
            "decoder": "pengi_rt.plan.pengi:decoder_graph",
        },
        tokenizers={
            "text": "pengi_rt.text.tokenizers:PromptTokenizer",
            "decoder": "pengi_rt.text.tokenizers:DecoderTokenizer",
        },
        tables="pengi_rt.plan.pengi:tables",
        modules="pengi_rt.models.pengi:Pengi",
        summary="pengi_rt.plan.pengi:summary",
    )
)
