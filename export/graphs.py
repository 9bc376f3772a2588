"""A plan's graphs and all their weights. Needs onnx; writing a plan without graphs does not."""

from collections.abc import Callable, Mapping

import numpy as np

from pengi_rt.export.arrays import NARROW, array_of
from pengi_rt.export.decoder_graph import decoder_graph
from pengi_rt.export.encoder_graphs import audio_graph, text_graph
from pengi_rt.export.transform import compute_transform
from pengi_rt.export.weights import Array, WeightTable, bind
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan.manifest import graph_entry, scale_name
from pengi_rt.plan.writer import PlanWriter


def add_graphs(
    writer: PlanWriter,
    model: Pengi,
    stored: Mapping[str, Array],
    progress: Callable[[str], None],
) -> None:
    """Write the three graphs of ``model``, and the tensors of all of them once.

    ``stored`` are the model's weights as the plan stores them; the model has what that leaves.
    """
    state = model.state_dict()
    table = WeightTable({name: array_of(tensor) for name, tensor in state.items()})
    graphs = {}
    for name, build in (("audio", audio_graph), ("text", text_graph)):
        progress(f"exporting the {name} graph")
        graphs[name] = build(model)
        table.absorb(graphs[name], name)
    graphs["decoder"] = decoder_graph(model.config.decoder)
    progress("writing the weights")
    if writer.precision != "fp32":
        compute_transform(graphs["audio"], table, model.config.mel.n_fft)
        table.narrow(NARROW[writer.precision])
        table.tensors |= _quantised(stored)
    records = writer.add_tensors(table.tensors)
    offsets = {name: record.offset for name, record in records.items()}
    for name, graph in graphs.items():
        writer.add(graph_entry(name), bind(graph, offsets, table.tensors))


def _quantised(stored: Mapping[str, Array]) -> dict[str, Array]:
    """What is int8, and its scales."""
    names = [name for name, array in stored.items() if array.dtype == np.int8]
    return {part: stored[part] for name in names for part in (name, scale_name(name))}
