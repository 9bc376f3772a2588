"""An answer piece by piece, while it is being generated."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from pengi_rt.backends.protocol import F32
from pengi_rt.config.options import GenerateOptions
from pengi_rt.decoding.streaming import Token, check_single, stream_tokens
from pengi_rt.session.batches import Audio, Batch, window_batches
from pengi_rt.session.session import Session, full_prefixes
from pengi_rt.tasks.generate import cut_at_stop
from pengi_rt.tasks.prepare import PreparedRequest, one_prompt, prepare
from pengi_rt.text.tokenizers import DecoderTokenizer

_SETTLED: Final = ",;:"  # the cleanup never removes a space after these
_UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"  # the first bytes of a character


def stream(
    session: Session, recording: Audio, prompt: str | None, options: GenerateOptions
) -> Iterator[str]:
    """Yield the pieces of the answer about ``recording``; one line per window.

    Raises:
        UsageError, PromptError, BackendError: as for :func:`~pengi_rt.tasks.prepare.prepare`, or
            there is more than one beam, sample or prompt; raised by the call itself.
        AudioError: the recording cannot be read; raised when the first piece is requested.
    """
    session.plan.require("stream")
    if options.samples is None and options.beam_size is None:
        options = replace(options, beam_size=1)
    batches = window_batches([recording], session.config, options)
    one = one_prompt(prompt, options, session.generative.generation.prompt, "stream")
    request = prepare(session, [one], options)
    check_single(request.decode)
    return _pieces(session, batches, request)


def _pieces(session: Session, batches: Iterable[Batch], request: PreparedRequest) -> Iterator[str]:
    is_first = True
    for batch in batches:
        audio = session.encode_audio(batch.windows).prefix
        for prefix in full_prefixes(audio, request.prompts[0].prefix()):
            if not is_first:
                yield "\n"
            is_first = False
            yield from _window_pieces(session, prefix, request)


def _window_pieces(session: Session, prefix: F32, request: PreparedRequest) -> Iterator[str]:
    text = StreamedText(session.tokenizer, request.stops)
    for token in _tokens(session, prefix, request):
        if piece := text.add(token.id):
            yield piece
    if piece := text.rest():
        yield piece


def _tokens(session: Session, prefix: F32, request: PreparedRequest) -> Iterator[Token]:
    """One token at a time: other threads may use the session in between."""
    tokens = stream_tokens(session.backend, prefix, request.decode, is_finished=request.is_finished)
    while True:
        with session.exclusive_decoding():
            token = next(tokens, None)
        if token is None:
            return
        yield token


class StreamedText:
    """The tokens so far, and how much of their text is final.

    Text that may still change is held back: a character whose last bytes are missing, the beginning
    of a stop string, and spaces, which decoding removes before punctuation. So text comes in whole
    words.
    """

    def __init__(self, tokenizer: DecoderTokenizer, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._tokens: list[int] = []
        self._given = 0

    def add(self, token: int) -> str:
        """The text that becomes final with this token."""
        self._tokens.append(token)
        text = self._text()
        return self._up_to(_certain(text, self._stops))

    def rest(self) -> str:
        """The text held back so far; call this after the last token."""
        return self._up_to(self._text().rstrip())

    def _text(self) -> str:
        text = self._tokenizer.decode(self._tokens)
        return cut_at_stop(text, self._stops).lstrip()

    def _up_to(self, text: str) -> str:
        new = text[self._given :]
        self._given += len(new)
        return new


def _certain(text: str, stops: Sequence[str]) -> str:
    """The part of ``text`` that later tokens cannot change."""
    end = len(text.rstrip(_UNFINISHED))
    for stop in stops:
        for size in range(1, len(stop)):
            if text.endswith(stop[:size]):
                end = min(end, len(text) - size)
    # The cleanup may remove a space and join the text after it to the previous word.
    end = text.rfind(" ", 0, end)
    while end > 0 and not (text[end - 1].isalnum() or text[end - 1] in _SETTLED):
        end = text.rfind(" ", 0, end)
    return text[: max(end, 0)]
