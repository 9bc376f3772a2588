"""Checkpoint to plan: read, round, export the graphs, write, and test what was written."""

import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from pengi_rt.backends.onnx import OnnxBackend
from pengi_rt.backends.protocol import Backend
from pengi_rt.backends.registry import backends as known
from pengi_rt.backends.registry import open_backend
from pengi_rt.backends.torch import TorchBackend
from pengi_rt.config.choices import PRECISIONS, PrecisionName
from pengi_rt.errors import CheckpointError, ExportError, UsageError
from pengi_rt.export.arrays import array_of
from pengi_rt.export.checkpoint import load_model
from pengi_rt.export.self_test import Check, report, run_self_test
from pengi_rt.export.tokenizers import find_tokenizers
from pengi_rt.models.at_rest import restored, stored
from pengi_rt.models.checkpoint import without_transform
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan.manifest import Source, tokenizer_entry
from pengi_rt.plan.reader import Plan
from pengi_rt.plan.writer import PlanWriter
from pengi_rt.system.version import __version__
from pengi_rt.text.tokenizers import PromptTokenizer

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
USUAL = ("onnx", "torch")
"""The backends that a plan is for when none is named."""

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
    precision: PrecisionName = "fp32",
    backends: Sequence[str] = USUAL,
    threads: int | None = None,
    progress: Progress = lambda _: None,
) -> tuple[Check, ...]:
    """Write ``output`` from ``checkpoint`` and return the self-test's checks.

    ``precision`` says how the plan stores its weights: but for ``fp32`` they are rounded
    (:mod:`pengi_rt.models.at_rest`), and what the plan computes, in float32, is compared with the
    rounded model. The plan is for ``backends``: without ``onnx`` among them it has no graphs, only
    the weights that the others read.

    Raises:
        CheckpointError: the checkpoint is refused, or ``precision`` does not hold its weights.
        TokenizerError: its tokenizers are not to be had.
        PlanError: the plan cannot be written.
        UsageError: there is no such ``precision``, or no plan is for such ``backends``.
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
        model, files, source, output,
        precision=precision, backends=backends, threads=threads, progress=progress,
    )  # fmt: skip


def write_plan(
    model: Pengi,
    tokenizers: Mapping[str, bytes],
    source: Source,
    output: Path,
    *,
    precision: PrecisionName = "fp32",
    backends: Sequence[str] = USUAL,
    threads: int | None = None,
    progress: Progress = lambda _: None,
) -> tuple[Check, ...]:
    """Write ``output`` from a model in memory. Returns and raises as :func:`export_plan`."""
    _check_choices(precision, backends)
    weights = _stored(model, source, precision)
    if precision != "fp32":
        model = restored(model, weights)
    graphs = _needs_graphs(backends)
    with PlanWriter(
        output,
        model.config,
        source=source,
        tools=_tools(graphs=graphs),
        backends=tuple(spec.name for spec in known() if graphs or not spec.needs_graphs),
        precision=precision,
    ) as writer:
        _write(writer, model, weights, progress, graphs=graphs)
        for name, text in tokenizers.items():
            writer.add(tokenizer_entry(name), text)
        note = LICENCE_NOTE.format(file=source.file, sha256=source.sha256)
        writer.add("licences/weights.txt", note.encode())
        progress("self-test")
        checks = _test(writer.seal(), model, threads, on_gpu="triton" in backends)
        _refuse_failed(checks)
        writer.seal(self_test=report(checks))
        writer.commit()
    return checks


def _needs_graphs(backends: Sequence[str]) -> bool:
    return any(spec.needs_graphs for spec in known() if spec.name in backends)


def steps(backends: Sequence[str]) -> int:
    """How often ``progress`` is called for a plan for ``backends``."""
    return 5 if _needs_graphs(backends) else 3


def _check_choices(precision: str, backends: Sequence[str]) -> None:
    if precision not in PRECISIONS:
        raise UsageError(
            f"a plan stores its weights as {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, not "
            f"as {precision!r}"
        )
    names = [spec.name for spec in known()]
    unknown = [name for name in backends if name not in names]
    if unknown or not backends:
        raise UsageError(
            f"a plan is for {', '.join(names[:-1])} or {names[-1]}, not for "
            f"{unknown[0] if unknown else 'nothing'!r}"
        )


def _stored(model: Pengi, source: Source, precision: str) -> dict[str, Tensor]:
    try:
        return stored(model.state_dict(), precision)
    except CheckpointError as error:
        raise CheckpointError(f"{source.file}: cannot be stored as {precision}: {error}") from None


def _write(
    writer: PlanWriter,
    model: Pengi,
    weights: Mapping[str, Tensor],
    progress: Progress,
    *,
    graphs: bool,
) -> None:
    """``weights``, and the graphs of ``model`` with what only they have."""
    if graphs:
        from pengi_rt.export.graphs import add_graphs

        add_graphs(writer, model, {name: array_of(t) for name, t in weights.items()}, progress)
        return
    progress("writing the weights")
    kept = without_transform(weights, model.config)
    writer.add_tensors({name: array_of(tensor) for name, tensor in kept.items()})


def _refuse_failed(checks: Sequence[Check]) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        worst = max(failed, key=lambda check: check.strain)
        raise ExportError(
            f"the plan failed its self-test, nothing was written: {worst.backend}'s "
            f"{worst.stage} (batch {worst.batch}) differs by {worst.difference:.2g}, allowed "
            f"{worst.tolerance:.2g}; {len(failed)} of {len(checks)} checks failed"
        )


def _test(path: Path, model: Pengi, threads: int | None, *, on_gpu: bool) -> tuple[Check, ...]:
    checks: list[Check] = []
    with Plan.open(path) as plan:
        tokenizer = PromptTokenizer(plan.tokenizer("text"), plan.config)
        for backend in _runners(plan, threads, on_gpu=on_gpu):
            try:
                checks += run_self_test(backend, TorchBackend(model), tokenizer)
            except ValueError as error:
                raise ExportError(
                    f"the model cannot be searched, nothing was written: {error}; "
                    "its weights are broken"
                ) from None
            backend.close()
    return tuple(checks)


def _runners(plan: Plan, threads: int | None, *, on_gpu: bool) -> Iterator[Backend]:
    """The backends of ``plan`` that can be tested here."""
    if plan.manifest.graphs:
        yield OnnxBackend(plan, threads=threads)
    else:
        yield TorchBackend.from_plan(plan, threads=threads)
    if on_gpu and torch.cuda.is_available():
        yield open_backend(plan, backend="triton", device="cuda", precision="fp32")
    elif on_gpu:
        logger.warning("no CUDA GPU here: the triton backend itself was not tested with this plan")


def _tools(*, graphs: bool) -> dict[str, str]:
    packages = ["torch", "transformers", "numpy"]
    if graphs:
        packages += ["onnx", "onnxscript", "onnxruntime"]
    versions = {package: version(package) for package in packages}
    return {"pengi-rt": __version__, "python": platform.python_version(), **versions}
