"""Subtitles are read back by independent readers; WebVTT's follows the specification."""

import html
import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import pytest

from pengi_rt.errors import UsageError
from pengi_rt.render.subtitles import Srt, Subtitles, Vtt
from pengi_rt.results.timeline import Segment, segments

Cue = tuple[int, int, str]  # milliseconds, milliseconds, text
Write = Callable[[Iterable[Segment]], str]

NASTY = [
    "a --> b", "---> x", "00:00:01.000 --> 00:00:02.000", "a\n\nb", "a\r\n\r\n2\r\nb", "\n\na\n\n",
    "fish & <b>chips</b> &amp; &lt;", "WEBVTT", "NOTE this", "STYLE", "7", "-", "<", "&",
    "a\u2028b", "a\x85\x0bb\fc", "wörter 雨 🐕", "{\\an8}x", "tab\there",
]  # fmt: skip


def _cues(subtitles: Subtitles, rows: Iterable[Segment]) -> Iterator[str]:
    """The pieces of a file, as a writer of rows asks for them."""
    yield from filter(None, [subtitles.head])
    yield from filter(None, map(subtitles.cue, rows))


def srt_cues(rows: Iterable[Segment]) -> Iterator[str]:
    return _cues(Srt(), rows)


def vtt_cues(rows: Iterable[Segment]) -> Iterator[str]:
    return _cues(Vtt(), rows)


def srt(rows: Iterable[Segment]) -> str:
    return "".join(srt_cues(rows))


def vtt(rows: Iterable[Segment]) -> str:
    return "".join(vtt_cues(rows))


def _milliseconds(stamp: str, point: str) -> int:
    match = re.fullmatch(rf"(\d{{2,}}):([0-5]\d):([0-5]\d)\{point}(\d{{3}})", stamp)
    assert match, stamp
    hours, minutes, seconds, rest = map(int, match.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + rest


def _times(line: str, point: str) -> tuple[int, int]:
    start, end = line.split(" --> ")
    return _milliseconds(start, point), _milliseconds(end, point)


def _read_srt(text: str) -> list[Cue]:
    """Strictly: only numbered blocks of three lines, separated by one empty line."""
    if not text:
        return []
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    cues = []
    for number, block in enumerate(text[:-1].split("\n\n"), 1):
        count, times, words = block.split("\n")
        assert count == str(number)
        assert "-->" not in words
        cues.append((*_times(times, ","), words))
    return cues


def _read_vtt(text: str) -> list[Cue]:
    """A WebVTT file body (section 4.1) of cues without identifiers or settings, strictly."""
    head, body = text[:8], text[8:]
    assert head == "WEBVTT\n\n"
    cues = []
    for block in body.removesuffix("\n").split("\n\n") if body else []:
        times, payload = block.split("\n")
        assert "-->" not in payload
        assert "<" not in payload
        assert re.search(r"&(?!amp;|lt;|gt;)", payload) is None
        cues.append((*_times(times, "."), html.unescape(payload)))
    assert all(start < end for start, end, _ in cues)
    assert all(one[0] <= two[0] for one, two in pairwise(cues))
    return cues


def test_subtitles_as_srt_and_vtt() -> None:
    rows = [Segment(0, 7, "rain & wind"), Segment(7, 12.3456, "a dog")]
    assert srt(rows) == (
        "1\n00:00:00,000 --> 00:00:07,000\nrain & wind\n\n2\n00:00:07,000 --> 00:00:12,346\na dog\n"
    )
    assert vtt(rows) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:07.000\nrain &amp; wind\n\n"
        "00:00:07.000 --> 00:00:12.346\na dog\n"
    )


def test_nothing_to_show() -> None:
    blank = [Segment(0, 1, ""), Segment(1, 2, " \n\t ")]
    for rows in ([], blank):
        assert srt(rows) == ""
        assert vtt(rows) == "WEBVTT\n\n"


def test_blank_texts_take_no_number() -> None:
    rows = [Segment(0, 1, " "), Segment(1, 2, "a"), Segment(2, 3, ""), Segment(3, 4, "b")]
    assert _read_srt(srt(rows)) == [(1000, 2000, "a"), (3000, 4000, "b")]
    assert _read_vtt(vtt(rows)) == [(1000, 2000, "a"), (3000, 4000, "b")]


