"""The parts of models that families share, as frozen dataclasses: front end, encoders, decoder.

The defaults are those of Pengi's published ``base``. Values are checked whenever a config is made,
also by :func:`dataclasses.replace`. The bounds leave room for eight times the published sizes, and
keep hostile files from taking unbounded memory or time.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pengi_rt.config.checked import Checked, Within, require, require_below, require_multiple
from pengi_rt.errors import UsageError
from pengi_rt.system.quote import shown

_MAX_FEATURES = 8192  # width of HTSAT's last stage
_MAX_WINDOWED = 4096  # resolution times window: the shift mask holds its square


def exact_div(numerator: int, denominator: int) -> int:
    """``numerator / denominator``, which must divide exactly: a bad geometry fails here."""
    if numerator % denominator:
        raise UsageError(f"{numerator} must be a multiple of {denominator}")
    return numerator // denominator


Heads = Annotated[int, Within(1, 256)]
Layers = Annotated[int, Within(1, 128)]
Width = Annotated[int, Within(1, 8192)]
Tokens = Annotated[int, Within(1, 8192)]  # along a sequence
Vocabulary = Annotated[int, Within(1, 2**19)]
TokenId = Annotated[int, Within(0, 2**19 - 1)]
Ratio = Annotated[int, Within(1, 32)]  # of an MLP's hidden width to its width
Rate = Annotated[int, Within(1_000, 384_000)]  # Hz


@dataclass(frozen=True, slots=True, kw_only=True)
class MelConfig(Checked):
    """The log-mel front end (torchlibrosa's, inside HTSAT).

    The published mel bank is built for 32 kHz (``filter_rate``) and 50-14000 Hz but applied to
    44.1 kHz audio: its filters actually cover 68.9 Hz-19.3 kHz, not what the paper says.
    """

    sample_rate: Rate = 44_100  # of the waveform
    filter_rate: Rate = 32_000  # the rate the mel bank is built for
    n_fft: Annotated[int, Within(2, 8192)] = 1024  # samples, also the window length
    hop_length: Annotated[int, Within(1, 8192)] = 320  # samples
    n_mels: Annotated[int, Within(1, 512)] = 64
    fmin: Annotated[float, Within(0, 192_000)] = 50.0  # Hz at filter_rate
    fmax: Annotated[float, Within(0, 192_000)] = 14_000.0  # Hz at filter_rate

    def _check(self) -> None:
        require(self.n_fft % 2 == 0, f"n_fft must be even, got {self.n_fft}")
        require(
            self.fmin < self.fmax <= self.filter_rate / 2,
            f"fmax must be above fmin ({self.fmin:g}) and at most half of filter_rate "
            f"({self.filter_rate}), got {self.fmax:g}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HTSATConfig(Checked):
    """HTSAT, a Swin transformer on the folded spectrogram (Chen et al., ICASSP 2022).

    ``pooling="mean"`` averages all tokens of the last stage, as published. ``"time"`` (ours, not
    the paper's) pools only over frequency, with a learned layer, which leaves a sequence in time.
    """

    spec_size: Annotated[int, Within(1, 2048)] = 256  # pixels, the side of the folded image
    patch_size: Annotated[int, Within(1, 64)] = 4  # pixels
    embed_dim: Width = 96
    depths: Annotated[tuple[int, ...], Within(1, 64)] = (2, 2, 6, 2)
    num_heads: Annotated[tuple[int, ...], Within(1, 256)] = (4, 8, 16, 32)
    window_size: Annotated[int, Within(1, 64)] = 8  # tokens
    mlp_ratio: Ratio = 4
    pooling: Literal["mean", "time"] = "mean"

    def _check(self) -> None:
        last = len(self.depths) - 1
        require(0 <= last < 8, f"depths must name 1 to 8 stages, got {shown(self.depths)}")
        require(
            len(self.num_heads) == len(self.depths),
            f"num_heads must have one value per stage ({last + 1}), got {shown(self.num_heads)}",
        )
        require_multiple(
            "spec_size", self.spec_size, f"patch_size * 2^{last}", self.patch_size << last
        )
        width = self.num_features
        require(width <= _MAX_FEATURES, f"embed_dim gives a last stage of width {width}: too wide")
        for stage in range(len(self.depths)):
            self._check_stage(self.resolution(stage), self.embed_dim << stage, stage)

    def _check_stage(self, resolution: int, width: int, stage: int) -> None:
        window = min(self.window_size, resolution)
        require(
            resolution % window == 0 and resolution * window <= _MAX_WINDOWED,
            f"window_size must divide the resolution of stage {stage} ({resolution}), "
            f"their product be at most {_MAX_WINDOWED}, got {window}",
        )
        require_multiple(
            f"embed_dim * 2^{stage}", width, f"num_heads[{stage}]", self.num_heads[stage]
        )

    @property
    def num_features(self) -> int:
        """Width of the last stage."""
        return self.embed_dim << (len(self.depths) - 1)

    def resolution(self, stage: int) -> int:
        """Tokens along one side of stage ``stage``."""
        return exact_div(exact_div(self.spec_size, self.patch_size), 2**stage)

    @property
    def side(self) -> int:
        """Tokens along one side of the last stage."""
        return self.resolution(len(self.depths) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig(Checked):
    """How the prompt is read.

    ``clip``: CLIP's text tower, pooled at the first EOS. ``token_embedding``
    (``base_no_text_enc``): rows of the decoder's embedding table; only ``max_length`` and
    ``suffix`` are used. ``decoder`` (the paper's appendix F, first experiment): no encoder,
    no mapper; the prompt's tokens follow the audio prefix, at most ``max_length`` of them.
    """

    kind: Literal["clip", "token_embedding", "decoder"] = "clip"
    max_length: Annotated[int, Within(1, 1024)] = 40  # tokens, BOS and EOS included
    suffix: str = ""  # appended to the prompt before tokenizing
    vocab_size: Vocabulary = 49_408
    hidden_size: Width = 512
    num_layers: Layers = 12
    num_heads: Heads = 8
    intermediate_size: Annotated[int, Within(1, 32_768)] = 2048
    max_positions: Annotated[int, Within(1, 1024)] = 77
    projection_dim: Width = 512  # of CLIP's own text projection
    bos_id: TokenId = 49_406
    eos_id: TokenId = 49_407

    def _check(self) -> None:
        if self.kind != "clip":
            return
        require_multiple("hidden_size", self.hidden_size, "num_heads", self.num_heads)
        require(
            3 <= self.max_length <= self.max_positions,
            f"max_length must be in [3, {self.max_positions}] (max_positions), "
            f"got {self.max_length}",
        )
        require_below("bos_id", self.bos_id, "vocab_size", self.vocab_size)
        require_below("eos_id", self.eos_id, "vocab_size", self.vocab_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapperConfig(Checked):
    """A mapping network: an embedding in, ``prefix_length`` vectors of the decoder's width out.

    ``transformer``: Linear to ``prefix_length`` rows, then attention with as many learned rows
    (``constant_length``), whose outputs are the prefix. ``transformer_seq``: the same without the
    Linear, for a sequence. ``transformer_time`` (ours): for a sequence in time, a Linear for every
    step and learned positions. ``mlp``: Linear, tanh, Linear (ClipCap's). The released code halves
    the configured depth: 8 in the yml is 4 layers.
    """

    kind: Literal["transformer", "transformer_seq", "transformer_time", "mlp"] = "transformer"
    prefix_length: Annotated[int, Within(1, 512)] = 40
    constant_length: Annotated[int, Within(1, 512)] = 40
    num_layers: Layers = 4
    num_heads: Heads = 8
    mlp_ratio: Ratio = 2


@dataclass(frozen=True, kw_only=True)  # without slots, for its cached property
class DecoderConfig(Checked):
    """GPT-2 with tied embeddings and head."""

    vocab_size: Vocabulary = 50_257
    n_positions: Tokens = 1024
    n_embd: Width = 768
    n_layer: Layers = 12
    n_head: Heads = 12

    def _check(self) -> None:
        require_multiple("n_embd", self.n_embd, "n_head", self.n_head)

    @cached_property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return exact_div(self.n_embd, self.n_head)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig(Checked):
    """The defaults of ``generate``."""

    prompt: str = "generate audio caption"
    beam_size: Annotated[int, Within(1, 64)] = 5
    max_new_tokens: Tokens = 67
    temperature: Annotated[float, Within(0.001, 1000)] = 1.0
