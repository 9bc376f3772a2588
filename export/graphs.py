"""Write a plan's three ONNX graphs and all their weights. A plan without graphs needs no onnx."""

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from pengi_rt.export.decoder_graph import decoder_graph
from pengi_rt.export.encoder_graphs import audio_graph, text_graph
from pengi_rt.export.stft_kernels import compute_stft_kernels
from pengi_rt.export.weight_table import Array, WeightTable, bind
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.stored_weights import as_array
from pengi_rt.plan.manifest import graph_entry, scale_name
from pengi_rt.plan.writer import PlanWriter

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What writes the graphs, and what checks them."""

NARROW: dict[str, np.dtype[Any]] = {
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.float16),
}
"""The type of the rounded matrices, except those that become int8."""


def add_graphs(
    writer: PlanWriter,
    model: Pengi,
    stored: Mapping[str, Array],
    progress: Callable[[str], None],
) -> None:
    """Write the three graphs of ``model``, and each tensor that they use once.

    ``stored`` are the weights as the plan stores them, and ``model`` holds their rounded values.
    """
    state = model.state_dict()
    table = WeightTable({name: as_array(tensor) for name, tensor in state.items()})
    graphs = {}
    for name, build in (("audio", audio_graph), ("text", text_graph)):
        progress(f"exporting the {name} graph")
        graphs[name] = build(model)
        table.absorb(graphs[name], name)
    graphs["decoder"] = decoder_graph(model.config.decoder)
    progress("writing the weights")
    if writer.weights != "fp32":
        compute_stft_kernels(graphs["audio"], table, model.config.mel.n_fft)
        table.narrow(NARROW[writer.weights])
        table.tensors |= _int8_tensors(stored)
    records = writer.add_tensors(table.tensors)
    offsets = {name: record.offset for name, record in records.items()}
    for name, graph in graphs.items():
        writer.add(graph_entry(name), bind(graph, offsets, table.tensors))


def _int8_tensors(stored: Mapping[str, Array]) -> dict[str, Array]:
    """The int8 tensors and their scales."""
    names = [name for name, array in stored.items() if array.dtype == np.int8]
    return {part: stored[part] for name in names for part in (name, scale_name(name))}
