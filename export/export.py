"""Turn a checkpoint into a plan.

The one way, step by step; each step is a module of this folder:

1. ``checkpoint_reader`` reads the checkpoint, after ``file_check`` and ``torch_file`` have checked
   the file; ``published_keys`` renames the tensors of the published layout.
2. ``tokenizer_source`` finds the tokenizers.
3. :mod:`pengi_rt.models.stored_weights` rounds the weights to the type in which they are stored.
4. ``graphs`` writes the ONNX graphs (``encoder_graphs``, ``decoder_graph``) and every weight once
   (``weight_table``); small plans let the graph compute the ``stft_kernels``. A plan without graphs
   holds the weights alone.
5. ``self_test`` runs the plan that was written and compares it with the PyTorch model. Only a plan
   that passes is put in place.
"""

import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from pengi_rt.backends.opening import open_backend
from pengi_rt.backends.protocol import Backend
from pengi_rt.backends.torch import TorchBackend
from pengi_rt.config.backend import backends as known
from pengi_rt.config.choices import WEIGHTS_NAMES, WeightsName
from pengi_rt.errors import CheckpointError, ExportError, UsageError
from pengi_rt.export.checkpoint_reader import load_model
from pengi_rt.export.self_test import Check, report, run_self_test
from pengi_rt.export.tokenizer_source import find_tokenizers
from pengi_rt.models.checkpoint_writer import without_stft_kernels
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.stored_weights import as_array, store_weights, with_weights
from pengi_rt.plan.manifest import Source, tokenizer_entry
from pengi_rt.plan.reader import Plan
from pengi_rt.plan.writer import PlanWriter
from pengi_rt.system.lazy import lazily
from pengi_rt.system.version import __version__
from pengi_rt.text.tokenizers import PromptTokenizer

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
DEFAULT_BACKENDS = tuple(spec.name for spec in known() if "cpu" in spec.devices)

LICENSE_NOTE = """\
The weights in this plan were exported from {file} (sha256 {sha256}).
They keep the license of whoever published them; pengi-rt adds none.
If they are the published Pengi weights, theirs is at https://zenodo.org/records/8387083.
"""


def export_plan(
    checkpoint: Path,
    output: Path,
    *,
    tokenizers: Path | None = None,
    weights: WeightsName = "fp32",
    backends: Sequence[str] = DEFAULT_BACKENDS,
    threads: int | None = None,
    progress: Progress = lambda _: None,
) -> tuple[Check, ...]:
    """Export ``checkpoint`` to the plan ``output`` and return the self-test's checks.

    ``weights`` says how the plan stores its weights. All types except ``fp32`` round them
    (:mod:`pengi_rt.models.stored_weights`), and the self-test then compares the plan, which
    computes in float32, with the rounded model. A plan holds graphs only if one of its
    ``backends`` runs them; the others read the weights.

    Raises:
        CheckpointError: the checkpoint is refused, or ``weights`` cannot hold its values.
        TokenizerError: its tokenizers cannot be found.
        PlanError: the plan cannot be written.
        UsageError: ``weights`` or ``backends`` is invalid.
        ExportError: the plan does not compute what the model computes; no plan is written.
    """
    progress("reading the checkpoint")
    model, read = load_model(checkpoint)
    if read.converted and weights == "fp32":
        logger.warning("%d tensors of another type are converted to float32", len(read.converted))
    if read.left_out:
        logger.info("left out, known and not needed: %s", ", ".join(read.left_out))
    return write_plan(
        model,
        find_tokenizers(read.config, tokenizers, read.tokenizers),
        Source(file=checkpoint.name, sha256=read.sha256),
        output,
        weights=weights,
        backends=backends,
        threads=threads,
        progress=progress,
    )


def write_plan(
    model: Pengi,
    tokenizers: Mapping[str, bytes],
    source: Source,
    output: Path,
    *,
    weights: WeightsName = "fp32",
    backends: Sequence[str] = DEFAULT_BACKENDS,
    threads: int | None = None,
    progress: Progress = lambda _: None,
) -> tuple[Check, ...]:
    """Write the plan ``output`` from a model in memory, and test it.

    Arguments, return value and errors are those of :func:`export_plan`.
    """
    _check_choices(weights, backends)
    stored = _store(model, source, weights)
    if weights != "fp32":
        model = with_weights(model, stored)
    graphs = _needs_graphs(backends)
    with PlanWriter(
        output,
        model.config,
        source=source,
        tools=_tools(graphs=graphs),
        backends=tuple(spec.name for spec in known() if graphs or not spec.needs_graphs),
        weights=weights,
    ) as writer:
        _add_weights(writer, model, stored, progress, graphs=graphs)
        for name, text in tokenizers.items():
            writer.add(tokenizer_entry(name), text)
        note = LICENSE_NOTE.format(file=source.file, sha256=source.sha256)
        writer.add("licences/weights.txt", note.encode())
        progress("self-test")
        checks = _test(writer.seal(), model, threads, backends)
        _refuse_failed(checks)
        writer.seal(self_test=report(checks))
        writer.commit()
    return checks