@pytest.mark.parametrize(
    ("seconds", "stamp"),
    [
        (0.0004, "00:00:00.000"),
        (0.9994, "00:00:00.999"),
        (0.9996, "00:00:01.000"),
        (59.9996, "00:01:00.000"),
        (59 * 60 + 59.9999, "01:00:00.000"),
        (3599.999, "00:59:59.999"),
        (86_399.9996, "24:00:00.000"),
        (99 * 3600 + 3599.9996, "100:00:00.000"),
        (1234 * 3600 + 61.001, "1234:01:01.001"),
        (7, "00:00:07.000"),
    ],
)
def test_times(seconds: float, stamp: str) -> None:
    row = [Segment(seconds, seconds + 1, "x")]
    assert vtt(row).split()[1] == stamp
    assert srt(row).split()[1] == stamp.replace(".", ",")


def test_adjacent_cues_stay_adjacent() -> None:
    places = [number * 308_700 / 44_100 / 3.7 for number in range(500)]
    rows = [Segment(start, end, "x") for start, end in pairwise(places)]
    for cues in (_read_srt(srt(rows)), _read_vtt(vtt(rows))):
        assert len(cues) == 499
        assert all(one[1] == two[0] for one, two in pairwise(cues))
        error = max(abs(cue[0] - 1000 * row.start) for cue, row in zip(cues, rows, strict=True))
        assert error <= 0.5 + 1e-6


def test_a_short_cue_ends_after_its_start() -> None:
    rows = [Segment(0, 1 / 16_000, "x"), Segment(5.0001, 5.0002, "y")]
    assert _read_vtt(vtt(rows)) == [(0, 1, "x"), (5000, 5001, "y")]
    assert _read_srt(srt(rows)) == [(0, 1, "x"), (5000, 5001, "y")]


@pytest.mark.parametrize("text", NASTY)
def test_any_text_stays_in_its_cue(text: str) -> None:
    rows = [Segment(0, 1, "before"), Segment(1, 2, text), Segment(2, 3, "after")]
    folded = " ".join(text.split())
    want = [(0, 1000, "before"), (1000, 2000, folded), (2000, 3000, "after")]
    assert _read_vtt(vtt(rows)) == want
    shortened = re.sub("-+->", "->", folded)
    assert _read_srt(srt(rows)) == [want[0], (1000, 2000, shortened), want[2]]


def test_nul_is_replaced() -> None:
    assert _read_vtt(vtt([Segment(0, 1, "a\0b")])) == [(0, 1000, "a\ufffdb")]
    assert _read_srt(srt([Segment(0, 1, "a\0b")])) == [(0, 1000, "a\ufffdb")]


def test_the_file_is_valid_after_every_cue() -> None:
    rows = [Segment(place, place + 1, text) for place, text in enumerate(NASTY)]
    for cues, read in ((srt_cues(rows), _read_srt), (vtt_cues(rows), _read_vtt)):
        text, lengths = "", []
        for piece in cues:
            text += piece
            lengths.append(len(read(text)))
        assert lengths[-1] == len(NASTY)
        assert lengths == list(range(lengths[0], lengths[0] + len(lengths)))


def test_cues_come_while_windows_are_still_answered() -> None:
    drawn: list[int] = []

    def windows() -> Iterator[Segment]:
        for place in range(3):
            drawn.append(place)
            yield Segment(place, place + 1, str(place))

    cues = srt_cues(segments(windows()))
    next(cues)
    assert drawn == [0, 1]


@pytest.mark.parametrize("write", [srt, vtt])
@pytest.mark.parametrize("seconds", [math.nan, math.inf, -0.001])
def test_impossible_times(write: Write, seconds: float) -> None:
    for row in (Segment(seconds, 1, "x"), Segment(0, seconds, "x")):
        with pytest.raises(UsageError, match=r"^a subtitle's time must be finite and not negative"):
            write([row])


@pytest.mark.parametrize("write", [srt, vtt])
def test_two_recordings_in_one_file(write: Write) -> None:
    with pytest.raises(UsageError) as caught:
        write([Segment(0, 7, "a"), Segment(7, 9, "b"), Segment(0, 7, "c")])
    assert str(caught.value) == (
        "subtitles are of one recording in time order: 0 s comes after 7 s"
    )
