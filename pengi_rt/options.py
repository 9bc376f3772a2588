"""What ``Engine.generate`` can be told besides the recording and the prompt."""

from typing import TypedDict

from pengi_rt.audio import LongAudio


class Options(TypedDict, total=False):
    """What ``generate`` can be told; ``None`` stands for the plan's own default."""

    text: str
    """Additional text behind the prefix, which the answer continues (paper, appendix A)."""
    beam_size: int | None
    """Hypotheses kept; 1 is greedy."""
    max_new_tokens: int | None
    """The longest answer, in tokens."""
    temperature: float | None
    """Divides the logits; 0 or less counts as 1, as released."""
    stop: str | None
    """The text whose first token ends an answer."""
    long_audio: LongAudio
    """What to do with a recording longer than the model's clip."""
    seed: int
    """Of the random crop (``long_audio`` "random" and "compat")."""
    resample: bool
    """False takes the samples as they are, whatever the file's rate (``long_audio`` "compat")."""
    strict: bool
    """Refuse a prompt over the encoder's limit instead of cutting it."""
    batch_size: int
    """Windows answered together."""


DEFAULTS = Options(
    text="",
    beam_size=None,
    max_new_tokens=None,
    temperature=None,
    stop=None,
    long_audio="windows",
    seed=0,
    resample=True,
    strict=False,
    batch_size=8,
)
