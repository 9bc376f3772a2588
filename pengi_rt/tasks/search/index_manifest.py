"""``index.json``: what an index was made with, and the sizes and hashes of its files."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pengi_rt.config.checked import Checked, Within, build, require
from pengi_rt.errors import UsageError
from pengi_rt.system.quote import shown
from pengi_rt.tasks.search.rows import no_constant

FORMAT = "pengi-rt retrieval index"
VERSION = 1
MANIFEST = "index.json"
ROWS = "rows.jsonl"
CAPTIONS = "captions.npy"
AUDIO = "audio.npy"

Count = Annotated[int, Within(0, 2**40)]
Dimension = Annotated[int, Within(1, 2**20)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What all rows of an index have in common.

    ``settings`` holds JSON values: the prompt, the beam size, and everything else that affects a
    caption.
    """

    plan: str  # SHA-256 of the plan
    settings: Mapping[str, Any]
    dimension: int  # of the captions' embeddings
    audio_dimension: int | None  # of the windows' embeddings; None if there are none

    def __post_init__(self) -> None:
        # The same as after reading them back: tuples become lists, keys become strings.
        object.__setattr__(self, "settings", json.loads(_canonical(dict(self.settings))))

    @property
    def settings_sha256(self) -> str:
        """SHA-256 of the settings, independent of their order."""
        return hashlib.sha256(_canonical(self.settings).encode()).hexdigest()

    def differences(self, wanted: "Identity") -> str:
        """How this identity differs from ``wanted``, in words; empty if they are the same."""
        found = []
        if self.plan != wanted.plan:
            found.append(f"plan {shown(self.plan)}, not {shown(wanted.plan)}")
        for name in sorted(self.settings.keys() | wanted.settings.keys()):
            here, there = (
                _setting(settings, name) for settings in (self.settings, wanted.settings)
            )
            if here != there:
                found.append(f"{name} {here}, not {there}")
        if self.matrices != wanted.matrices:
            found.append(f"vectors {self.matrices}, not {wanted.matrices}")
        return "; ".join(found)

    @property
    def matrices(self) -> dict[str, int]:
        """The names of the matrices' files, and their dimensions."""
        audio = {} if self.audio_dimension is None else {AUDIO: self.audio_dimension}
        return {CAPTIONS: self.dimension} | audio


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Size and hash of a file of the index."""

    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexManifest(Checked):
    """``index.json``; ``collection``, where the recordings were, is for information only."""

    format: str = FORMAT
    version: int = VERSION
    plan: str
    settings: dict[str, Any]
    dimension: Dimension
    audio_dimension: int | None
    settings_sha256: str
    collection: str
    rows: Count
    files: dict[str, FileRecord]

    def _check(self) -> None:
        require(self.audio_dimension is None or self.audio_dimension > 0, "audio_dimension is 0")
        same = self.identity.settings_sha256 == self.settings_sha256
        require(same, "settings do not match settings_sha256")
        names = {ROWS, *self.identity.matrices}
        wanted = f"files must be {', '.join(sorted(names))}"
        require(self.files.keys() == names, f"{wanted}, got {shown(list(self.files))}")

    @property
    def identity(self) -> Identity:
        """The identity that all rows share."""
        names = (field.name for field in dataclasses.fields(Identity))
        return Identity(**{name: getattr(self, name) for name in names})

    def to_json(self) -> bytes:
        """The manifest as ASCII JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """The manifest in a JSON text, checked key by key.

        Raises:
            UsageError: the text is not a manifest of this version.
        """
        try:
            data = json.loads(text, parse_constant=no_constant)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{MANIFEST} is not JSON: {error}") from None
        known = isinstance(data, dict) and data.get("format") == FORMAT
        require(known, f"{MANIFEST} is not the manifest of a {FORMAT}")
        version = data.get("version")
        require(version == VERSION, f"{MANIFEST} has version {shown(version)}, not {VERSION}")
        missing = sorted({field.name for field in dataclasses.fields(cls)} - data.keys())
        require(not missing, f"{MANIFEST} lacks {', '.join(missing)}")
        require(isinstance(data["settings"], dict), f"{MANIFEST}.settings must be an object")
        manifest = build(cls, data, MANIFEST)
        assert isinstance(manifest, cls)
        return manifest


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _setting(settings: Mapping[str, Any], name: str) -> str:
    """A setting as JSON text, in which 1, 1.0 and true differ."""
    return _canonical(settings[name]) if name in settings else "unset"
