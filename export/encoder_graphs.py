"""The encoders' ONNX graphs, made by PyTorch's exporter with dynamic batch and prompt length.

``audio`` maps ``wave`` [B, clip_samples] to ``joint_embedding`` and ``prefix``; ``text`` maps
``ids`` [B, T] to the same two outputs.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping

import onnx
import torch
from torch import Tensor, nn

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.export.decoder_graph import OPSET
from pengi_rt.models.pengi import Pengi


class _Audio(nn.Module):
    def __init__(self, model: Pengi) -> None:
        super().__init__()
        self.model = model

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        embedding, prefix = self.model.encode_audio(wave)
        return embedding, prefix


class _Text(nn.Module):
    def __init__(self, model: Pengi) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        embedding, prefix = self.model.encode_text(ids)
        return embedding, prefix


def audio_graph(model: Pengi) -> onnx.ModelProto:
    """Export the audio encoder: waveform to embedding and prefix."""
    wave = torch.zeros(2, model.config.clip_samples)
    return _export(_Audio(model), wave, "wave", {0: torch.export.Dim("B")})


def text_graph(model: Pengi) -> onnx.ModelProto:
    """Export the text encoder: token ids to embedding and prefix.

    Prompts may have any length, except with ``token_embedding``, whose length is fixed.
    """
    config = model.config.text
    dims = {0: torch.export.Dim("B")}
    if config.kind == "clip":
        dims[1] = torch.export.Dim("T", min=2, max=config.max_positions)
    elif config.kind == "decoder":
        dims[1] = torch.export.Dim("T")
    ids = _sample_ids(model.config)
    return _export(_Text(model), ids, "ids", dims)


def _sample_ids(config: PengiConfig) -> Tensor:
    if config.text.kind == "token_embedding":
        return torch.zeros(2, config.text.max_length, dtype=torch.int64)
    ids = torch.full((2, 5), config.text.eos_id)
    ids[:, 0] = config.text.bos_id
    ids[:, 1:3] = 1
    return ids


def _export(
    module: nn.Module, sample: Tensor, name: str, dims: Mapping[int, object]
) -> onnx.ModelProto:
    # The exporter prints its own steps and warns about its internals; hide both.
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        _quiet("torch.onnx", "onnxscript", "onnx_ir"),
    ):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (sample,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[name],
            output_names=["joint_embedding", "prefix"],
            dynamic_shapes=(dict(dims),),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model.graph)
    return model


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Let these loggers report only errors inside the ``with`` block."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(graph: onnx.GraphProto) -> None:
    """Drop the source location of each node: five times the size of the graph itself."""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
