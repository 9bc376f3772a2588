"""Every GPU kernel at base's sizes, against PyTorch eager and compiled, and the device's limits.

All are timed in CUDA graphs, without the host, because PyTorch launched from Python would be
slower. The calls of a graph read different buffers, together several times the L2 cache, as a
model's layers do. A benchmark's ``extra_info`` holds times of the device (``us`` and so on are the
kernel's); pytest-benchmark's own statistics are of replaying the whole graph, by the host's clock.

Without timing, and without a GPU, the same runs once on the tiny model in Triton's interpreter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs triton")

import torch
from gpu import (
    Call,
    assert_as_good,
    captured,
    device_for,
    l2_bytes,
    machine,
    microseconds,
    shares,
)
from gpu_audio_cases import audio_cases
from gpu_case import Case, Setting, Work, first
from gpu_step_cases import step_cases

from pengi_rt.config.pengi import PengiConfig

# PyTorch's compiler warns about code that is not ours.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

BATCHES = (1, 64, 8)
"""Those with a bar in GPU.md come first, in case the time runs out."""
LEAST_SETS, MOST_SETS = 4, 48
ROUNDS = 5
COMPILE_SECONDS = 240.0
"""Time for compiling rivals, all together; the remaining ones are timed eager only."""


@dataclass
class Compiler:
    """``torch.compile``, until its time is used up."""

    left: float = COMPILE_SECONDS

    def __call__(self, function: Any, arguments: Sequence[Any]) -> Any | None:
        """Compile ``function`` by calling it with ``arguments``; None if no time is left."""
        if self.left <= 0:
            return None
        started = perf_counter()
        torch._dynamo.reset()
        compiled: Any = torch.compile(function, dynamic=False)
        compiled(*arguments)
        torch.cuda.synchronize()
        self.left -= perf_counter() - started
        return compiled


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All cases at base's sizes if timed; otherwise the tiny model's, with batch 1."""
    timed = bool(metafunc.config.getoption("--benchmark-only"))
    config = PengiConfig.preset("base" if timed else "tiny")
    places = [
        pytest.param(case, kind, batch, id=f"{case.name}, {kind}, batch {batch}")
        for batch in (BATCHES if timed else BATCHES[:1])
        for case in (*audio_cases(config), *step_cases())
        for kind in case.kinds
    ]
    metafunc.parametrize(("case", "kind", "batch"), places)


@torch.no_grad()
def test_kernel(benchmark: Any, compiler: Compiler, case: Case, kind: str, batch: int) -> None:
    device = device_for(timed=benchmark.enabled)
    torch.manual_seed(batch)
    if not benchmark.enabled:
        setting = Setting(PengiConfig.preset("tiny"), batch, kind, device, beams=3, steps=6)
        benchmark.pedantic(check, args=(case.make(setting),), rounds=1)
        return
    setting = Setting(PengiConfig.preset("base"), batch, kind, device)
    first_work = case.make(setting)
    check(first_work)
    sets = min(max(round(3 * l2_bytes() / first_work.nbytes), LEAST_SETS), MOST_SETS)
    works = [first_work, *(case.make(setting) for _ in range(sets - 1))]
    benchmark.group = f"{case.name}, {kind}, batch {batch}"
    info = benchmark.extra_info
    info |= {"kernel": case.name, "kind": kind, "batch": batch, "sets": sets} | machine()
    info |= by_the_kernel(benchmark, works)
    info |= rivals(works, compiler)
    found = [value for name, value in info.items() if name.startswith("torch: ")]
    best = min((value for value in found if isinstance(value, float)), default=None)
    if best is not None:
        info |= {"best_torch_us": best, "over_best_torch": best / info["us"]}


def by_the_kernel(benchmark: Any, works: Sequence[Work]) -> dict[str, float]:
    """The kernel's time, and its share of the device's limits."""
    calls, undo = [work.kernel for work in works], before(works)
    graph = captured(calls)

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    benchmark.pedantic(replay, setup=undo, rounds=ROUNDS)
    work = works[0]
    times = microseconds(calls, before=undo)
    return shares(times, nbytes=work.nbytes, flop=work.flop, peak=work.peak, passes=work.passes)


def check(work: Work) -> None:
    """Fail unless the kernel's result is as close to the exact one as PyTorch's."""
    if work.before is not None:
        work.before()
    work.kernel()
    found, exact = work.result(), work.exact()
    natives = [first(rival.function(*rival.arguments)) for rival in work.rivals.values()]
    assert_as_good(found, exact, natives[0])
    assert work.nbytes > 0


def before(works: Sequence[Work]) -> Call | None:
    calls = [work.before for work in works if work.before is not None]
    if not calls:
        return None

    def every() -> None:
        for call in calls:
            call()

    return every


def rivals(works: Sequence[Work], compiler: Compiler) -> dict[str, Any]:
    """Microseconds of the rivals, or why there are none."""
    found: dict[str, Any] = {}
    for name, rival in works[0].rivals.items():
        arguments = [work.rivals[name].arguments for work in works]
        found[f"torch: {name}, eager, us"] = taken(rival.function, arguments)
        try:
            compiled = compiler(rival.function, rival.arguments)
        except RuntimeError as error:
            found[f"torch: {name}, compiled, us"] = f"not measured: {short(error)}"
            continue
        key = f"torch: {name}, compiled, us"
        late = "not measured: no time was left to compile it"
        found[key] = taken(compiled, arguments) if compiled is not None else late
    return found


def taken(function: Any, arguments: Sequence[Sequence[Any]]) -> float | str:
    """Microseconds of a call of ``function``, or the error if PyTorch cannot capture it."""
    try:
        calls: list[Call] = [lambda own=own: function(*own) for own in arguments]  # type: ignore[misc]
        return microseconds(calls).median
    except RuntimeError as error:
        torch.cuda.synchronize()
        return f"not measured: {short(error)}"


def short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
