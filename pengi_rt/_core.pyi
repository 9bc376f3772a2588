# The native kernels (kernels/csrc); call them through pengi_rt.kernels, which documents them.

from typing import TypeAlias

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
def instruction_sets() -> list[str]: ...

class PackedLinear:
    def __init__(
        self,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        *,
        precision: str,
        instructions: str,
        threads: int,
    ) -> None: ...
    def apply(
        self, x: NDArray[np.float32], residual: NDArray[np.float32] | None, gelu: bool
    ) -> NDArray[np.float32]: ...

_Pair: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]

class Gpt2Cache: ...

class Gpt2:
    def __init__(
        self, *, width: int, heads: int, vocab: int, precision: str, instructions: str, threads: int
    ) -> None: ...
    def add_layer(
        self, *, norm_1: _Pair, qkv: _Pair, projection: _Pair, norm_2: _Pair, up: _Pair, down: _Pair
    ) -> None: ...
    def set_head(self, norm: _Pair, table: NDArray[np.float32]) -> None: ...
    def new_cache(
        self, *, slots: int, width: int, prefix_rows: int, new_tokens: int
    ) -> Gpt2Cache: ...
    def prefill(
        self,
        cache: Gpt2Cache,
        slots: list[int],
        lengths: list[int],
        rows: NDArray[np.float32],
    ) -> NDArray[np.float32]: ...
    def step(
        self,
        cache: Gpt2Cache,
        rows: NDArray[np.float32],
        parents: NDArray[np.int64],
        lengths: NDArray[np.int64],
        generated: NDArray[np.int64],
        logits: NDArray[np.float32],
    ) -> None: ...
