"""One or several: what is given and what comes of it have the same shape."""

from collections.abc import Sequence
from typing import TypeVar, cast

from pengi_rt.audio.recording import AudioLike, Recording
from pengi_rt.config.checked import listed
from pengi_rt.errors import PromptError, UsageError
from pengi_rt.session.batches import is_batch
from pengi_rt.system.scalars import as_text

Source = AudioLike | Recording
Prompts = str | Sequence[str] | None
Item = TypeVar("Item")


def several(audio: Source | Sequence[Source]) -> Sequence[Source]:
    """The recordings in a list, if there is only one too."""
    return cast("Sequence[Source]", audio if is_batch(audio) else [audio])


def as_given(audio: object, results: list[Item]) -> Item | list[Item]:
    """The results about ``audio``: of one recording, its own."""
    return results if is_batch(audio) else results[0]


def in_rows(results: Sequence[Item], size: int) -> list[list[Item]]:
    """The results, a list for every ``size`` of them."""
    return [list(results[first : first + size]) for first in range(0, len(results), size)]


def plain_prompts(prompt: object) -> str | list[str]:
    """One prompt, or a list of what a list, an array or an iterator holds.

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
