"""Ask an engine every question about synthetic clips, in batches."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.family import generative
from pengi_rt.decoding.beam import search
from pengi_rt.engine import Engine
from pengi_rt.training.scenes.held_out import Clip
from pengi_rt.training.scenes.synthesis import F32

BATCH = 64
"""Clips, and answers, per batch."""

MAX_NEW_TOKENS = 40


class Asker:
    """Asks an engine questions; each prompt and each clip is encoded once."""

    def __init__(self, engine: Engine, *, beam_size: int = 3) -> None:
        self._engine = engine
        config = generative(engine.config)
        self._options = DecodeOptions(
            beam_size=beam_size,
            max_new_tokens=MAX_NEW_TOKENS,
            temperature=1.0,
            stop_id=config.stop_id,
            pad_id=config.pad_id,
        )
        self._prompts: dict[str, F32] = {}

    def ask(
        self, clips: Iterable[Clip], *, silence: bool = False
    ) -> Iterator[tuple[Clip, list[tuple[int, ...]]]]:
        """Yield each clip with the tokens of the best beam for each of its questions.

        Args:
            clips: the clips; :data:`BATCH` of them are in memory at a time.
            silence: give the engine zeros instead of the clips.
        """
        clips = iter(clips)
        while chunk := list(islice(clips, BATCH)):
            waves = np.stack([clip.samples * (0 if silence else 1) for clip in chunk])
            audio = self._engine.backend.encoders.encode_audio(waves).prefix
            said = self._search(
                [
                    np.concatenate([audio[index], self._prompt(question.prompt)])
                    for index, clip in enumerate(chunk)
                    for question in clip.questions
                ]
            )
            for clip in chunk:
                yield clip, list(islice(said, len(clip.questions)))

    def _search(self, prefixes: Sequence[F32]) -> Iterator[tuple[int, ...]]:
        for start in range(0, len(prefixes), BATCH):
            batch = prefixes[start : start + BATCH]
            for hypotheses in search(self._engine.backend, batch, self._options):
                yield hypotheses.beams[0].tokens

    def _prompt(self, prompt: str) -> F32:
        """The prompt's prefix, [T, n_embd]."""
        if prompt not in self._prompts:
            ids = self._engine.prompt_tokenizer.encode(prompt).ids
            self._prompts[prompt] = self._engine.backend.encoders.encode_text(ids[None]).prefix[0]
        return self._prompts[prompt]
