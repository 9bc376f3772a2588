"""``pengi-rt warmup``: compile what answers on a GPU need, and say how long it takes."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from pengi_rt.cli.options import PRECISIONS, add_choice
from pengi_rt.errors import BackendError, UsageError
from pengi_rt.kernels.tuning_file import CannotWriteError, remove_damaged
from pengi_rt.system.quote import printable
from pengi_rt.system.streams import emit

if TYPE_CHECKING:
    from pengi_rt.backends.triton.backend import TritonBackend
    from pengi_rt.engine import Engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Compile and capture what the triton backend needs to answer, so that later "
        "processes find compiled kernels in the cache, and print the seconds of every part."
    )
    parser.add_argument("--engine", metavar="PLAN", help="(default: the built-in demo model)")
    add_choice(parser, "--precision", PRECISIONS)
    parser.add_argument(
        "--batch-size", type=int, nargs="+", default=[1], metavar="N",
        help="recordings that are answered together (default: 1)",
    )  # fmt: skip
    parser.add_argument("--beam-size", type=int, metavar="N", help="(default: the plan's)")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="(default: the plan's)")
    parser.add_argument(
        "--tune", action="store_true",
        help="measure which tiles the kernels are fastest with on this GPU, and keep that for "
        "later processes: some minutes, and the last bits of results may change",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Warm up, and print a line for every part."""
    if min(arguments.batch_size) < 1:
        raise UsageError(f"--batch-size must be at least 1, got {min(arguments.batch_size)}")
    for line in _device():
        emit(line)
    started = perf_counter()
    from pengi_rt.backends.registry import tuning_directory
    from pengi_rt.engine import load

    folder = tuning_directory()
    if arguments.tune:
        remove_damaged(folder)  # which loading would refuse
    with load(
        arguments.engine, backend="triton", device="cuda", precision=arguments.precision
    ) as engine:
        emit(_line("packages, weights", perf_counter() - started))
        lines = _tuned(engine, arguments, folder) if arguments.tune else _untuned(engine, arguments)
        for line in lines:
            emit(printable(line))
    emit(_line("ready, after PyTorch and the device", perf_counter() - started))
    return 0


def _device() -> Iterator[str]:
    """What any program on a GPU waits for, in seconds.

    Raises:
        BackendError: there is no PyTorch, or no GPU.
    """
    from pengi_rt.backends.registry import missing_package

    started = perf_counter()
    try:
        from pengi_rt.backends.triton.device import make_context
    except ModuleNotFoundError as error:
        raise missing_package("triton", error, extra="gpu") from None
    yield _line("import torch", perf_counter() - started)
    started = perf_counter()
    make_context()
    yield _line("CUDA context", perf_counter() - started)


def _tuned(engine: "Engine", arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    from pengi_rt.backends.triton.device import require_cuda
    from pengi_rt.kernels.tuning import adopted, tuning

    device = require_cuda()
    try:
        with tuning(device, folder) as tuner:
            yield from _warmed(engine, arguments)
    except CannotWriteError as error:
        raise BackendError(f"{error}; make room there, or set XDG_CACHE_HOME") from None
    yield _line(f"of which measuring {len(tuner.measured)} choices of tiles", tuner.seconds)
    if tuner.failed:
        yield f"tiles that this GPU cannot run: {tuner.failed}"
    other = sum(gain > 0 for gain in tuner.gains)
    yield f"tiles other than the table's: {other}, together {sum(tuner.gains):.1f} us faster"
    yield _file_line(adopted(device))


def _untuned(engine: "Engine", arguments: argparse.Namespace) -> Iterator[str]:
    from pengi_rt.backends.triton.device import require_cuda
    from pengi_rt.kernels.tuning import adopted

    yield from _warmed(engine, arguments)
    yield _file_line(adopted(require_cuda()))


def _file_line(path: Path | None) -> str:
    return f"measured tiles: {path or 'none, pengi-rt warmup --tune would measure some'}"


def _warmed(engine: "Engine", arguments: argparse.Namespace) -> Iterator[str]:
    for clips in arguments.batch_size:
        yield from _warmed_batch(engine, clips, arguments)


def _warmed_batch(engine: "Engine", clips: int, arguments: argparse.Namespace) -> Iterator[str]:
    backend: TritonBackend = engine.backend  # type: ignore[assignment]
    from pengi_rt.config.options import GenerateOptions
    from pengi_rt.tasks.prepare import search_options

    options = search_options(
        engine.session,
        GenerateOptions(beam_size=arguments.beam_size, max_new_tokens=arguments.max_new_tokens),
    )
    parts = backend.warm_up(engine.config.prefix_length, clips, options)
    for name, replayed in parts.items():
        what = f"{name}, batch {clips}: first run, compilation included"
        yield _line(what, replayed.first_run)
        yield _line(f"{name}, batch {clips}: capture", replayed.capture)


def _line(what: str, seconds: float) -> str:
    return f"{what:<52} {seconds:8.3f} s"
