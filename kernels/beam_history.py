"""The state of a beam search on the device: every step's beams, kept side by side.

The state of each step is a row of its own, ``[T + 1, B, W]`` for ``B`` clips, ``W`` beams and at
most ``T`` steps after the first: step ``t`` reads row ``t`` and writes row ``t + 1``. So nothing is
updated in place, and a captured graph of a step may be replayed. :mod:`pengi_rt.kernels.beam_step`
writes it all.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from pengi_rt.kernels.launch import require_tensor
from pengi_rt.kernels.vocab_tiles import MAX_BEAM_SIZE


class BeamHistory(NamedTuple):
    """Every step's beams, best first, and each clip's place in them; all on the device."""

    tokens: Tensor
    """int32 [T + 1, B, W]: what the beam was continued with."""
    sources: Tensor
    """int32 [T + 1, B, W]: the beam of the row before that it continues."""
    averages: Tensor
    """float64 [T + 1, B, W]: mean log-probability per token."""
    scores: Tensor
    """float64 [T + 1, B, W]: sum of the log-probabilities."""
    lengths: Tensor
    """int32 [T + 1, B, W]: tokens, the stop token counted and what follows it not."""
    finished: Tensor
    """int8 [T + 1, B, W]: whether the stop token was chosen."""
    ancestry: Tensor
    """int32 [T + 1, B, W, T]: ``ancestry[t, b, w, i]``, ``i < t``, is the beam in whose slot of the
    cache row ``w`` finds position ``i`` of its history. What lies behind is never written."""
    position: Tensor
    """int32 [B]: steps done, the first one not counted."""
    done: Tensor
    """int32 [B]: tokens when all beams were first finished, 0 before."""
    broken: Tensor
    """int32 [B]: 1 once a beam that was not finished had NaN or no finite logit."""

    @classmethod
    def empty(cls, steps: int, clips: int, beams: int, device: torch.device | str) -> Self:
        """Buffers for ``steps`` tokens after the first one."""
        shape = (steps + 1, clips, beams)
        i32, f64 = torch.int32, torch.float64
        kinds = (i32, i32, f64, f64, i32, torch.int8)
        rows = [torch.empty(shape, dtype=kind, device=device) for kind in kinds]
        ancestry = torch.empty((*shape, steps), dtype=i32, device=device)
        places = [torch.empty(clips, dtype=i32, device=device) for _ in range(3)]
        return cls._make([*rows, ancestry, *places])


def check_history(history: BeamHistory) -> tuple[int, int, int]:
    """``T``, ``B`` and ``W``; raises ValueError unless the buffers fit each other."""
    rows, clips, beams = shape = history.tokens.shape
    if rows < 1 or not 1 <= beams <= MAX_BEAM_SIZE:
        raise ValueError(f"history must be of rows of 1 to {MAX_BEAM_SIZE} beams, got {shape}")
    kinds = {"averages": torch.float64, "scores": torch.float64, "finished": torch.int8}
    for name in ("tokens", "sources", "averages", "scores", "lengths", "finished"):
        dtype = kinds.get(name, torch.int32)
        require_tensor(f"history.{name}", getattr(history, name), tuple(shape), dtype)
    table = (rows, clips, beams, rows - 1)
    require_tensor("history.ancestry", history.ancestry, table, torch.int32)
    for name in ("position", "done", "broken"):
        require_tensor(f"history.{name}", getattr(history, name), (clips,), torch.int32)
    return rows - 1, clips, beams
