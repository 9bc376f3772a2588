"""Ask an engine every question about synthetic clips, in batches."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.family import generative
from pengi_rt.decoding.beam import search
from pengi_rt.decoding.loop import require_decoder
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
        for chunk, prefixes in self._prefixes(clips, silence=silence):
            said = self._search(prefixes)
            for clip in chunk:
                yield clip, list(islice(said, len(clip.questions)))

    def next_tokens(
        self, clips: Iterable[Clip], answers: Iterable[tuple[int, ...]]
    ) -> Iterator[list[int]]:
        """The likeliest token at every place of given answers, one per question, in order."""
        answers = iter(answers)
        decoder = require_decoder(self._engine.backend)
        for _, prefixes in self._prefixes(clips):
            for prefix, answer in zip(prefixes, answers, strict=False):
                slot, size = np.zeros(1, np.int64), np.array([len(prefix)])
                cache = decoder.new_cache(
                    slots=1, width=1, prefix_rows=len(prefix), new_tokens=len(answer)
                )
                found = [int(decoder.prefill(cache, slot, prefix[None], size).argmax())]
                for token in answer[:-1]:
                    logits = decoder.step(cache, np.array([[token]]), np.zeros((1, 1), np.int64))
                    found.append(int(logits.argmax()))
                yield found

    def _prefixes(
        self, clips: Iterable[Clip], *, silence: bool = False
    ) -> Iterator[tuple[list[Clip], list[F32]]]:
        """:data:`BATCH` clips at a time, and the whole prefixes of all their questions."""
        clips = iter(clips)
        while chunk := list(islice(clips, BATCH)):
            waves = np.stack([clip.samples * (0 if silence else 1) for clip in chunk])
            audio = self._engine.backend.encoders.encode_audio(waves).prefix
            yield (
                chunk,
                [
                    np.concatenate([audio[index], self._prompt(question.prompt)])
                    for index, clip in enumerate(chunk)
                    for question in clip.questions
                ],
            )

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
