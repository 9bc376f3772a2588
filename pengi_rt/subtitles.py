"""Segments as subtitles: SubRip (SRT) and WebVTT, cue by cue.

Both are UTF-8, whatever the locale, and one file is about one recording. A segment whose text is
blank has no cue; runs of white space, line breaks too, are one space, so no text can end its cue.
Control characters are shown as escapes: subtitles are read on terminals too.

Sources: WebVTT (W3C, https://www.w3.org/TR/webvtt1/), section 4.1 "WebVTT file structure" for the
order of things and the times, 4.2.2 "WebVTT caption or subtitle cue text" for what is escaped. SRT
has no standard; players agree on a number, a line of times, the text, and an empty line between.
"""

import math
import re
from collections.abc import Iterable, Iterator

from pengi_rt.errors import UsageError
from pengi_rt.segments import Timed
from pengi_rt.system.quote import printable

_ARROW = re.compile(r"-{2,}>")  # in SRT it would be a line of times, and nothing escapes it there
_VTT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # so "-->" cannot occur


def srt(segments: Iterable[Timed]) -> str:
    """All segments as the text of an SRT file. Raises as :func:`srt_cues`."""
    return "".join(srt_cues(segments))


def vtt(segments: Iterable[Timed]) -> str:
    """All segments as the text of a WebVTT file. Raises as :func:`srt_cues`."""
    return "".join(vtt_cues(segments))


def srt_cues(segments: Iterable[Timed]) -> Iterator[str]:
    """SRT, a piece for every segment with text; what was given so far is always a whole file.

    Cues are numbered from 1. SRT escapes nothing: tags stay as they are, ``-->`` becomes ``->``.

    Args:
        segments: of one recording, in time order.

    Raises:
        UsageError: a time is negative or not finite, or a segment starts before the one before it.
    """
    for number, (start, end, text) in enumerate(_cues(segments), 1):
        times = f"{_stamp(start, ',')} --> {_stamp(end, ',')}"
        between = "\n" if number > 1 else ""
        yield f"{between}{number}\n{times}\n{_ARROW.sub('->', text)}\n"


def vtt_cues(segments: Iterable[Timed]) -> Iterator[str]:
    """WebVTT: its header, then a piece for every segment with text. As :func:`srt_cues`."""
    yield "WEBVTT\n\n"
    between = ""
    for start, end, text in _cues(segments):
        times = f"{_stamp(start, '.')} --> {_stamp(end, '.')}"
        yield f"{between}{times}\n{text.translate(_VTT_ESCAPES)}\n"
        between = "\n"


def _cues(segments: Iterable[Timed]) -> Iterator[tuple[int, int, str]]:
    """Start and end in milliseconds, and the text in one line."""
    last = 0
    for segment in segments:
        start, end = _milliseconds(segment.start), _milliseconds(segment.end)
        if start < last:
            raise UsageError(
                f"subtitles are of one recording in time order: {segment.start:g} s comes behind "
                f"{last / 1000:g} s"
            )
        last = start
        text = printable(" ".join(segment.text.replace("\0", "\ufffd").split()))
        if text:
            # WebVTT wants every end behind its start; so do players of SRT.
            yield start, max(end, start + 1), text


def _milliseconds(seconds: float) -> int:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UsageError(f"a subtitle's time must be finite and not negative, got {seconds:g} s")
    return round(1000 * seconds)


def _stamp(milliseconds: int, point: str) -> str:
    """``hh:mm:ss`` and the milliseconds behind ``point``; a hundredth hour makes it longer."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{rest:03}"
