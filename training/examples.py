"""Manifest rows as the tensors that the stages read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from pengi_rt.config.model import ModelConfig
from pengi_rt.export.tokenizer_source import STOP_TEXT
from pengi_rt.text.tokenizers import DecoderTokenizer, PromptTokenizer
from pengi_rt.training.manifest import Row, Tag

SLOT = "|"
"""In a transcript: what stands before it and what behind are different rows of the prefix."""

NOTHING = -1
"""Fills a slot with fewer words than another."""

REMEMBERED = 2**16  # texts whose ids are kept: questions and labels come again and again


class Tensors:
    """A dataclass of tensors (or such dataclasses, or None) that moves as one."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(
            **{name: None if value is None else value.to(device) for name, value in values.items()}
        )


@dataclass(frozen=True, slots=True)
class TextRows(Tensors):
    """R rows of text: what is read, and what is to be said.

    ``tokens`` [R, N] int64 is what follows the prefix; the loss counts where ``mask`` [R, N] is
    true. ``prompts`` [R, T] is for the text encoder (None where the decoder reads prompts itself:
    then they stand at the start of ``tokens``). ``transcripts`` [R, P, W] stand for the audio
    prefix in the reading task: the words of each of its rows, the rest :data:`NOTHING`; and
    ``words`` [R, K] are the encoded prompts' tokens to the decoder, filled likewise. ``clips`` [R]
    says which clip of the batch a row is about.
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

    One of ``wave`` [B, clip_samples] and ``log_mel`` [B, frames, n_mels] (dB) is there; ``tags``
    [B, audio_steps, n_tags] is 1 where a tag holds.
    """

    rows: TextRows
    wave: Tensor | None = None
    log_mel: Tensor | None = None
    tags: Tensor | None = None


class RowEncoder:
    """Rows to ids, with the model's own tokenizers. Counts the targets that it had to cut.

    Raises:
        TokenizerError: a tokenizer file is broken, or larger than the model.
    """

    def __init__(
        self, config: ModelConfig, tokenizers: Mapping[str, bytes], max_target_tokens: int
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
        """Made again where it arrives: what is remembered stays (workers may be spawned)."""
        return type(self), (self.config, self._tokenizers, self.max_target_tokens)

    def _prompt_ids(self, prompt: str) -> tuple[int, ...]:
        return tuple(self._prompt.encode(prompt).ids.tolist())

    def _target_ids(self, target: str) -> tuple[int, ...]:
        ids = self._decoder.encode(target + STOP_TEXT)
        self.cut += len(ids) > self.max_target_tokens
        return tuple(ids[: self.max_target_tokens])

    def _plain_ids(self, text: str) -> tuple[int, ...]:
        """Ids of ``text`` as the decoder reads it, nothing added."""
        return tuple(self._decoder.encode(text))

    def _transcript_ids(self, transcript: str) -> tuple[tuple[int, ...], ...]:
        """The ids of every slot; each token has its own unless bars (``|``) say what goes together.

        There are as many slots as the audio prefix has rows: cut, or filled with ``pad_id``.
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
        """A batch of rows.

        Args:
            rows: the rows.
            prompts_as_tokens: put the prompts before the targets instead of encoding them; always
                so where the model has no text side (``text.kind`` ``decoder``).
            transcripts: whether the rows' transcripts are wanted.
            clips: for every row the clip that it is about.
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
    """[R, P, W] int64: the words of every slot, filled with :data:`NOTHING`."""
    words = _filled([slot for row in rows for slot in row])
    return words.reshape(len(rows), -1, words.shape[1])


def _filled(rows: Sequence[Sequence[int]]) -> Tensor:
    """[R, W] int64: the ids of every row, filled with :data:`NOTHING`."""
    width = max(map(len, rows))
    return torch.tensor([[*ids, *[NOTHING] * (width - len(ids))] for ids in rows])


def _tokens(
    before: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], fill: int
) -> tuple[Tensor, Tensor]:
    """Prompt and target ids as one batch, filled at the end, and where the targets are."""
    lengths = [len(prompt) + len(target) for prompt, target in zip(before, targets, strict=True)]
    tokens = torch.full((len(targets), max(lengths)), fill)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (prompt, target) in enumerate(zip(before, targets, strict=True)):
        tokens[row, : lengths[row]] = torch.tensor([*prompt, *target])
        mask[row, len(prompt) : lengths[row]] = True
    return tokens, mask


def tag_names(rows: Sequence[Row]) -> tuple[str, ...]:
    """Every tag of the rows once, sorted."""
    return tuple(sorted({tag.name for row in rows for tag in row.tags}))


def tag_targets(
    tags: Sequence[Tag], index: Mapping[str, int], *, steps: int, seconds: float, start: float
) -> Tensor:
    """[steps, n_tags]: 1 where the middle of a step lies inside the tag's time.

    A tag without times holds throughout; with a single step, a tag holds if it is there at all.

    Args:
        tags: those of a recording; their seconds count from its start.
        index: column of every tag; tags that it does not name are left out.
        steps: rows.
        seconds: length of the clip.
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
