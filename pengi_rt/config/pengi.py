"""The config of a Pengi model: every number that differs between models, in frozen dataclasses.

The config is stored as JSON with the weights; the defaults are the published ``base``. Its parts,
which other families have too, are in :mod:`pengi_rt.config.parts`.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal, Self, cast

from pengi_rt.config.checked import Checked, Within, build, require, require_below, require_multiple
from pengi_rt.config.family import FamilyConfig
from pengi_rt.config.parts import (
    DecoderConfig,
    GenerationConfig,
    HTSATConfig,
    MapperConfig,
    MelConfig,
    TextConfig,
    TokenId,
    Width,
    exact_div,
)
from pengi_rt.config.presets import preset
from pengi_rt.errors import UsageError
from pengi_rt.system.strict_json import Limits, parse

_LIMITS = Limits(characters=1 << 20, values=2000, finite=False)  # base's has 1 300 and 70
_MAX_FRAMES = 8192  # of the image; the stretch is a matrix of both kinds of frames


@dataclass(frozen=True, kw_only=True)  # without slots, for its cached properties
class PengiConfig(Checked):
    """A whole Pengi model: everything the runtime needs to know besides the weights."""

    family: Literal["pengi"] = "pengi"
    name: str = "base"
    clip_seconds: Annotated[float, Within(0.01, 120)] = 7.0
    mel: MelConfig = field(default_factory=MelConfig)
    htsat: HTSATConfig = field(default_factory=HTSATConfig)
    text: TextConfig = field(default_factory=TextConfig)
    d_proj: Width = 1024  # width of the joint space
    normalize_audio: bool = True  # L2, before the audio mapper
    normalize_text: bool = False  # the released wrapper does not, although training did
    audio_mapper: MapperConfig = field(default_factory=MapperConfig)
    text_mapper: MapperConfig = field(default_factory=MapperConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    stop_id: TokenId = 220  # a lone space: the first id of " <|endoftext|>"
    pad_id: TokenId = 0  # "!": fills a finished beam
    generation: GenerationConfig = field(default_factory=GenerationConfig)

    def _check(self) -> None:
        self._check_clip()
        time = "transformer_time" if self.htsat.pooling == "time" else None
        self._check_mapper("audio_mapper", time, f"htsat.pooling {self.htsat.pooling!r}")
        if self.text.kind != "decoder":
            sequence = "transformer_seq" if self.text.kind == "token_embedding" else None
            self._check_mapper("text_mapper", sequence, f"text.kind {self.text.kind!r}")
        require_below("stop_id", self.stop_id, "decoder.vocab_size", self.decoder.vocab_size)
        require_below("pad_id", self.pad_id, "decoder.vocab_size", self.decoder.vocab_size)
        rows, positions = self.prefix_length, self.decoder.n_positions
        require(
            rows < positions,
            f"decoder.n_positions must hold the prefix ({rows}) and a token, got {positions}",
        )

    def _check_clip(self) -> None:
        require_multiple("htsat.spec_size", self.htsat.spec_size, "mel.n_mels", self.mel.n_mels)
        frames, image_frames = self.mel_frames, self.image_frames
        what = f"htsat.spec_size^2 / mel.n_mels must be at most {_MAX_FRAMES}, got {image_frames}"
        require(image_frames <= _MAX_FRAMES, what)
        if self.htsat.pooling == "time":
            what = "htsat.pooling 'time': the last stage's resolution"
            require_multiple(what, self.htsat.side, "htsat.spec_size / mel.n_mels", self.strips)
        # The released stretch refuses to shrink: frames would be skipped, not averaged.
        what = f"clip_seconds must give 2 to {image_frames} frames (the image's), got {frames}"
        require(2 <= frames <= image_frames, what)
        samples, half = self.clip_samples, self.mel.n_fft // 2
        what = f"clip_seconds must be more samples than half of mel.n_fft ({half}), got {samples}"
        require(samples > half, what)

    def _check_mapper(self, name: str, sequence: str | None, because: str) -> None:
        """Check a mapper; ``sequence`` is the kind required if its input is a sequence."""
        mapper: MapperConfig = getattr(self, name)
        width, rows, constant = self.decoder.n_embd, mapper.prefix_length, mapper.constant_length
        for kind in ("transformer_seq", "transformer_time"):
            must = "must" if kind == sequence else "must not"
            require(
                (mapper.kind == kind) == (kind == sequence),
                f"{name}.kind {must} be {kind!r} ({because}), got {mapper.kind!r}",
            )
        if mapper.kind == "mlp":
            outputs = f"{name}.prefix_length * decoder.n_embd"
            require_multiple(outputs, rows * width, "its layers", 2)
            return
        require_multiple("decoder.n_embd", width, f"{name}.num_heads", mapper.num_heads)
        require(
            constant == rows,
            f"{name}.constant_length must equal prefix_length ({rows}), got {constant}",
        )

    @cached_property
    def sample_rate(self) -> int:
        """Sample rate of the windows, Hz."""
        return self.mel.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples from one column of the spectrogram to the next."""
        return self.mel.hop_length

    @cached_property
    def clip_samples(self) -> int:
        """Samples of one clip at ``mel.sample_rate``."""
        return round(self.clip_seconds * self.mel.sample_rate)

    @property
    def mel_frames(self) -> int:
        """STFT frames of one clip (centered: one more than whole hops)."""
        return self.clip_samples // self.mel.hop_length + 1

    @property
    def image_frames(self) -> int:
        """Frames after the stretch: ``spec_size // n_mels`` strips, each ``spec_size`` wide."""
        return self.htsat.spec_size * self.strips

    @property
    def strips(self) -> int:
        """Strips of consecutive time, stacked in the folded image."""
        return exact_div(self.htsat.spec_size, self.mel.n_mels)

    @property
    def audio_steps(self) -> int:
        """Time steps that the audio mapper reads: 1 (the mean), or one per column of each strip."""
        return 1 if self.htsat.pooling == "mean" else self.strips * self.htsat.side

    @cached_property
    def audio_prefix_length(self) -> int:
        """Rows of a window's prefix."""
        return self.audio_mapper.prefix_length

    def prompt_rows(self, tokens: int) -> int:
        """Prefix rows of a prompt: its ``tokens`` themselves, or the mapper's output."""
        return tokens if self.text.kind == "decoder" else self.text_mapper.prefix_length

    @cached_property
    def prefix_length(self) -> int:
        """Rows of the whole prefix: the audio's, then the longest prompt's."""
        return self.audio_prefix_length + self.prompt_rows(self.text.max_length)

    def to_json(self) -> str:
        """JSON text, which :meth:`from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Config from JSON text.

        Raises:
            UsageError: the text is not a JSON object or is too large, a key is unknown, or a value
                is out of bounds or of the wrong type.
        """
        try:
            data = parse(text, _LIMITS)
        except ValueError as error:
            raise UsageError(f"the model config {error}") from None
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Config from plain JSON data. Raises like :meth:`from_json`."""
        return cast("Self", build(cls, data, "config"))

    @classmethod
    def preset(cls, name: str) -> Self:
        """The preset ``name``. Raises like :func:`pengi_rt.config.presets.preset`."""
        return cls.from_dict(preset(name))


def pengi_config(config: FamilyConfig) -> PengiConfig:
    """``config``, which code for Pengi alone knows to be a Pengi model's."""
    assert isinstance(config, PengiConfig), f"{config.family} is not pengi"
    return config
