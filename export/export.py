"""Checkpoint to plan: read, export the three graphs, write, and test what was written."""

import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

import pengi_rt
from pengi_rt.backends.onnx import OnnxBackend
from pengi_rt.backends.torch import TorchBackend
from pengi_rt.errors import CheckpointError, ExportError, UsageError
from pengi_rt.export.checkpoint import load_model
from pengi_rt.export.decoder_graph import decoder_graph
from pengi_rt.export.encoder_graphs import audio_graph, text_graph
from pengi_rt.export.self_test import Check, report, run_self_test
from pengi_rt.export.tokenizers import find_tokenizers
from pengi_rt.export.transform import compute_transform
from pengi_rt.export.weights import WeightTable, bind
from pengi_rt.models.half import rounded
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan import Plan
from pengi_rt.plan_format import Source
from pengi_rt.plan_writer import PlanWriter
from pengi_rt.text import PromptTokenizer

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
StoredPrecision = Literal["fp32", "fp16"]

STEPS = 5
"""How often ``progress`` is called."""

LICENCE_NOTE = """\
The weights in this plan were exported from {file} (sha256 {sha256}).
They keep the licence of whoever published them; pengi-rt adds none.
If they are the published Pengi weights, theirs is at https://zenodo.org/records/8387083.
"""


def export_plan(
    checkpoint: Path,
    output: Path,
    *,
    tokenizers: Path | None = None,
    precision: StoredPrecision = "fp32",
    threads: int | None = None,
    progress: Progress = lambda _: None,
) -> tuple[Check, ...]:
    """Write ``output`` from ``checkpoint`` and return the self-test's checks.

    ``precision`` says how the plan stores its weights: with ``fp16`` they are rounded
    (:mod:`pengi_rt.models.half`), and what the plan computes, in float32, is compared with the
    rounded model.

    Raises:
        CheckpointError: the checkpoint is refused, or float16 does not hold its weights.
        TokenizerError: its tokenizers are not to be had.
        PlanError: the plan cannot be written.
        UsageError: there is no such ``precision``.
        ExportError: the written plan does not compute what the model computes; no plan is left.
    """
    progress("reading the checkpoint")
    model, read = load_model(checkpoint)
    if read.converted and precision == "fp32":
        logger.warning("%d tensors of another precision become float32", len(read.converted))
    if read.left_out:
        logger.info("left out, known and not needed: %s", ", ".join(read.left_out))
    files = find_tokenizers(read.config, tokenizers, read.tokenizers)
    source = Source(file=checkpoint.name, sha256=read.sha256)
    return write_plan(
        model, files, source, output, precision=precision, threads=threads, progress=progress
    )


def write_plan(
    model: Pengi,
    tokenizers: Mapping[str, bytes],
    source: Source,
    output: Path,
    *,
    precision: StoredPrecision = "fp32",
    threads: int | None = None,
    progress: Progress = lambda _: None,
) -> tuple[Check, ...]:
    """Write ``output`` from a model in memory. Returns and raises as :func:`export_plan`."""
    if precision not in get_args(StoredPrecision):
        known = " or ".join(get_args(StoredPrecision))
        raise UsageError(f"a plan stores its weights as {known}, not as {precision!r}")
    if precision == "fp16":
        model = _rounded(model, source)
    with PlanWriter(
        output,
        model.config,
        source=source,
        tools=_tools(),
        backends=("onnx", "torch"),
        precision=precision,
    ) as writer:
        _write(writer, model, progress)
        for name, text in tokenizers.items():
            writer.add(f"tokenizers/{name}.json", text)
        note = LICENCE_NOTE.format(file=source.file, sha256=source.sha256)
        writer.add("licences/weights.txt", note.encode())
        progress("self-test")
        checks = _test(writer.seal(), model, threads)
        _refuse_failed(checks)
        writer.seal(self_test=report(checks))
        writer.commit()
    return checks


def _rounded(model: Pengi, source: Source) -> Pengi:
    try:
        return rounded(model)
    except CheckpointError as error:
        raise CheckpointError(f"{source.file}: cannot become an fp16 plan: {error}") from None


def _write(writer: PlanWriter, model: Pengi, progress: Progress) -> None:
    """The three graphs, and the tensors of all of them once."""
    state = model.state_dict()
    table = WeightTable({name: tensor.contiguous().numpy() for name, tensor in state.items()})
    graphs = {}
    for name, build in (("audio", audio_graph), ("text", text_graph)):
        progress(f"exporting the {name} graph")
        graphs[name] = build(model)
        table.absorb(graphs[name], name)
    graphs["decoder"] = decoder_graph(model.config.decoder)
    progress("writing the weights")
    if writer.precision == "fp16":
        compute_transform(graphs["audio"], table, model.config.mel.n_fft)
        table.halve()
    records = writer.add_tensors(table.tensors)
    offsets = {name: record.offset for name, record in records.items()}
    for name, graph in graphs.items():
        writer.add(f"graphs/{name}.onnx", bind(graph, offsets, table.tensors))


def _refuse_failed(checks: Sequence[Check]) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        worst = max(failed, key=lambda check: check.strain)
        raise ExportError(
            f"the plan failed its self-test, nothing was written: {worst.stage} (batch "
            f"{worst.batch}) differs by {worst.difference:.2g}, allowed {worst.tolerance:.2g}; "
            f"{len(failed)} of {len(checks)} checks failed"
        )


def _test(path: Path, model: Pengi, threads: int | None) -> tuple[Check, ...]:
    with Plan.open(path) as plan:
        backend = OnnxBackend(plan, threads=threads)
        tokenizer = PromptTokenizer(plan.tokenizer("text"), plan.config)
        try:
            checks = run_self_test(backend, TorchBackend(model), tokenizer)
        except ValueError as error:
            raise ExportError(
                f"the model cannot be searched, nothing was written: {error}; "
                "its weights are broken"
            ) from None
        backend.close()
    return checks


def _tools() -> dict[str, str]:
    packages = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "numpy")
    versions = {package: version(package) for package in packages}
    return {"pengi-rt": pengi_rt.__version__, "python": platform.python_version(), **versions}
