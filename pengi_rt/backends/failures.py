"""Turns any backend failure into a one-line error of ours, and recognizes out-of-memory errors.

ONNX Runtime raises a dozen classes without a common base, and plain RuntimeErrors when outputs are
bound; PyTorch, Triton and NumPy have their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pengi_rt.errors import OUT_OF_MEMORY, BackendError, PengiError, PlanError
from pengi_rt.system.quote import one_line

_OUT_OF_MEMORY_WORDS = (
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "smaller than requested bytes",
)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn exceptions in the block into one-line errors that name ``what``.

    Our own errors pass unchanged, and so do ValueErrors, by which a device's own search reports
    NaN logits.

    Raises:
        BackendError: the block ran out of memory, or failed.
    """
    try:
        yield
    except (PengiError, ValueError):
        raise
    except Exception as error:
        raise failure(error, what) from error


def failure(error: Exception, what: str, *, of_graph: bool = False) -> BackendError | PlanError:
    """The one-line error to raise for ``error``, which ``what`` raised.

    It is a BackendError; but if ``what`` is a graph from a plan (``of_graph``) and memory did not
    run out, it is a PlanError.
    """
    if ran_out_of_memory(error):
        return BackendError(f"{what} {OUT_OF_MEMORY}")
    reason = one_line(" ".join(str(error).split()) or type(error).__name__)
    if of_graph:
        return PlanError(f"{what} does not run: {reason}; export it again")
    return BackendError(f"{what} failed: {reason}")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that memory ran out; few libraries have a class for it."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY_WORDS)
