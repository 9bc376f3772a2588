"""The packed linear layer against PyTorch's, on the decoder's shapes: one step, and a prefill.

All contenders take turns in one process with two threads. The weights of small layers may stay in
the caches here; bench_cpu_decoder.py's steps read all of a model's weights from memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from caption import BEAMS, THREADS, machine, seconds

from pengi_rt.kernels.packed_linear import PackedLinear, instruction_sets

ROUNDS = 30
PRECISIONS = ("fp32", "bf16", "int8")
SHAPES = {"qkv": (768, 2304), "up": (768, 3072), "down": (3072, 768), "head": (768, 50_257)}


@pytest.mark.parametrize("rows", [1, BEAMS, 80])
@pytest.mark.parametrize("layer", SHAPES)
@pytest.mark.benchmark(group="packed linear")
def test_packed_linear(benchmark: Any, layer: str, rows: int) -> None:
    torch.set_num_threads(THREADS)
    inputs, outputs = SHAPES[layer] if benchmark.enabled else (64, 96)
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(inputs, outputs)).astype(np.float32)
    bias = generator.normal(size=outputs).astype(np.float32)
    x = generator.normal(size=(rows, inputs)).astype(np.float32)
    tensors = torch.from_numpy(x), torch.from_numpy(weight).mT.contiguous(), torch.from_numpy(bias)
    calls: dict[str, Callable[[], object]] = {"torch": lambda: torch.nn.functional.linear(*tensors)}
    for precision in PRECISIONS:
        packed = PackedLinear(weight, bias, precision=precision, threads=THREADS)
        calls[precision] = lambda packed=packed: packed(x)  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in calls}

    def all_in_turn() -> None:
        for name, call in calls.items():
            times[name].append(seconds(call))

    with torch.inference_mode():
        benchmark.pedantic(all_in_turn, rounds=ROUNDS if benchmark.enabled else 1, warmup_rounds=2)
    best = {name: min(each) for name, each in times.items()}
    benchmark.extra_info.update(
        {f"{name}_s": value for name, value in best.items()}
        | {f"torch_over_{precision}": best["torch"] / best[precision] for precision in PRECISIONS}
        | {"rows": rows, "inputs": inputs, "outputs": outputs, "threads": THREADS}
        | {"instructions": instruction_sets()[0], **machine()}
    )
