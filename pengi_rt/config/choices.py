"""The values that an option may take, on the command line and in Python."""

from typing import Final, Literal, get_args

WeightsName = Literal["fp32", "fp16", "bf16", "int8"]
"""How a plan stores its weights."""

WEIGHTS_NAMES: Final[tuple[str, ...]] = get_args(WeightsName)

LongAudio = Literal["windows", "first", "center", "random", "compat"]
"""How a recording longer than the model's clip is read.

``windows`` reads all of it; ``first``, ``center`` and ``random`` read one clip; ``compat`` reads
one clip at the released wrapper's random position. A last window that would begin less than one
hop of the mel spectrogram (some milliseconds) after the window before it would add nothing new and
is left out.
"""
