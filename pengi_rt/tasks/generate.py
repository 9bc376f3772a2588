"""Prompts about recordings, answered: beam search or sampling behind each window's prefix."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import NamedTuple

from pengi_rt.backends.protocol import F32, SearchingBackend
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.decoding.backtrack import Hypotheses
from pengi_rt.decoding.beam import search
from pengi_rt.decoding.loop import Ended
from pengi_rt.decoding.sampling import sample
from pengi_rt.results.generation import Beam, Result, Timings, Window
from pengi_rt.session.batches import Batch, Part, parts
from pengi_rt.session.session import Session, prefixes
from pengi_rt.tasks.prepare import Request
from pengi_rt.text.tokenizers import DecoderTokenizer


class Answered(NamedTuple):
    """A window's answer to every question."""

    windows: tuple[Window, ...]
    timings: Timings
    """Of the batch that it was in."""


def answers(
    session: Session, batches: Iterable[Batch], asked: Request, *, partly: bool = False
) -> Iterator[Result]:
    """The results of every recording in turn, one for every question.

    ``partly``: those of the first question come in parts, one with every batch.

    Raises:
        BackendError: the session is closed meanwhile, or the decoder's output is no numbers.
    """
    held: list[Answered] = []
    for part in answered(session, batches, asked, partly=partly):
        yield result_of(asked, 0, part)
        if len(asked.questions) == 1:
            continue
        if part.first == 0:
            held = []
        held += part.outputs
        if part.is_last:
            whole = Part(part.recording, 0, held)
            for number in range(1, len(asked.questions)):
                yield result_of(asked, number, whole)


def answered(
    session: Session, batches: Iterable[Batch], asked: Request, *, partly: bool = False
) -> Iterator[Part[Answered]]:
    """What is answered about the windows of every recording in turn. Raises as :func:`answers`."""
    return parts(batches, partial(answer_batch, session, asked), partly=partly)


def result_of(asked: Request, number: int, part: Part[Answered]) -> Result:
    """What ``part`` has about the question of that number."""
    question = asked.questions[number]
    return Result(
        audio=part.recording.name,
        prompt=question.prompt,
        windows=tuple(each.windows[number] for each in part.outputs),
        prompt_truncated=question.truncated,
        audio_truncated=part.recording.truncated,
        audio_warnings=part.recording.warnings,
        timings=Timings.together(each.timings for each in part.outputs),
        options=asked.options,
        extent=part.extent,
    )


def answer_batch(session: Session, asked: Request, batch: Batch) -> list[Answered]:
    """What is answered about every window of a batch. Raises as :func:`answers`."""
    started = perf_counter()
    found: list[list[Hypotheses]] = [[] for _ in asked.questions]
    encode = _answer_waves(session, batch.windows, asked, found)
    decode = perf_counter() - started - encode
    timings = Timings(batch.read, encode, decode, len(batch))
    windows = zip(batch.spans, zip(*found, strict=True), strict=True)
    return [
        Answered(
            tuple(_window(session.tokenizer, span, each, asked.stops) for each in hypotheses),
            timings,
        )
        for span, hypotheses in windows
    ]


def _answer_waves(
    session: Session, wave: F32, asked: Request, found: Sequence[list[Hypotheses]]
) -> float:
    """Add every window's answers to each question's; the seconds until all was encoded."""
    backend, decode = session.backend, asked.decode
    with session.decoding():
        if (
            isinstance(backend, SearchingBackend)
            and isinstance(decode, DecodeOptions)
            and not asked.stops
            and len(found) == 1
        ):
            found[0] += asked.questions[0].answered(wave, decode)
            return 0.0
        started = perf_counter()
        audio = backend.encode_audio(wave).prefix
        rows = [question.rows for question in asked.questions]
        seconds = perf_counter() - started
        for behind, answered in zip(rows, found, strict=True):
            answered.extend(written(session, audio, behind, asked))
    return seconds


def written(session: Session, audio: F32, rows: F32, asked: Request) -> list[Hypotheses]:
    """What is written behind every window's audio rows ``[B, a, n_embd]``, then ``rows``."""
    whole, decode = prefixes(audio, rows), asked.decode
    ended = stopping(session.tokenizer, asked.stops)
    with session.decoding():
        if isinstance(decode, DecodeOptions):
            return search(session.backend, whole, decode, ended=ended)
        return sample(session.backend, whole, decode, ended=ended)


def _window(
    tokenizer: DecoderTokenizer,
    span: tuple[float, float],
    hypotheses: Hypotheses,
    stops: Sequence[str],
) -> Window:
    beams = tuple(
        Beam(tokenizer.decode(beam.tokens), beam.tokens, beam.score, beam.logprobs)
        for beam in hypotheses.beams
    )
    best = beams[0]
    text = tidy(best.text, stops)
    return Window(*span, text, best.text, best.tokens, best.score, beams)


def tidy(raw: str, stops: Sequence[str]) -> str:
    """An answer without the first of ``stops`` and what follows it, nor space at its ends."""
    return before_stop(raw, stops).strip()


def before_stop(text: str, stops: Sequence[str]) -> str:
    """``text`` up to where the first of ``stops`` begins."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def stopping(tokenizer: DecoderTokenizer, stops: Sequence[str]) -> Ended | None:
    """Whether tokens spell one of ``stops``; nothing if there are none."""
    if not stops:
        return None

    def ended(tokens: Sequence[int]) -> bool:
        text = tokenizer.decode(tokens)
        return any(stop in text for stop in stops)

    return ended
