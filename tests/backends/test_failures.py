"""A backend failure is one line; running out of memory is named as such, wherever it happens."""

import re

import pytest
import torch

from pengi_rt.backends.failures import explained, failure
from pengi_rt.errors import BackendError, PlanError, PromptError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 9. TiB for an array"),
        RuntimeError("std::bad_alloc"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't "
            "allocate memory: you tried to allocate 9 bytes"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        type("RuntimeException", (Exception,), {})(
            "[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9"
        ),
    ],
)
@pytest.mark.parametrize("of_graph", [True, False])
def test_out_of_memory_says_what_helps(error: Exception, *, of_graph: bool) -> None:
    found = failure(error, "it", of_graph=of_graph)
    assert isinstance(found, BackendError)
    assert re.search(r"^it ran out of memory: .*--batch-size", str(found))
    assert "export" not in str(found)
    with pytest.raises(BackendError) as caught, explained("it"):
        raise error
    assert str(caught.value) == str(found)


@pytest.mark.parametrize("error", [RuntimeError, IndexError, TypeError, Exception])
def test_other_failures(error: type[Exception]) -> None:
    with pytest.raises(BackendError, match=r"^it failed: a b$"), explained("it"):
        raise error("a\n  b")
    found = failure(error("a\n  b"), "it", of_graph=True)
    assert isinstance(found, PlanError)
    assert str(found) == "it does not run: a b; export it again"
    with pytest.raises(BackendError, match=rf"^it failed: {error.__name__}$"), explained("it"):
        raise error


def test_our_own_errors_pass_unchanged() -> None:
    for known in (PromptError("x"), KeyboardInterrupt(), ValueError("NaN")):
        with pytest.raises(type(known)) as caught, explained("it"):
            raise known
        assert caught.value is known
