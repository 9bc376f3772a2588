"""Let the audio graph compute the STFT's kernels from three short tables.

A kernel is ``float32(turn[k * n mod N] * window[n])``, computed in double precision. ONNX Runtime
does that once, when it creates the session, so a small plan does not have to store the kernels. For
``n_fft`` 1024 they take 4.2 MB, and float16 would be too coarse for them
(docs/decisions/0007-weights-at-rest.md).
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pengi_rt.export.weight_table import WeightTable, prepend
from pengi_rt.models.stored_weights import STFT_KERNELS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def compute_stft_kernels(model: onnx.ModelProto, table: WeightTable, n_fft: int) -> None:
    """Let the audio graph compute its kernels, and remove them from the table.

    A kernel that does not come out equal bit for bit stays a weight: a published model may bring
    its own.
    """
    samples = np.arange(n_fft)
    angle = 2 * np.pi / n_fft * samples
    turns = (np.cos(angle), -np.sin(angle))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * samples / n_fft)
    bins = np.arange(n_fft // 2 + 1)[:, None, None]
    for name, turn in zip(STFT_KERNELS, turns, strict=True):
        kernel = (turn[bins * samples % n_fft] * window).astype(np.float32)
        if np.array_equal(kernel, table.tensors[name]):
            _compute(model.graph, name, turn, window, bins)
            del table.tensors[name]


def _compute(graph: onnx.GraphProto, name: str, turn: F64, window: F64, bins: I64) -> None:
    """Replace the input ``name`` with the nodes that compute it."""
    kept = [value for value in graph.input if value.name != name]
    del graph.input[:]
    graph.input.extend(kept)
    n_fft = len(window)
    tables = {
        "turn": turn,
        "window": window,
        "bins": bins,
        "samples": np.arange(n_fft),
        "n_fft": np.array(n_fft),
    }
    for part, array in tables.items():
        graph.initializer.append(numpy_helper.from_array(array, f"{name}.{part}"))
    steps = (
        ("Mul", ("bins", "samples"), "product"),
        ("Mod", ("product", "n_fft"), "phase"),
        ("Gather", ("turn", "phase"), "turned"),
        ("Mul", ("turned", "window"), "windowed"),
    )
    nodes = [
        helper.make_node(op, [f"{name}.{part}" for part in parts], [f"{name}.{result}"])
        for op, parts, result in steps
    ]
    nodes.append(helper.make_node("Cast", [f"{name}.windowed"], [name], to=TensorProto.FLOAT))
    prepend(graph, nodes)
