"""Answers to prompts about recordings: beam search or sampling after each window's prefix."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import NamedTuple

from pengi_rt.backends.protocol import F32
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.decoding.backtrack import Hypotheses
from pengi_rt.decoding.beam import fused_search, search
from pengi_rt.decoding.loop import StopTest
from pengi_rt.decoding.sampling import sample
from pengi_rt.results.generation import Beam, Result, Timings, Window
from pengi_rt.session.batches import Batch, Part, parts
from pengi_rt.session.session import Session, prefixes
from pengi_rt.tasks.prepare import Request
from pengi_rt.text.tokenizers import DecoderTokenizer


class WindowAnswers(NamedTuple):
    """One window's answers to all prompts."""

    windows: tuple[Window, ...]
    """One per prompt."""
    timings: Timings
    """Of the window's batch."""


def iter_results(
    session: Session, batches: Iterable[Batch], request: Request, *, partly: bool = False
) -> Iterator[Result]:
    """Yield the results of each recording in turn, one per prompt.

    ``partly``: those of the first prompt come in parts, one with every batch.

    Raises:
        BackendError: the session was closed meanwhile, or the decoder's output is NaN.
    """
    answers: list[WindowAnswers] = []
    for part in answer_recordings(session, batches, request, partly=partly):
        yield result_for(request, 0, part)
        if len(request.questions) == 1:
            continue
        if part.first == 0:
            answers = []
        answers += part.outputs
        if part.is_last:
            whole = Part(part.recording, 0, answers)
            for number in range(1, len(request.questions)):
                yield result_for(request, number, whole)


def answer_recordings(
    session: Session, batches: Iterable[Batch], request: Request, *, partly: bool = False
) -> Iterator[Part[WindowAnswers]]:
    """Yield the answers about all windows of each recording. Raises as :func:`iter_results`."""
    return parts(batches, partial(answer_batch, session, request), partly=partly)


def result_for(request: Request, number: int, part: Part[WindowAnswers]) -> Result:
    """The result for prompt ``number`` over the windows of ``part``."""
    question = request.questions[number]
    return Result(
        audio=part.recording.name,
        prompt=question.prompt,
        windows=tuple(answers.windows[number] for answers in part.outputs),
        prompt_truncated=question.truncated,
        audio_truncated=part.recording.truncated,
        audio_warnings=part.recording.warnings,
        timings=Timings.together(answers.timings for answers in part.outputs),
        options=request.options,
        extent=part.extent,
    )


def answer_batch(session: Session, request: Request, batch: Batch) -> list[WindowAnswers]:
    """Answer all prompts about every window of a batch. Raises as :func:`iter_results`."""
    started = perf_counter()
    by_prompt, encode = _decode_batch(session, batch.windows, request)
    decode = perf_counter() - started - encode
    timings = Timings(batch.read, encode, decode, len(batch))
    by_window = zip(batch.spans, zip(*by_prompt, strict=True), strict=True)
    return [
        WindowAnswers(
            tuple(_window(session.tokenizer, span, each, request.stops) for each in hypotheses),
            timings,
        )
        for span, hypotheses in by_window
    ]


def _decode_batch(
    session: Session, windows: F32, request: Request
) -> tuple[list[list[Hypotheses]], float]:
    """For each prompt every window's hypotheses; and the seconds that encoding took."""
    is_finished = stop_test(session.tokenizer, request.stops)
    with session.decoding():
        fused = fused_search(session.backend, request.decode, is_finished)
        if fused is not None and len(request.questions) == 1:
            return [request.questions[0].search_on_device(fused, windows)], 0.0
        started = perf_counter()
        audio = session.backend.encoders.encode_audio(windows).prefix
        prompts = [question.rows for question in request.questions]
        encode = perf_counter() - started
        return [decode_windows(session, audio, rows, request) for rows in prompts], encode


def decode_windows(session: Session, audio: F32, rows: F32, request: Request) -> list[Hypotheses]:
    """Hypotheses after each window's audio prefix ``[B, a, n_embd]`` and then ``rows``."""
    whole, decode = prefixes(audio, rows), request.decode
    is_finished = stop_test(session.tokenizer, request.stops)
    with session.decoding():
        if isinstance(decode, DecodeOptions):
            return search(session.backend, whole, decode, is_finished=is_finished)
        return sample(session.backend, whole, decode, is_finished=is_finished)


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
    text = cut_at_stop(best.text, stops).strip()
    return Window(*span, text, best.text, best.tokens, best.score, beams)


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """``text`` up to where the first of ``stops`` begins."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def stop_test(tokenizer: DecoderTokenizer, stops: Sequence[str]) -> StopTest | None:
    """The test whether tokens spell one of ``stops``; None if there are none."""
    if not stops:
        return None

    def is_finished(tokens: Sequence[int]) -> bool:
        text = tokenizer.decode(tokens)
        return any(stop in text for stop in stops)

    return is_finished
