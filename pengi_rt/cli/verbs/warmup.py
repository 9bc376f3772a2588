"""``pengi-rt warmup``: compile the GPU kernels for a plan, and show how long it takes."""

import argparse
from time import perf_counter

from pengi_rt.backends.opening import prepare_warm_up
from pengi_rt.cli.flags import add_options, add_precision
from pengi_rt.config.backend import WarmUpStep, backend_spec, backends
from pengi_rt.config.options import WarmUpOptions, check_batch_sizes
from pengi_rt.system.quote import printable
from pengi_rt.system.streams import emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    names = [spec.name for spec in backends() if spec.warm_up]
    parser.description = (
        f"Compile and capture what the {' or '.join(names)} backend needs to answer, so that later "
        "processes find compiled kernels in the cache, and print the seconds of every part."
    )
    parser.add_argument(
        "--engine", metavar="PLAN", help="engine file (default: the built-in demo model)"
    )
    parser.add_argument("--backend", choices=names, default=names[0], help="(default: %(default)s)")
    add_precision(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        nargs="+",
        default=[1],
        metavar="N",
        help="windows per batch; one size or several (default: 1)",
    )
    group = parser.add_argument_group("beam search (defaults: the plan's own)")
    add_options(group, WarmUpOptions, "beam_size", "max_new_tokens")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="measure the fastest tiles for the kernels on this GPU, and keep them for later "
        "processes; takes some minutes, and the last bits of results may change",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Warm up, and print a line for every part."""
    batch_sizes = check_batch_sizes(arguments.batch_size)
    spec = backend_spec(arguments.backend)
    for step in prepare_warm_up(spec, tune=arguments.tune):
        _show(step)
    started = perf_counter()
    from pengi_rt.engine import load

    with load(
        arguments.engine, backend=spec.name, device=spec.devices[0], precision=arguments.precision
    ) as engine:
        _show(WarmUpStep("packages, weights", perf_counter() - started))
        for step in engine.warm_up(
            batch_sizes,
            tune=arguments.tune,
            beam_size=arguments.beam_size,
            max_new_tokens=arguments.max_new_tokens,
        ):
            _show(step)
    _show(WarmUpStep("ready, after PyTorch and the device", perf_counter() - started))
    return 0


def _show(step: WarmUpStep) -> None:
    seconds = "" if step.seconds is None else f" {step.seconds:8.3f} s"
    emit(printable(f"{step.name:<52}{seconds}".rstrip()))
