"""Measure how fast a GPU does something, and its limits: CUDA events, graphs and measured roofs.

Times are the device's: the calls of all contenders are captured in CUDA graphs, so the times
include neither Python nor the driver. ``bench_gpu_caption.py`` measures whole answers, the host
included, with the host's clock.
"""

import os
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pengi_rt.backends.triton.launch import tuning_directory
from pengi_rt.kernels.tuning import adopt, adopted

Call = Callable[[], object]

FLUSH_FACTOR = 8
"""How many times its size is overwritten to empty the L2 cache."""
BUSY_CYCLES = 1_000_000
"""About 0.5 ms for which the device is kept busy while the host launches a graph."""
WARM_UPS, REPEATS = 3, 21
ROOF_BYTES = 2**32
ROOF_SIDE = 8192
FACTOR = 2
"""A kernel's error may be this many times PyTorch's, because it adds in another order."""


@cache
def l2_bytes() -> int:
    """The size of the device's L2 cache."""
    size: int = torch.cuda.get_device_properties().L2_cache_size
    return size


class Times(NamedTuple):
    """Microseconds of one call on the device."""

    median: float
    p20: float
    p80: float


class Roofs(NamedTuple):
    """The device's limits, measured in this run on random numbers."""

    copy_gb_s: float
    """Bandwidth of a copy in memory: bytes read plus bytes written."""
    fp16_tflop_s: float
    tf32_tflop_s: float


