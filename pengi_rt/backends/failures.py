"""Whatever stops a backend, as one line of ours; what ran out of memory says so.

ONNX Runtime raises a dozen classes without a common base, and plain RuntimeErrors where outputs are
bound; PyTorch, Triton and NumPy have their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pengi_rt.errors import OUT_OF_MEMORY, BackendError, PengiError, PlanError
from pengi_rt.system.quote import one_line

_SAYS_NO_MEMORY = (
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
def explained(what: str, *, its_graph: bool = False) -> Iterator[None]:
    """Make what ``what`` raises one line; our own errors pass.

    So do ValueErrors, with which a backend's own search says that logits are no numbers; a graph
    raises them too, but for reasons of ONNX Runtime's.

    Raises:
        BackendError: it ran out of memory, or failed.
        PlanError: it failed, and is a graph that the plan brings (``its_graph``).
    """
    try:
        yield
    except PengiError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and not its_graph:
            raise
        if ran_out_of_memory(error):
            raise BackendError(f"{what} {OUT_OF_MEMORY}") from error
        reason = one_line(" ".join(str(error).split()) or type(error).__name__)
        if its_graph:
            raise PlanError(f"{what} does not run: {reason}; export it again") from error
        raise BackendError(f"{what} failed: {reason}") from error


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether that is why: few libraries have a class for it."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _SAYS_NO_MEMORY)
