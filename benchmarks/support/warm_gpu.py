"""Compile all that the GPU benchmarks of a caption need, in as many processes as it has kinds.

``python benchmarks/support/warm_gpu.py`` fills Triton's cache, so that the benchmarks themselves,
which are one process, find compiled kernels there. It prints the seconds of every kind.
"""

import multiprocessing
import sys
from time import perf_counter

BEAMS, TOKENS = 5, 20
KINDS = [(precision, batch) for precision in ("fp16", "int8", "fp32") for batch in (1, 64, 8)]


def warm(kind: tuple[str, int]) -> str:
    """Capture the graphs of one precision and batch; what that took."""
    import torch

    from pengi_rt.backends.triton import TritonBackend
    from pengi_rt.config import ModelConfig
    from pengi_rt.decoding.options import DecodeOptions
    from pengi_rt.models.pengi import Pengi

    torch.set_num_threads(1)
    precision, batch = kind
    model = Pengi(ModelConfig.preset("base")).eval()
    started = perf_counter()
    backend = TritonBackend(model, device="cuda", precision=precision)
    options = DecodeOptions(
        beam_size=BEAMS, max_new_tokens=TOKENS, temperature=1.0, stop_id=-1, pad_id=0
    )
    backend.warm_up(model.config.prefix_length, batch, options)
    return f"{precision}, batch {batch}: {perf_counter() - started:.1f} s"


def main() -> None:
    """Warm every kind, side by side."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(KINDS)) as pool:
        for line in pool.imap_unordered(warm, KINDS):
            print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
