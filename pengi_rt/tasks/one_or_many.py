"""One or many: a call takes one recording or a list, one prompt or a list, and answers alike."""

from collections.abc import Sequence
from typing import TypeVar, cast, overload

from pengi_rt.audio.audio_like import is_several
from pengi_rt.session.batches import Audio

Item = TypeVar("Item")

Audios = Sequence[Audio]
OneOrMany = Audio | Audios
Prompts = str | Sequence[str] | None


def as_list(audio: OneOrMany) -> Audios:
    """The recordings as a list, even if there is only one. ``(samples, rate)`` counts as one."""
    return cast("Audios", audio if is_several(audio) else [audio])


@overload
def shaped_like(audio: OneOrMany, results: list[Item]) -> Item | list[Item]: ...
@overload
def shaped_like(
    audio: OneOrMany, results: list[Item], prompts: Prompts
) -> Item | list[Item] | list[list[Item]]: ...
def shaped_like(
    audio: OneOrMany, results: list[Item], prompts: Prompts = None
) -> Item | list[Item] | list[list[Item]]:
    """The results for ``audio``: a list if it is a list, otherwise its single result.

    If ``prompts`` is a list, each recording's result is itself a list, one result per prompt.
    """
    if prompts is None or isinstance(prompts, str):
        return results if is_several(audio) else results[0]
    size = len(prompts)
    groups = [results[first : first + size] for first in range(0, len(results), size)]
    return groups if is_several(audio) else groups[0]
