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

from pengi_rt.errors import UsageError
from pengi_rt.results.timeline import Timed
from pengi_rt.system.quote import printable

_ARROW = re.compile(r"-{2,}>")  # in SRT it would be a line of times, and nothing escapes it there
_VTT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # so "-->" cannot occur


class Subtitles:
    """The text of a file, cue by cue; the text so far is always a complete file."""

    head = ""

    def __init__(self) -> None:
        self._last = 0
        self._cues = 0

    def cue(self, segment: Timed) -> str:
        """The text to add for a segment; empty if the segment's text is blank.

        Raises:
            UsageError: a time is negative or not finite, or the segment starts before the previous.
        """
        start, end = _milliseconds(segment.start), _milliseconds(segment.end)
        if start < self._last:
            raise UsageError(
                f"subtitles are of one recording in time order: {segment.start:g} s comes after "
                f"{self._last / 1000:g} s"
            )
        self._last = start
        text = printable(" ".join(segment.text.replace("\0", "\ufffd").split()))
        if not text:
            return ""
        self._cues += 1
        # WebVTT wants every end after its start; so do players of SRT.
        return "\n" * (self._cues > 1) + self._written(start, max(end, start + 1), text)

    def _written(self, start: int, end: int, text: str) -> str:
        raise NotImplementedError


class Srt(Subtitles):
    """SRT: cues are numbered from 1. It escapes nothing: tags stay, ``-->`` becomes ``->``."""

    def _written(self, start: int, end: int, text: str) -> str:
        times = f"{_stamp(start, ',')} --> {_stamp(end, ',')}"
        return f"{self._cues}\n{times}\n{_ARROW.sub('->', text)}\n"


class Vtt(Subtitles):
    """WebVTT."""

    head = "WEBVTT\n\n"

    def _written(self, start: int, end: int, text: str) -> str:
        times = f"{_stamp(start, '.')} --> {_stamp(end, '.')}"
        return f"{times}\n{text.translate(_VTT_ESCAPES)}\n"


def _milliseconds(seconds: float) -> int:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UsageError(f"a subtitle's time must be finite and not negative, got {seconds:g} s")
    return round(1000 * seconds)


def _stamp(milliseconds: int, point: str) -> str:
    """``hh:mm:ss`` and the milliseconds after ``point``; longer from 100 hours on."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{rest:03}"
