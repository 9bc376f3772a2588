"""One recording or several, one prompt or several: results have the shape of the arguments."""

from collections.abc import Sequence
from typing import TypeVar, cast, overload

from pengi_rt.audio.audio_like import is_several
from pengi_rt.config.checked import as_text, listed
from pengi_rt.errors import PromptError, UsageError
from pengi_rt.session.batches import Audio

OneOrMany = Audio | Sequence[Audio]
Prompts = str | Sequence[str] | None
Item = TypeVar("Item")


def as_list(audio: OneOrMany) -> Sequence[Audio]:
    """The recordings as a list, even if there is only one. ``(samples, rate)`` counts as one."""
    return cast("Sequence[Audio]", audio if is_several(audio) else [audio])


@overload
def shaped_like(audio: object, results: list[Item]) -> Item | list[Item]: ...


@overload
def shaped_like(
    audio: object, results: list[Item], prompts: Prompts
) -> Item | list[Item] | list[list[Item]]: ...


def shaped_like(
    audio: object, results: list[Item], prompts: Prompts = None
) -> Item | list[Item] | list[list[Item]]:
    """The results for ``audio``: a list if it is a list, otherwise its single result.

    If ``prompts`` is a list, each recording's result is itself a list, one result per prompt.
    """
    if prompts is None or isinstance(prompts, str):
        return results if is_several(audio) else results[0]
    size = len(prompts)
    groups = [results[first : first + size] for first in range(0, len(results), size)]
    return groups if is_several(audio) else groups[0]


def plain_prompts(prompt: object) -> str | list[str]:
    """One prompt, or a list made from a list, an array or an iterator.

    Raises:
        PromptError: ``prompt`` is neither a string nor any of these.
    """
    if (text := as_text(prompt)) is not None:
        return text
    try:
        return listed("prompt", prompt)
    except UsageError:
        raise PromptError(
            f"the prompt must be a string or a list of strings, got {type(prompt).__name__}"
        ) from None
