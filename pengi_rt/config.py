"""What a model is: every number in which models differ, in frozen dataclasses.

A :class:`ModelConfig` travels with the weights (in our checkpoints and in the plan) as JSON. The
presets give the two published models and ``tiny``, a small one with the same quirks for tests and
the demo.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from pengi_rt.errors import UsageError


def exact_div(numerator: int, denominator: int) -> int:
    """``numerator / denominator``, which must come out even: a bad geometry fails here."""
    if numerator % denominator:
        raise UsageError(f"{numerator} must be a multiple of {denominator}")
    return numerator // denominator


@dataclass(frozen=True, slots=True, kw_only=True)
class MelConfig:
    """The log-mel front end (torchlibrosa's, inside HTSAT).

    The published mel bank is built for ``filter_rate`` 32 kHz and 50-14000 Hz and applied to 44.1
    kHz audio, so its filters really cover 68.9 Hz-19.3 kHz. The paper says otherwise; the released
    weights decide.
    """

    sample_rate: int = 44_100  # Hz, of the waveform
    filter_rate: int = 32_000  # Hz, the rate the mel bank is built for
    n_fft: int = 1024  # samples, also the window length
    hop_length: int = 320  # samples
    n_mels: int = 64
    fmin: float = 50.0  # Hz at filter_rate
    fmax: float = 14_000.0  # Hz at filter_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class HTSATConfig:
    """HTSAT, a Swin transformer on the folded spectrogram (Chen et al., ICASSP 2022)."""

    spec_size: int = 256  # pixels, the side of the folded image
    patch_size: int = 4  # pixels
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 8  # tokens
    mlp_ratio: int = 4
    pooling: Literal["mean"] = "mean"  # over the tokens of the last stage

    @property
    def num_features(self) -> int:
        """Width of the last stage."""
        return self.embed_dim << (len(self.depths) - 1)

    def resolution(self, stage: int) -> int:
        """Tokens along one side of stage ``stage``."""
        return exact_div(exact_div(self.spec_size, self.patch_size), 2**stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """How the prompt is read.

    ``kind="clip"``: CLIP's text tower, pooled at the first EOS. ``kind="token_embedding"``
    (``base_no_text_enc``): no encoder, rows of the decoder's embedding table; then only
    ``max_length`` and ``suffix`` mean anything.
    """

    kind: Literal["clip", "token_embedding"] = "clip"
    max_length: int = 40  # tokens, BOS and EOS included
    suffix: str = ""  # put behind the prompt before tokenising
    vocab_size: int = 49_408
    hidden_size: int = 512
    num_layers: int = 12
    num_heads: int = 8
    intermediate_size: int = 2048
    max_positions: int = 77
    projection_dim: int = 512  # of CLIP's own text projection
    bos_id: int = 49_406
    eos_id: int = 49_407


@dataclass(frozen=True, slots=True, kw_only=True)
class MapperConfig:
    """A mapping network: an embedding in, ``prefix_length`` vectors of the decoder's width out.

    ``transformer``: Linear to ``prefix_length`` rows, then attention with ``constant_length``
    learned rows, whose outputs are the prefix. ``transformer_seq``: the same without the Linear;
    its input already is a sequence. ``mlp``: Linear, tanh, Linear (ClipCap's). The released code
    halves the configured depth: 8 in the yml is 4 layers.
    """

    kind: Literal["transformer", "transformer_seq", "mlp"] = "transformer"
    prefix_length: int = 40
    constant_length: int = 40
    num_layers: int = 4
    num_heads: int = 8
    mlp_ratio: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """GPT-2 with tied embeddings and head."""

    vocab_size: int = 50_257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return exact_div(self.n_embd, self.n_head)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """What ``generate`` does when the caller does not say."""

    prompt: str = "generate audio caption"
    beam_size: int = 5
    max_new_tokens: int = 67
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A whole Pengi: everything the runtime needs to know besides the weights."""

    name: str = "base"
    clip_seconds: float = 7.0
    mel: MelConfig = field(default_factory=MelConfig)
    htsat: HTSATConfig = field(default_factory=HTSATConfig)
    text: TextConfig = field(default_factory=TextConfig)
    d_proj: int = 1024  # width of the joint space
    normalize_audio: bool = True  # L2, before the audio mapper
    normalize_text: bool = False  # the released wrapper does not, although training did
    audio_mapper: MapperConfig = field(default_factory=MapperConfig)
    text_mapper: MapperConfig = field(default_factory=MapperConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    stop_id: int = 220  # a lone space: the first id of " <|endoftext|>"
    pad_id: int = 0  # "!": what a finished beam continues with
    generation: GenerationConfig = field(default_factory=GenerationConfig)

    @property
    def clip_samples(self) -> int:
        """Samples of one clip at ``mel.sample_rate``."""
        return round(self.clip_seconds * self.mel.sample_rate)

    @property
    def mel_frames(self) -> int:
        """STFT frames of one clip (centred: one more than whole hops)."""
        return self.clip_samples // self.mel.hop_length + 1

    @property
    def image_frames(self) -> int:
        """Frames after the stretch: ``spec_size // n_mels`` strips, each ``spec_size`` wide."""
        return self.htsat.spec_size * exact_div(self.htsat.spec_size, self.mel.n_mels)

    @property
    def prefix_length(self) -> int:
        """Rows of the whole prefix: audio first, then text."""
        return self.audio_mapper.prefix_length + self.text_mapper.prefix_length

    def to_json(self) -> str:
        """JSON text; :meth:`from_json` gives an equal config back."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Config from JSON text.

        Raises:
            UsageError: it is no JSON object, has a key we do not know, or a value of another type.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise UsageError(f"the model config is not JSON: {error}") from None
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Config from what ``json`` makes of :meth:`to_json`. Raises as :meth:`from_json`."""
        config = _build(cls, data, "config")
        assert isinstance(config, cls)
        return config

    @classmethod
    def preset(cls, name: str) -> Self:
        """One of :data:`PRESETS` by name.

        Raises:
            UsageError: there is no such preset.
        """
        if name not in PRESETS:
            raise UsageError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}")
        return cls.from_dict(PRESETS[name])


def _build(cls: type, data: object, where: str) -> object:
    """An instance of dataclass ``cls`` from plain JSON data, checked key by key."""
    if not isinstance(data, dict):
        raise UsageError(f"{where} must be an object, got {type(data).__name__}")
    hints = get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise UsageError(
            f"{where} has unknown keys {', '.join(map(repr, unknown))}; known: {', '.join(hints)}"
        )
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def _value(hint: Any, value: object, where: str) -> object:
    """``value`` as the type ``hint`` of a field asks for it."""
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _build(hint, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(get_args(hint)[0], item, where) for item in value)
    if origin is Literal and value in get_args(hint):
        return value
    if origin in (Union, UnionType) and value is None:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise UsageError(f"{where} must be {hint if origin else hint.__name__}, got {value!r}")


PRESETS: dict[str, dict[str, Any]] = {
    "base": {},
    "base_no_text_enc": {
        "name": "base_no_text_enc",
        "text": {"kind": "token_embedding", "suffix": " <|endoftext|>"},
        "text_mapper": {"kind": "transformer_seq"},
    },
    # Small, with the same quirks: another rate for the bank than for the audio, a stretch that is
    # no identity, a shifted and an unshifted last stage, halved mapper, the text embedding left
    # unnormalised, stop id 220.
    "tiny": {
        "name": "tiny",
        "clip_seconds": 2.0,
        "mel": {"sample_rate": 16_000, "filter_rate": 12_000, "n_fft": 256, "hop_length": 160,
                "n_mels": 16, "fmin": 50.0, "fmax": 5_500.0},
        "htsat": {"spec_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [1, 2]},
        "text": {"vocab_size": 512, "hidden_size": 32, "num_layers": 2, "num_heads": 2,
                 "intermediate_size": 64, "max_positions": 40, "projection_dim": 32,
                 "bos_id": 510, "eos_id": 511},
        "d_proj": 48,
        "audio_mapper": {"prefix_length": 8, "constant_length": 8, "num_layers": 1, "num_heads": 4},
        "text_mapper": {"prefix_length": 8, "constant_length": 8, "num_layers": 1, "num_heads": 4},
        "decoder": {"vocab_size": 512, "n_positions": 128, "n_embd": 64, "n_layer": 2, "n_head": 4},
    },
}  # fmt: skip
"""The presets, as JSON data over the defaults above (which are the published ``base``)."""
