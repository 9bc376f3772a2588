# The native kernels (kernels/csrc); call them through pengi_rt.kernels, which documents them.

import numpy as np
from numpy.typing import NDArray

def beam_step(
    logits: NDArray[np.float32],
    scores: NDArray[np.float64],
    lengths: NDArray[np.int32],
    finished: NDArray[np.bool_],
    beam_size: int,
    temperature: float,
    stop_id: int,
    pad_id: int,
) -> tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.int32],
    NDArray[np.bool_],
]: ...
def update_ancestry(
    ancestry: NDArray[np.int32], sources: NDArray[np.int64], position: int
) -> None: ...
