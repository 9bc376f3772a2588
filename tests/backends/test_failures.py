"""What stops a backend is one line; what ran out of memory says so, whoever noticed."""

import pytest
import torch

from pengi_rt.backends.failures import explained
from pengi_rt.errors import BackendError, PlanError, PromptError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 9. TiB for an array"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't "
                     "allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        type("RuntimeException", (Exception,), {})(
            "[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9"
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("its_graph", [True, False])
def test_out_of_memory_says_what_helps(error: Exception, *, its_graph: bool) -> None:
    line = r"^it ran out of memory: .*--batch-size"
    with pytest.raises(BackendError, match=line) as caught, explained("it", its_graph=its_graph):
        raise error
    assert "export" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError, IndexError, TypeError, Exception])
def test_other_failures(error: type[Exception]) -> None:
    with pytest.raises(BackendError, match=r"^it failed: a b$"), explained("it"):
        raise error("a\n  b")
    line = r"^it does not run: a b; export it again$"
    with pytest.raises(PlanError, match=line), explained("it", its_graph=True):
        raise error("a\n  b")
    with pytest.raises(BackendError, match=rf"^it failed: {error.__name__}$"), explained("it"):
        raise error


def test_what_is_said_already_passes() -> None:
    for known in (PromptError("x"), KeyboardInterrupt(), ValueError("NaN")):
        with pytest.raises(type(known)) as caught, explained("it"):
            raise known
        assert caught.value is known
