"""The state of a beam search on the device: the beams of every step, side by side.

Buffers are ``[T + 1, B, W]`` for ``B`` clips, ``W`` beams and at most ``T`` steps after the first.
Step ``t`` reads row ``t`` and writes row ``t + 1``, so nothing is updated in place and a captured
graph of a step can be replayed. :mod:`pengi_rt.kernels.beam_step` writes all of it.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from pengi_rt.kernels.launch import require_tensor
from pengi_rt.kernels.vocab_tiles import MAX_BEAM_SIZE


class BeamHistory(NamedTuple):
    """The beams of every step, best first, and each clip's position; all on the device."""

    tokens: Tensor
    """int32 [T + 1, B, W]: the token that continues the beam."""
    sources: Tensor
    """int32 [T + 1, B, W]: the beam of the previous row that it continues."""
    averages: Tensor
    """float64 [T + 1, B, W]: mean log-probability per token."""
    scores: Tensor
    """float64 [T + 1, B, W]: sum of the log-probabilities."""
    lengths: Tensor
    """int32 [T + 1, B, W]: tokens up to and including the stop token."""
    finished: Tensor
    """int8 [T + 1, B, W]: whether the stop token was chosen."""
    ancestry: Tensor
    """int32 [T + 1, B, W, T]: ``ancestry[t, b, w, i]``, ``i < t``, is the beam whose cache slot
    holds position ``i`` of the history of beam ``w``. Entries with ``i >= t`` are never written."""
    position: Tensor
    """int32 [B]: steps done after the first one."""
    done: Tensor
    """int32 [B]: tokens when all beams were first finished, 0 before."""
    broken: Tensor
    """int32 [B]: 1 once an unfinished beam had a NaN among its logits, or no finite one."""

    @classmethod
    def empty(cls, steps: int, clips: int, beams: int, device: torch.device | str) -> Self:
        """Buffers for ``steps`` tokens after the first one."""
        shape = (steps + 1, clips, beams)
        i32, f64 = torch.int32, torch.float64
        kinds = (i32, i32, f64, f64, i32, torch.int8)
        per_beam = [torch.empty(shape, dtype=kind, device=device) for kind in kinds]
        ancestry = torch.empty((*shape, steps), dtype=i32, device=device)
        per_clip = [torch.empty(clips, dtype=i32, device=device) for _ in range(3)]
        return cls._make([*per_beam, ancestry, *per_clip])


def check_history(history: BeamHistory) -> tuple[int, int, int]:
    """``T``, ``B`` and ``W``; raises ValueError unless the buffers fit each other."""
    rows, clips, beams = shape = history.tokens.shape
    if rows < 1 or not 1 <= beams <= MAX_BEAM_SIZE:
        raise ValueError(f"history must have rows of 1 to {MAX_BEAM_SIZE} beams, got {shape}")
    kinds = {"averages": torch.float64, "scores": torch.float64, "finished": torch.int8}
    for name in ("tokens", "sources", "averages", "scores", "lengths", "finished"):
        dtype = kinds.get(name, torch.int32)
        require_tensor(f"history.{name}", getattr(history, name), tuple(shape), dtype)
    table = (rows, clips, beams, rows - 1)
    require_tensor("history.ancestry", history.ancestry, table, torch.int32)
    for name in ("position", "done", "broken"):
        require_tensor(f"history.{name}", getattr(history, name), (clips,), torch.int32)
    return rows - 1, clips, beams