def device_for(*, timed: bool) -> torch.device:
    """The CUDA device or, if there is none and nothing is timed, the CPU and the interpreter.

    On a CUDA device, kernels use the tiles that ``warm_gpu.py --tune`` measured, if it ran before.
    Skips the benchmark, and says why, if it has to be timed and cannot be.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if torch.cuda.is_available() and not interpreted:
        device = torch.device("cuda", torch.cuda.current_device())
        adopt(device, tuning_directory())
        return device
    if timed:
        pytest.skip(
            "TRITON_INTERPRET=1 is set: kernels would be interpreted"
            if torch.cuda.is_available()
            else f"needs a CUDA GPU: PyTorch {torch.__version__} sees none"
        )
    if not interpreted:
        pytest.skip("needs a CUDA GPU, or TRITON_INTERPRET=1 before triton is imported")
    return torch.device("cpu")


def microseconds(
    calls: Sequence[Call], *, before: Call | None = None, cold: bool = True, repeats: int = REPEATS
) -> Times:
    """Time of one call: the mean over ``calls``, which do the same to different buffers.

    They are captured one after another in one graph, so they may only launch work. The larger the
    buffers of the others, the colder is what a call reads. For the options see :func:`launched`.
    """
    graph = captured(calls)
    whole = launched(graph.replay, before=before, cold=cold, repeats=repeats)
    return Times(*(time / len(calls) for time in whole))


def launched(
    run: Call, *, before: Call | None = None, cold: bool = True, repeats: int = REPEATS
) -> Times:
    """Time on the device of what ``run`` launches; launching must take less than 0.5 ms.

    Args:
        run: launches work on the current stream and does not wait for it.
        before: runs before every repeat, untimed; it, too, may only launch work.
        cold: overwrite the L2 cache before every repeat.
        repeats: timed runs, after :data:`WARM_UPS` others.
    """
    size = FLUSH_FACTOR * l2_bytes() if cold else 0
    flushed = torch.empty(size, dtype=torch.int8, device="cuda")
    events = [
        [torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(WARM_UPS + repeats)
    ]
    for start, end in events:
        if before is not None:
            before()
        flushed.zero_()
        torch.cuda._sleep(BUSY_CYCLES)
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    times = [start.elapsed_time(end) * 1e3 for start, end in events[WARM_UPS:]]
    p20, median, p80 = torch.tensor(times).quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()
    return Times(median, p20, p80)


def captured(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    """A graph of ``calls``, after running each of them once."""
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    return graph


@cache
def roofs() -> Roofs:
    """The device's limits, measured once per process."""
    source = torch.randint(-128, 128, (ROOF_BYTES,), dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    copied = microseconds([lambda: target.copy_(source)], cold=False)
    half, precision = _product(torch.float16), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    single = _product(torch.float32)
    torch.set_float32_matmul_precision(precision)
    return Roofs(2 * ROOF_BYTES / copied.median / 1e3, half, single)


def _product(dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product in ``dtype``."""
    a, b = (torch.randn(ROOF_SIDE, ROOF_SIDE, device="cuda").to(dtype) for _ in "ab")
    out = torch.empty_like(a)
    times = microseconds([lambda: torch.mm(a, b, out=out)], cold=False)
    return 2 * ROOF_SIDE**3 / times.median / 1e6


def assert_as_good(found: Tensor, exact: Tensor, native: Tensor) -> None:
    """Fail unless ``found`` is as close to ``exact`` (float64) as PyTorch's ``native``.

    Everything stays on the device: in float64, results of 64 clips are gigabytes.
    """
    assert exact.dtype == torch.float64
    assert found.shape == exact.shape == native.shape, (found.shape, exact.shape, native.shape)
    error, own = _rms(found.double() - exact), _rms(native.double() - exact)
    # A result is rounded to its dtype once, an intermediate result at most once more.
    granted = 2 * torch.finfo(native.dtype).eps * _rms(exact)
    assert error <= FACTOR * own + granted, f"error {error:.3g}, PyTorch's {own:.3g}"


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def shares(
    times: Times, *, nbytes: float, flop: float, peak: str, passes: int = 1
) -> dict[str, float]:
    """GB/s, TFLOP/s and percentages of the limits for a time.

    ``peak`` names the limit of arithmetic; ``passes`` hardware products make one counted product.
    """
    roof = roofs()
    gb_s, tflop_s = nbytes / times.median / 1e3, flop / times.median / 1e6
    top: float = getattr(roof, f"{peak}_tflop_s")
    floor = max(nbytes / roof.copy_gb_s / 1e3, passes * flop / top / 1e6)
    return {
        "us": times.median,
        "us_p20": times.p20,
        "us_p80": times.p80,
        "gb_per_s": gb_s,
        "percent_of_copy": 100 * gb_s / roof.copy_gb_s,
        "tflop_per_s": tflop_s,
        f"percent_of_{peak}": 100 * tflop_s / top,
        f"percent_of_{peak}_with_all_passes": 100 * passes * tflop_s / top,
        "floor_us": floor,
        "percent_of_floor": 100 * floor / times.median,
    }


def machine() -> dict[str, str | float | None]:
    """What a figure must be published with; ``tiles`` is the file of measured tiles, if any."""
    facts: dict[str, str | float | None] = {
        "torch": torch.__version__,
        "triton": version("triton"),
        "transformers": version("transformers"),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "tiles": None,
    }
    if not torch.cuda.is_available():
        return facts
    facts |= {"gpu": torch.cuda.get_device_name(), "driver": driver()}
    tiles = adopted(torch.device("cuda", torch.cuda.current_device()))
    facts |= {"cuda": str(torch.version.cuda), "tiles": tiles.name if tiles else None}
    return facts | {f"roof_{name}": value for name, value in roofs()._asdict().items()}


@cache
def driver() -> str:
    """The version of NVIDIA's driver, from nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return _output(command).split("\n", maxsplit=1)[0]


@cache
def commit() -> str:
    """The working tree's commit, and whether it has changes; a copy may have no history."""
    root = Path(__file__).parents[2]
    head = _output(["git", "-C", str(root), "rev-parse", "--short", "HEAD"])
    changed = _output(["git", "-C", str(root), "status", "--short", "--untracked-files=no"])
    return head + (" + changes" if changed and head != "unknown" else "")


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
