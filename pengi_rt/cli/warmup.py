"""``pengi-rt warmup``: compile what answers on a GPU need, and say how long it takes."""

import argparse
from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING

from pengi_rt.cli.arguments import PRECISIONS, add_choice
from pengi_rt.cli.output import emit
from pengi_rt.errors import UsageError

if TYPE_CHECKING:
    from pengi_rt.backends.triton import TritonBackend
    from pengi_rt.engine import Engine


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "warmup",
        help="compile the GPU kernels of a plan, and say how long it takes",
        description="Compile and capture what the triton backend needs to answer, so that later "
        "processes find compiled kernels in the cache, and print the seconds of every part.",
    )
    parser.add_argument("--engine", metavar="PLAN", help="(default: the built-in demo model)")
    add_choice(parser, "--precision", PRECISIONS)
    parser.add_argument(
        "--batch-size", type=int, nargs="+", default=[1], metavar="N",
        help="recordings that are answered together (default: 1)",
    )  # fmt: skip
    parser.add_argument("--beam-size", type=int, metavar="N", help="(default: the plan's)")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="(default: the plan's)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Warm up, and print a line for every part."""
    if min(arguments.batch_size) < 1:
        raise UsageError(f"--batch-size must be at least 1, got {min(arguments.batch_size)}")
    started = perf_counter()
    import pengi_rt

    with pengi_rt.load(
        arguments.engine, backend="triton", device="cuda", precision=arguments.precision
    ) as engine:
        emit(_line("packages, device, weights", perf_counter() - started))
        for batch_size in arguments.batch_size:
            for line in _warmed(engine, batch_size, arguments):
                emit(line)
    emit(_line("ready", perf_counter() - started))
    return 0


def _warmed(engine: "Engine", clips: int, arguments: argparse.Namespace) -> Iterator[str]:
    backend: TritonBackend = engine.backend  # type: ignore[assignment]
    from pengi_rt.generate import search_options
    from pengi_rt.options import DEFAULTS, Options

    given = {"beam_size": arguments.beam_size, "max_new_tokens": arguments.max_new_tokens}
    options = search_options(engine.session, Options(**{**DEFAULTS, **given}))  # type: ignore[typeddict-item]
    parts = backend.warm_up(engine.config.prefix_length, clips, options)
    for name, replayed in parts.items():
        what = f"{name}, batch {clips}: first run, compilation included"
        yield _line(what, replayed.first_run)
        yield _line(f"{name}, batch {clips}: capture", replayed.capture)


def _line(what: str, seconds: float) -> str:
    return f"{what:<52} {seconds:8.3f} s"
