"""Make the backend ready for requests of known shapes."""

from collections.abc import Iterable, Iterator

from pengi_rt.backends.opening import warm_up as warm_up_backend
from pengi_rt.config.backend import WarmUpStep
from pengi_rt.config.options import GenerateOptions, WarmUpOptions, check_batch_sizes
from pengi_rt.session.session import Session
from pengi_rt.tasks.prepare import beam_options


def warm_up(
    session: Session, batch_sizes: Iterable[int], options: WarmUpOptions, *, tune: bool
) -> Iterator[WarmUpStep]:
    """Compile what the backend needs to answer batches of these sizes, if it compiles anything.

    Raises:
        UsageError: the plan has no decoder, or a batch size or an option is out of range.
        BackendError: compilation fails, or the measurements of ``tune`` cannot be saved.
    """
    session.plan.require("generate")
    sizes = check_batch_sizes(batch_sizes)
    chosen = GenerateOptions(**options.to_json()).filled_in(session.generative.generation)
    return warm_up_backend(session.backend, sizes, beam_options(session, chosen), tune=tune)
