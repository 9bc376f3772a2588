"""Turn manifest rows into the tensors that the stages read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.export.tokenizer_source import STOP_TEXT
from pengi_rt.text.tokenizers import DecoderTokenizer, PromptTokenizer
from pengi_rt.training.manifest import Row, Tag

SLOT = "|"
"""Separates the rows of the prefix in a transcript."""

NOTHING = -1
"""Fills up a slot that has fewer words than another."""

REMEMBERED = 2**16  # texts whose ids are cached: questions and labels repeat


class Tensors:
    """A dataclass of tensors (or such dataclasses, or None) that is moved as a whole."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to(self, device: torch.device) -> Self:
        """Copy everything to another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(
            **{name: None if value is None else value.to(device) for name, value in values.items()}
        )


@dataclass(frozen=True, slots=True)
class TextRows(Tensors):
    """R rows of text: the input, and the answer to learn.

    Attributes:
        tokens: [R, N] int64, what follows the prefix.
        mask: [R, N] bool, True where the loss counts.
        prompts: [R, T] int64 for the text encoder; None if the decoder reads the prompts itself,
            which are then at the start of ``tokens``.
        transcripts: [R, P, W] int64, in place of the audio prefix in the reading task: the words of
            each row of the prefix, filled up with :data:`NOTHING`.
        words: [R, K] int64, the decoder's tokens of the prompts that are encoded, filled likewise.
        clips: [R] int64, the clip of the batch that each row is about.
    """

    tokens: Tensor
    mask: Tensor
    prompts: Tensor | None = None
    transcripts: Tensor | None = None
    words: Tensor | None = None
    clips: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Clips(Tensors):
    """B clips and the rows about them.

    Either ``wave`` [B, clip_samples] or ``log_mel`` [B, frames, n_mels] (dB) is set. ``tags``
    [B, audio_steps, n_tags] is 1 where a tag applies.
    """

    rows: TextRows
    wave: Tensor | None = None
    log_mel: Tensor | None = None
    tags: Tensor | None = None


class RowEncoder:
    """Turns rows into ids with the model's tokenizers. Counts the targets that it had to cut.

    Raises:
        TokenizerError: a tokenizer file is broken, or larger than the model.
    """

    def __init__(
        self, config: PengiConfig, tokenizers: Mapping[str, bytes], max_target_tokens: int
    ) -> None:
        self.config = config
        self.max_target_tokens = max_target_tokens
        self.cut = 0
        self._tokenizers = dict(tokenizers)
        self._prompt = PromptTokenizer(tokenizers["text"], config)
        self._decoder = DecoderTokenizer(tokenizers["decoder"], config)
        self.prompt_ids = lru_cache(REMEMBERED)(self._prompt_ids)
        self.target_ids = lru_cache(REMEMBERED)(self._target_ids)
        self.plain_ids = lru_cache(REMEMBERED)(self._plain_ids)
        self.transcript_ids = lru_cache(REMEMBERED)(self._transcript_ids)

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        """Pickle without the caches; a spawned worker builds its own."""
        return type(self), (self.config, self._tokenizers, self.max_target_tokens)

    def _prompt_ids(self, prompt: str) -> tuple[int, ...]:
        return tuple(self._prompt.encode(prompt).ids.tolist())

    def _target_ids(self, target: str) -> tuple[int, ...]:
        ids = self._decoder.encode(target + STOP_TEXT)
        self.cut += len(ids) > self.max_target_tokens
        return tuple(ids[: self.max_target_tokens])

    def _plain_ids(self, text: str) -> tuple[int, ...]:
        """Ids of ``text`` for the decoder, with nothing added."""
        return tuple(self._decoder.encode(text))

    def _transcript_ids(self, transcript: str) -> tuple[tuple[int, ...], ...]:
        """The ids of each slot: bars (``|``) separate slots; without bars each token is a slot.

        There are as many slots as the audio prefix has rows; extra slots are cut, missing ones
        filled with ``pad_id``.
        """
        length = self.config.audio_mapper.prefix_length
        if SLOT in transcript:
            slots = [self._decoder.encode(f" {part.strip()}") for part in transcript.split(SLOT)]
        else:
            slots = [[token] for token in self._decoder.encode(f" {transcript}")]
        slots += [[self.config.pad_id]] * (length - len(slots))
        return tuple(map(tuple, slots[:length]))

    def rows(
        self,
        rows: Sequence[Row],
        *,
        prompts_as_tokens: bool = False,
        transcripts: bool = False,
        clips: Sequence[int] | None = None,
    ) -> TextRows:
        """Make a batch of rows.

        Args:
            rows: the rows.
            prompts_as_tokens: put the prompts before the targets instead of encoding them; always
                the case if the model has no text encoder (``text.kind`` ``decoder``).
            transcripts: whether to include the rows' transcripts.
            clips: for each row, the clip that it is about.
        """
        in_decoder = prompts_as_tokens or self.config.text.kind == "decoder"
        targets = [self.target_ids(row.target) for row in rows]
        prompts = [
            self.plain_ids(row.prompt) if prompts_as_tokens else self.prompt_ids(row.prompt)
            for row in rows
        ]
        before = prompts if in_decoder else [()] * len(rows)
        tokens, mask = _tokens(before, targets, self.config.pad_id)
        read = [np.array(ids, np.int64) for ids in prompts]
        return TextRows(
            tokens=tokens,
            mask=mask,
            prompts=None if in_decoder else torch.from_numpy(self._prompt.pad(read)),
            transcripts=_slots([self.transcript_ids(row.transcript) for row in rows])
            if transcripts
            else None,
            words=_filled([self.plain_ids(row.prompt) for row in rows])
            if transcripts and not in_decoder
            else None,
            clips=None if clips is None else torch.tensor(clips),
        )


def _slots(rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """The words of each slot, [R, P, W] int64, filled up with :data:`NOTHING`."""
    words = _filled([slot for row in rows for slot in row])
    return words.reshape(len(rows), -1, words.shape[1])


def _filled(rows: Sequence[Sequence[int]]) -> Tensor:
    """The ids of each row, [R, W] int64, filled up with :data:`NOTHING`."""
    width = max(map(len, rows))
    return torch.tensor([[*ids, *[NOTHING] * (width - len(ids))] for ids in rows])


def _tokens(
    before: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], fill: int
) -> tuple[Tensor, Tensor]:
    """Prompt and target ids as one batch, padded at the end, and a mask of the targets."""
    lengths = [len(prompt) + len(target) for prompt, target in zip(before, targets, strict=True)]
    tokens = torch.full((len(targets), max(lengths)), fill)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (prompt, target) in enumerate(zip(before, targets, strict=True)):
        tokens[row, : lengths[row]] = torch.tensor([*prompt, *target])
        mask[row, len(prompt) : lengths[row]] = True
    return tokens, mask


def tag_names(rows: Sequence[Row]) -> tuple[str, ...]:
    """The distinct tags of the rows, sorted."""
    return tuple(sorted({tag.name for row in rows for tag in row.tags}))


def tag_targets(
    tags: Sequence[Tag], index: Mapping[str, int], *, steps: int, seconds: float, start: float
) -> Tensor:
    """Targets [steps, n_tags]: 1 where the middle of a step is inside the tag's time.

    A tag without times applies throughout. With a single step, every tag applies.

    Args:
        tags: the tags of a recording; their seconds count from its start.
        index: the column of each tag; other tags are ignored.
        steps: the number of rows.
        seconds: the length of the clip.
        start: where the clip begins in the recording, in seconds.
    """
    middles = start + (np.arange(steps) + 0.5) * (seconds / steps)
    targets = np.zeros((steps, len(index)), np.float32)
    for tag in tags:
        if tag.name in index:
            inside = np.ones(steps, np.bool_)
            if steps > 1 and tag.start is not None and tag.end is not None:
                inside = (middles >= tag.start) & (middles <= tag.end)
            targets[inside, index[tag.name]] = 1.0
    return torch.from_numpy(targets)
