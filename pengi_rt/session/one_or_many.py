"""One recording or several, one prompt or several: results have the shape of what was given."""

from collections.abc import Sequence
from typing import TypeVar, cast

from pengi_rt.audio.sources import is_several
from pengi_rt.config.checked import listed
from pengi_rt.errors import PromptError, UsageError
from pengi_rt.session.batches import AnyRecording
from pengi_rt.system.scalars import as_text

Prompts = str | Sequence[str] | None
Item = TypeVar("Item")


def as_list(audio: AnyRecording | Sequence[AnyRecording]) -> Sequence[AnyRecording]:
    """The recordings as a list, even if there is only one. ``(samples, rate)`` is one."""
    return cast("Sequence[AnyRecording]", audio if is_several(audio) else [audio])


def shaped_like(audio: object, results: list[Item]) -> Item | list[Item]:
    """The results for ``audio``: a list for a list, otherwise the only one."""
    return results if is_several(audio) else results[0]


def in_groups(results: Sequence[Item], size: int) -> list[list[Item]]:
    """The results as lists of ``size`` each."""
    return [list(results[first : first + size]) for first in range(0, len(results), size)]


def plain_prompts(prompt: object) -> str | list[str]:
    """One prompt, or a list made from a list, an array or an iterator.

    Raises:
        PromptError: it is neither.
    """
    if (text := as_text(prompt)) is not None:
        return text
    try:
        return listed("prompt", prompt)
    except UsageError:
        raise PromptError(
            f"the prompt must be a string, or a list of them, got {type(prompt).__name__}"
        ) from None
