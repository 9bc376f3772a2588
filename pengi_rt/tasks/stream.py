"""An answer as it is written, piece by piece."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from pengi_rt.audio.recording import AudioLike, Recording
from pengi_rt.backends.protocol import F32
from pengi_rt.config.options import GenerateOptions
from pengi_rt.decoding.streaming import Token, check_single, stream_tokens
from pengi_rt.session.batches import Batch, read_batches
from pengi_rt.session.session import Session, prefixes
from pengi_rt.tasks.generate import before_stop, stopping
from pengi_rt.tasks.prepare import Request, one_prompt, request
from pengi_rt.text.tokenizers import DecoderTokenizer

logger = logging.getLogger(__name__)

_SETTLED: Final = ",;:"  # no space behind these is ever taken away
_UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"  # bytes of a character whose rest is to come


def stream(
    session: Session, audio: AudioLike | Recording, prompt: str | None, options: GenerateOptions
) -> Iterator[str]:
    """Pieces of the answer about ``audio``, as :meth:`pengi_rt.engine.Engine.stream` gives them.

    Raises:
        UsageError, PromptError, BackendError: as :func:`~pengi_rt.tasks.prepare.request`, by
            the call itself; also if more than one beam, sample or prompt is asked for.
        AudioError: the recording cannot be read, with the first piece.
    """
    if options.samples is None and options.beam_size is None:
        options = replace(options, beam_size=1)
    batches = read_batches([audio], session.config, options)
    one = one_prompt(prompt, options, session.config.generation.prompt, "stream")
    asked = request(session, [one], options)
    check_single(asked.decode)
    if asked.questions[0].truncated:
        logger.warning("the prompt is longer than the text encoder reads and was cut: %.40r", one)
    return _pieces(session, batches, asked, cropped=options.long_audio != "windows")


def _pieces(
    session: Session, batches: Iterable[Batch], asked: Request, *, cropped: bool
) -> Iterator[str]:
    """Window by window, a line each."""
    first = True
    for batch in batches:
        for recording, *_ in batch.shares if cropped else ():
            if recording.truncated:
                logger.warning("%s: only one window is answered", recording.name)
        with session.in_use():
            audio = session.backend.encode_audio(batch.windows).prefix
        for prefix in prefixes(audio, asked.questions[0].rows):
            if not first:
                yield "\n"
            first = False
            yield from _text(session, prefix, asked)


def _text(session: Session, prefix: F32, asked: Request) -> Iterator[str]:
    written = Written(session.tokenizer, asked.stops)
    for token in _tokens(session, prefix, asked):
        if piece := written.add(token.id):
            yield piece
    if piece := written.rest():
        yield piece


def _tokens(session: Session, prefix: F32, asked: Request) -> Iterator[Token]:
    """One by one: others may use the session between two of them."""
    ended = stopping(session.tokenizer, asked.stops)
    tokens = stream_tokens(session.backend, prefix, asked.decode, ended=ended)
    while True:
        with session.decoding():
            token = next(tokens, None)
        if token is None:
            return
        yield token


class Written:
    """Tokens so far, and how much of their text can no longer change.

    What may still change is held back: a character of which bytes are missing, the beginning of a
    stop string, and spaces, which decoding takes away before punctuation. So text comes in whole
    words.
    """

    def __init__(self, tokenizer: DecoderTokenizer, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._tokens: list[int] = []
        self._given = 0

    def add(self, token: int) -> str:
        """The text that is certain since the token before."""
        self._tokens.append(token)
        text = self._text()
        return self._up_to(_certain(text, self._stops))

    def rest(self) -> str:
        """What was held back, once there are no more tokens."""
        return self._up_to(self._text().rstrip())

    def _text(self) -> str:
        text = self._tokenizer.decode(self._tokens)
        return before_stop(text, self._stops).lstrip()

    def _up_to(self, text: str) -> str:
        new = text[self._given :]
        self._given += len(new)
        return new


def _certain(text: str, stops: Sequence[str]) -> str:
    """The part of ``text`` that later tokens leave as it is."""
    end = len(text.rstrip(_UNFINISHED))
    for stop in stops:
        for size in range(1, len(stop)):
            if text.endswith(stop[:size]):
                end = min(end, len(text) - size)
    # Clean-up joins what begins with a space to the word before it.
    end = text.rfind(" ", 0, end)
    while end > 0 and not (text[end - 1].isalnum() or text[end - 1] in _SETTLED):
        end = text.rfind(" ", 0, end)
    return text[: max(end, 0)]
