"""Answers to prompts about recordings: beam search or sampling after each window's prefix."""

from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

from pengi_rt.backends.protocol import F32
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.options import GenerateOptions
from pengi_rt.decoding.backtrack import Hypotheses
from pengi_rt.decoding.beam import fused_search, search
from pengi_rt.decoding.sampling import sample
from pengi_rt.results.generation import Beam, Result, Timings, Window
from pengi_rt.session.batches import Batch, OutputsByRecording, RecordingOutputs
from pengi_rt.session.session import Session, full_prefixes
from pengi_rt.tasks.prepare import PreparedRequest, prepare, prompts_of
from pengi_rt.text.tokenizers import DecoderTokenizer


class WindowAnswers(NamedTuple):
    """One window's answers to all prompts."""

    windows: tuple[Window, ...]
    """One list of hypotheses per prompt."""
    timings: Timings
    """The timings of the window's batch."""


def generate(
    session: Session,
    batches: Iterable[Batch],
    prompt: str | Sequence[str] | None,
    options: GenerateOptions,
    *,
    partial_results: bool = False,
) -> Iterator[Result]:
    """Answer about each recording in turn; see :func:`iter_results`.

    Raises:
        UsageError, PromptError, BackendError: as for :func:`~pengi_rt.tasks.prepare.prepare`; or
            the plan cannot generate, or there is no single way to read the prompt and the task.
    """
    session.plan.require("generate")
    prompts = prompts_of(prompt, options, session.generative.generation.prompt)
    request = prepare(session, prompts, options)
    return iter_results(session, batches, request, partial_results=partial_results)


def iter_results(
    session: Session,
    batches: Iterable[Batch],
    request: PreparedRequest,
    *,
    partial_results: bool = False,
) -> Iterator[Result]:
    """Yield the results of each recording in turn, one per prompt.

    With ``partial_results``, the first prompt's results come in parts, one per batch.

    Raises:
        BackendError: the session has been closed, or the decoder's output is NaN.
    """
    by_recording = OutputsByRecording[WindowAnswers](partial_results=partial_results)
    answers: list[WindowAnswers] = []
    for batch in batches:
        for part in by_recording.add(batch, answer_batch(session, request, batch)):
            yield result_for(request, 0, part)
            if len(request.prompts) == 1:
                continue
            if part.first == 0:
                answers = []
            answers += part.outputs
            if part.is_last:
                whole = RecordingOutputs(part.recording, 0, answers)
                for number in range(1, len(request.prompts)):
                    yield result_for(request, number, whole)


def result_for(
    request: PreparedRequest, number: int, part: RecordingOutputs[WindowAnswers]
) -> Result:
    """The result for prompt ``number`` over the windows of ``part``."""
    prompt = request.prompts[number]
    return Result(
        audio=part.recording.name,
        prompt=prompt.prompt,
        windows=tuple(answers.windows[number] for answers in part.outputs),
        prompt_truncated=prompt.truncated,
        audio_truncated=part.recording.truncated,
        audio_warnings=part.recording.warnings,
        timings=Timings.combined(answers.timings for answers in part.outputs),
        options=request.options,
        window_range=part.window_range,
    )


def answer_batch(session: Session, request: PreparedRequest, batch: Batch) -> list[WindowAnswers]:
    """Answer all prompts about every window of a batch. Raises like :func:`iter_results`."""
    by_prompt = list[list[Hypotheses]]()
    with session.exclusive_decoding():
        started = encoded = perf_counter()  # once others have finished
        fused = fused_search(session.backend, request.decode, request.is_finished)
        if fused is not None and len(request.prompts) == 1:
            by_prompt.append(request.prompts[0].search_on_device(fused, batch.windows))
        else:
            audio = session.backend.encoders.encode_audio(batch.windows).prefix
            prefixes = [prompt.prefix() for prompt in request.prompts]
            encoded = perf_counter()
            for prefix in prefixes:
                by_prompt.append(decode_windows(session, audio, prefix, request))
    decoded = perf_counter()
    timings = Timings(batch.read_seconds, encoded - started, decoded - encoded, len(batch))
    return [
        WindowAnswers(
            tuple(_window(session.tokenizer, span, each, request.stops) for each in hypotheses),
            timings,
        )
        for span, hypotheses in zip(batch.spans, zip(*by_prompt, strict=True), strict=True)
    ]


def decode_windows(
    session: Session, audio: F32, prompt: F32, request: PreparedRequest
) -> list[Hypotheses]:
    """Hypotheses after each window's prefix ``[B, a, n_embd]`` and the prompt's ``[n, n_embd]``.

    The caller holds the session (:meth:`Session.exclusive_decoding`).
    """
    prefixes, options = full_prefixes(audio, prompt), request.decode
    if isinstance(options, DecodeOptions):
        return search(session.backend, prefixes, options, is_finished=request.is_finished)
    return sample(session.backend, prefixes, options, is_finished=request.is_finished)


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
    """``text``, cut where the first of ``stops`` begins."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
