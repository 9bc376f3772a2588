"""Options of the beam search and of sampling, their limits, and whether they fit a decoder."""

import math
from dataclasses import dataclass
from typing import Final

from pengi_rt.config.checked import whole
from pengi_rt.config.parts import DecoderConfig
from pengi_rt.errors import UsageError

MAX_BEAM_SIZE: Final = 64
MAX_SAMPLES: Final = 64
MIN_TEMPERATURE: Final = 2.0**-126  # smallest normal float32: any logit divided by it is finite


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """Options of the beam search; the plan's ``config.generation`` has the defaults.

    Attributes:
        beam_size: hypotheses kept, 1 to 64; 1 is greedy.
        max_new_tokens: the longest answer in tokens, including the stop token.
        temperature: divides the logits. 0 or less counts as 1, as released.
        stop_id: the token that ends a hypothesis; -1 for none.
        pad_id: fills a finished hypothesis while others are unfinished.

    Raises:
        UsageError: a value is out of its range.
    """

    beam_size: int
    max_new_tokens: int
    temperature: float
    stop_id: int
    pad_id: int

    def __post_init__(self) -> None:
        whole("beam_size", self.beam_size, 1, MAX_BEAM_SIZE)
        _check_ends(self.max_new_tokens, self.stop_id, self.pad_id)
        check_temperature(self.temperature, drawn=False)

    @property
    def divisor(self) -> float:
        """The divisor of the logits: the temperature, or 1."""
        return self.temperature if self.temperature > 0 else 1.0

    @property
    def width(self) -> int:
        """Decoder rows per clip."""
        return self.beam_size


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleOptions:
    """Options of sampling: temperature first, then top-k, then top-p.

    Attributes:
        samples: answers per clip, 1 to 64.
        max_new_tokens: the longest answer in tokens, including the stop token.
        temperature: divides the logits; above 0.
        top_k: sample from this many likeliest tokens; ``None`` for all.
        top_p: sample from the fewest likeliest tokens whose mass (after top-k) reaches it, in
            (0, 1]; ``None`` for all.
        seed: the same seed gives the same answers, whatever else is in the batch.
        stop_id: the token that ends an answer; -1 for none.
        pad_id: fills a finished sample while others are unfinished.

    Raises:
        UsageError: a value is out of its range.
    """

    samples: int
    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    stop_id: int
    pad_id: int

    def __post_init__(self) -> None:
        whole("samples", self.samples, 1, MAX_SAMPLES)
        _check_ends(self.max_new_tokens, self.stop_id, self.pad_id)
        whole("seed", self.seed, 0)
        if self.top_k is not None:
            whole("top_k", self.top_k, 1)
        check_top_p(self.top_p)
        check_temperature(self.temperature, drawn=True)

    @property
    def width(self) -> int:
        """Decoder rows per clip."""
        return self.samples


def check_fits(
    prefix: int, options: DecodeOptions | SampleOptions, decoder: "DecoderConfig"
) -> None:
    """Refuse options that exceed the decoder.

    Raises:
        UsageError: the prefix and the new tokens exceed its positions, or the beams its vocabulary.
    """
    if prefix + options.max_new_tokens > decoder.n_positions:
        raise UsageError(
            f"a prefix of {prefix} rows and max_new_tokens {options.max_new_tokens} exceed the "
            f"decoder's {decoder.n_positions} positions: shorten the text or ask for fewer tokens"
        )
    if isinstance(options, DecodeOptions) and options.beam_size > decoder.vocab_size:
        raise UsageError(
            f"beam_size must be at most the vocabulary's {decoder.vocab_size} tokens, "
            f"got {options.beam_size}"
        )


def check_temperature(temperature: float, *, drawn: bool) -> None:
    """Check the temperature of a search, or of sampling (``drawn``).

    Raises:
        UsageError: the temperature is not finite, or is too small.
    """
    if drawn and not MIN_TEMPERATURE <= temperature < math.inf:
        raise UsageError(
            f"temperature must be finite and at least {MIN_TEMPERATURE:.2g} to sample "
            f"(greedy is beam_size 1), got {temperature!r}"
        )
    if not math.isfinite(temperature) or 0 < temperature < MIN_TEMPERATURE:
        raise UsageError(
            f"temperature must be finite and at least {MIN_TEMPERATURE:.2g} "
            f"(0 or less counts as 1), got {temperature!r}"
        )


def check_top_p(top_p: float | None) -> None:
    """Check a probability mass. Raises UsageError unless it is None or in (0, 1]."""
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"top_p must be above 0 and at most 1, got {top_p!r}")


def _check_ends(max_new_tokens: int, stop_id: int, pad_id: int) -> None:
    whole("max_new_tokens", max_new_tokens, 1)
    whole("stop_id", stop_id, -1)
    whole("pad_id", pad_id, 0)