def _needs_graphs(backends: Sequence[str]) -> bool:
    return any(spec.needs_graphs for spec in known() if spec.name in backends)


def count_steps(backends: Sequence[str]) -> int:
    """How often ``progress`` is called for a plan for ``backends``."""
    return 5 if _needs_graphs(backends) else 3


def _check_choices(weights: str, backends: Sequence[str]) -> None:
    if weights not in WEIGHTS_NAMES:
        raise UsageError(
            f"a plan stores its weights as {', '.join(WEIGHTS_NAMES[:-1])} or {WEIGHTS_NAMES[-1]}, "
            f"not as {weights!r}"
        )
    names = [spec.name for spec in known()]
    unknown = [name for name in backends if name not in names]
    if unknown or not backends:
        raise UsageError(
            f"a plan is for {', '.join(names[:-1])} or {names[-1]}, not for "
            f"{unknown[0] if unknown else 'nothing'!r}"
        )


def _store(model: Pengi, source: Source, weights: WeightsName) -> dict[str, Tensor]:
    try:
        return store_weights(model.state_dict(), weights)
    except CheckpointError as error:
        raise CheckpointError(f"{source.file}: cannot be stored as {weights}: {error}") from None


def _add_weights(
    writer: PlanWriter,
    model: Pengi,
    stored: Mapping[str, Tensor],
    progress: Progress,
    *,
    graphs: bool,
) -> None:
    """Write the ``stored`` weights, and the graphs of ``model`` with the tensors only they have."""
    if graphs:
        from pengi_rt.export.graphs import add_graphs

        add_graphs(writer, model, {name: as_array(t) for name, t in stored.items()}, progress)
        return
    progress("writing the weights")
    kept = without_stft_kernels(stored, model.config)
    writer.add_tensors({name: as_array(tensor) for name, tensor in kept.items()})


def _refuse_failed(checks: Sequence[Check]) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        worst = max(failed, key=lambda check: check.strain)
        raise ExportError(
            f"the plan failed its self-test, nothing was written: {worst.backend}'s "
            f"{worst.stage} (batch {worst.batch}) differs by {worst.difference:.2g}, allowed "
            f"{worst.tolerance:.2g}; {len(failed)} of {len(checks)} checks failed"
        )


def _test(
    path: Path, model: Pengi, threads: int | None, backends: Sequence[str]
) -> tuple[Check, ...]:
    checks: list[Check] = []
    with Plan.open(path) as plan:
        tokenizer = PromptTokenizer(plan.tokenizer("text"), model.config)
        for backend in _testable_backends(plan, threads, backends):
            try:
                checks += run_self_test(backend, TorchBackend(model), tokenizer)
            except ValueError as error:
                raise ExportError(
                    f"the model cannot be searched, nothing was written: {error}; "
                    "its weights are broken"
                ) from None
            backend.close()
    return tuple(checks)


def _testable_backends(
    plan: Plan, threads: int | None, backends: Sequence[str]
) -> Iterator[Backend]:
    """Open, one after the other, the backends of ``plan`` that can be tested on this machine."""
    on_cpu = [spec for spec in known() if "cpu" in spec.devices]
    first = next(spec for spec in on_cpu if plan.manifest.graphs or not spec.needs_graphs)
    yield open_backend(plan, backend=first.name, threads=threads)
    for spec in known():
        if spec.name not in backends or "cpu" in spec.devices:
            continue
        if problem := spec.problem and lazily(spec.problem)():
            logger.warning("%s: the %s backend was not tested with this plan", problem, spec.name)
        else:
            yield open_backend(plan, backend=spec.name, precision="fp32")


def _tools(*, graphs: bool) -> dict[str, str]:
    packages = ["torch", "transformers", "numpy"]
    if graphs:
        from pengi_rt.export.graphs import PACKAGES

        packages += PACKAGES
    versions = {package: version(package) for package in packages}
    return {"pengi-rt": __version__, "python": platform.python_version(), **versions}
