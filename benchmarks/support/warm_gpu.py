"""Compile everything that the GPU benchmarks of a caption need, in parallel processes.

``python benchmarks/support/warm_gpu.py`` fills Triton's cache, so that the benchmarks, a single
process, find compiled kernels. It prints the seconds of every precision and batch. With ``--tune``
it compiles all candidate tiles, and then one process measures which are fastest; later benchmarks
use those.
"""

import argparse
import multiprocessing
import sys
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pengi_rt.models.pengi import Pengi

BEAMS, TOKENS = 5, 20
KINDS = [(precision, batch) for precision in ("fp16", "int8", "fp32") for batch in (1, 64, 8)]


@cache
def base() -> "Pengi":
    """The full-size model with random weights."""
    import torch

    from pengi_rt.config.pengi import PengiConfig
    from pengi_rt.models.pengi import Pengi

    torch.set_num_threads(1)
    return Pengi(PengiConfig.preset("base")).eval()


def warm(kind: tuple[str, int]) -> str:
    """Capture the graphs of one precision and batch; returns a line with the seconds."""
    from pengi_rt.backends.triton.backend import TritonBackend
    from pengi_rt.config.decode import DecodeOptions

    precision, batch = kind
    model = base()
    started = perf_counter()
    backend = TritonBackend(model, device="cuda", precision=precision)
    options = DecodeOptions(
        beam_size=BEAMS, max_new_tokens=TOKENS, temperature=1.0, stop_id=-1, pad_id=0
    )
    backend.warm_up(model.config.prefix_length, batch, options)
    backend.close()
    return f"{precision}, batch {batch}: {perf_counter() - started:.1f} s"


def compile_tiles(kind: tuple[str, int]) -> str:
    """Like :func:`warm`, with every candidate tile; nothing is measured or kept."""
    import torch

    from pengi_rt.kernels.tuning import tuning

    device = torch.device("cuda", torch.cuda.current_device())
    with tuning(device, None, lambda _: 1.0) as tuner:
        line = warm(kind)
    return f"{line}, {len(tuner.measured)} choices, {tuner.failed} tiles too large"


def measure(folder: Path) -> None:
    """Time the tiles, with nothing else on the device."""
    import torch

    from pengi_rt.kernels.tuning import adopted, tuning

    device = torch.device("cuda", torch.cuda.current_device())
    with tuning(device, folder) as tuner:
        for kind in KINDS:
            report(f"measured, {warm(kind)}")
    gains = tuner.gains
    report(
        f"{len(gains)} choices in {tuner.seconds:.1f} s, {sum(gain > 0 for gain in gains)} other "
        f"than the default, together {sum(gains):.1f} us faster: {adopted(device)}"
    )


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Warm every precision and batch, in parallel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="measure which tiles are fastest")
    tune = parser.parse_args().tune
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(KINDS)) as pool:
        for line in pool.imap_unordered(compile_tiles if tune else warm, KINDS):
            report(line)
    if tune:
        from pengi_rt.backends.triton.launch import tuning_directory

        measure(tuning_directory())


if __name__ == "__main__":
    main()
