"""What a caller can ask of the beam search."""

import math
from dataclasses import dataclass
from typing import Final

from pengi_rt.errors import UsageError

MAX_BEAM_SIZE: Final = 64
MIN_TEMPERATURE: Final = 2.0**-126  # smallest normal float32: divided by it, any logit is finite


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """The options of one search; defaults are the model's (``config.generation``).

    Attributes:
        beam_size: hypotheses kept, 1 to 64; 1 is greedy.
        max_new_tokens: the longest answer in tokens, the stop token counted.
        temperature: divides the logits. 0 or less counts as 1, as released.
        stop_id: the token that ends a hypothesis; -1 for none.
        pad_id: the token that a finished hypothesis goes on with while others are not.

    Raises:
        UsageError: a value is out of its range.
    """

    beam_size: int
    max_new_tokens: int
    temperature: float
    stop_id: int
    pad_id: int

    def __post_init__(self) -> None:
        _check_whole("beam_size", self.beam_size, 1, MAX_BEAM_SIZE)
        _check_whole("max_new_tokens", self.max_new_tokens, 1)
        _check_whole("stop_id", self.stop_id, -1)
        _check_whole("pad_id", self.pad_id, 0)
        if not math.isfinite(self.temperature) or 0 < self.temperature < MIN_TEMPERATURE:
            raise UsageError(
                f"temperature must be finite and at least {MIN_TEMPERATURE:.2g} "
                f"(0 or less counts as 1), got {self.temperature!r}"
            )

    @property
    def divisor(self) -> float:
        """What the logits are divided by."""
        return self.temperature if self.temperature > 0 else 1.0


def _check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not fits or (high is not None and isinstance(value, int) and value > high):
        bound = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise UsageError(f"{name} must be a whole number {bound}, got {value!r}")
