"""MP3: find and count the frames, and give libmpg123 only these.

libmpg123 trusts the count in the first frame, right or wrong, guesses if there is none, stops at
anything that is not a frame, and complains on standard error. So it gets only the frames, after two
made here: one with their count, and a silent one, because it drops samples after the first. Padding
that an encoder added before and after the recording is cut off here.
"""

from typing import NamedTuple

from pengi_rt.audio.containers.common import (
    Container,
    Probe,
    Span,
    tag_size,
    trailing_tags_start,
)
from pengi_rt.audio.containers.mpeg import (
    Header,
    frame_sizes,
    info_frame,
    parse_header,
    reservoir,
    silenced,
    silent_frame,
)

SEARCHED = 1 << 16  # bytes that are searched for the first frame
_BLOCK = 1 << 22  # bytes read at a time
_FRAME_MAX = 1_441  # bytes: MPEG-2.5 at 8 kHz and 160 kbit/s, and MPEG-1 at 32 kHz and 320
_CONSISTENT = 3  # consecutive frames of one kind: chance never produces so long a run
_MAX_GAPS = 1_000
_DECODER_DELAY = 529  # samples; libmpg123 drops them where the frames are counted


class _Run(NamedTuple):
    """Consecutive frames."""

    start: int
    end: int
    frames: int


class _Info(NamedTuple):
    """The contents of a Xing, Info or VBRI frame; 0 for what it does not say."""

    frames: int = 0
    size: int = 0  # bytes, this frame included
    trim: tuple[int, int] | None = None  # samples before the recording and after it


def find_mp3(probe: Probe) -> int:
    """The offset of the first frame, at the start or somewhat later; -1 if there is none.

    A file of one or two frames must begin with them.
    """
    return _find(probe, 0, None)


def _find(probe: Probe, start: int, kind: Header | None) -> int:
    """The first of a few consistent frames, like ``kind`` unless that is None; or -1."""
    data = probe.read_at(start, SEARCHED + _CONSISTENT * _FRAME_MAX)
    at = 0
    while 0 <= (at := data.find(b"\xff", at)) < SEARCHED:
        if _is_chain(data, at, kind, ends=start + len(data) >= probe.size):
            return start + at
        at += 1
    return -1


def _is_chain(data: bytes, at: int, kind: Header | None, *, ends: bool) -> bool:
    """Whether consistent frames begin here; one or two count only as a whole file."""
    first = parse_header(data[at : at + 4])
    if first is None or (kind is not None and not first.is_like(kind)):
        return False
    alone = at == 0 and kind is None
    for _ in range(_CONSISTENT - 1):
        at += first.size
        following = parse_header(data[at : at + 4])
        if following is None:
            return ends and (at == len(data) or (alone and at > len(data)))
        if not following.is_like(first):
            return False
        first = following
    return True


def check_mp3(probe: Probe, start: int) -> Container:
    """Count the frames from ``start`` on, and compare with what the first one says.

    Raises:
        AudioError: there are fewer, of several kinds, or with something else between them.
    """
    head = parse_header(probe.read_at(start, 4))
    assert head is not None
    info = _info(probe.read_at(start, head.size), head)
    runs = _runs(probe, start + head.size if info else start, head)
    frames = sum(run.frames for run in runs)
    if info and _is_cut(probe, info, frames, start, runs):
        probe.note_loss(
            f"cut short: its header says {info.frames} MP3 frames "
            f"({info.frames * head.samples / head.rate:.3f} s), it has {frames}"
        )
    if not frames:
        raise probe.error("it holds no samples")
    skip, total = _trimmed(info, frames, head)
    return probe.container(
        (
            info_frame(head, frames + 1),
            silent_frame(head),
            *(part for run in runs for part in _parts(probe, run, head)),
        ),
        frames=total,
        skip=head.samples - _DECODER_DELAY + skip,
    )


def _info(frame: bytes, head: Header) -> _Info | None:
    """The information in a first frame about the others, if that is its purpose."""
    if frame[36:40] == b"VBRI":
        return _Info(int.from_bytes(frame[50:54], "big"), int.from_bytes(frame[46:50], "big"))
    at = head.side_start + head.side_size
    if head.has_sum and frame[at - 2 : at + 2] in (b"Xing", b"Info"):
        at -= 2  # many encoders put it here, with or without a checksum
    if frame[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags, at = frame[at + 7 : at + 8].ljust(1, b"\0")[0], at + 8
    numbers = []
    for flag, size in ((1, 4), (2, 4), (4, 100), (8, 4)):
        numbers.append(int.from_bytes(frame[at : at + size], "big") if flags & flag else 0)
        at += size if flags & flag else 0
    encoder, trim = frame[at : at + 1], int.from_bytes(frame[at + 21 : at + 24], "big")
    known = encoder.strip(b"\0") and len(frame) >= at + 24
    return _Info(numbers[0], numbers[1], (trim >> 12, trim & 0xFFF) if known else None)


def _is_cut(probe: Probe, info: _Info, frames: int, start: int, runs: list[_Run]) -> bool:
    """Whether frames are missing. Some encoders include the first one, which has no sound."""
    if info.frames <= frames:
        return False
    end = runs[-1].end if runs else start
    lacks_bytes = info.size > trailing_tags_start(probe, start) - start
    partial = parse_header(probe.read_at(end, 4)) is not None
    return info.frames > frames + 1 or partial or lacks_bytes


def _trimmed(info: _Info | None, frames: int, head: Header) -> tuple[int, int]:
    """Samples to skip, and the number of the recording's own after them, by the info frame."""
    total = frames * head.samples
    if info is None or info.trim is None or frames > info.frames + 1:
        return 0, total
    delay, padding = info.trim
    skip = delay + _DECODER_DELAY
    end = min(total, info.frames * head.samples - padding + _DECODER_DELAY)
    return (skip, end - skip) if end > skip else (0, total)


def _runs(probe: Probe, start: int, head: Header) -> list[_Run]:
    """All frames, skipping anything between them."""
    runs: list[_Run] = []
    while start >= 0:
        run = _run(probe, start, head)
        if run.frames:
            runs.append(run)
        if len(runs) > _MAX_GAPS:
            raise probe.error(f"damaged: more than {_MAX_GAPS} gaps between its MP3 frames")
        start = _after_gap(probe, run.end, head)
    return runs


def _run(probe: Probe, start: int, head: Header) -> _Run:
    """The frames up to the first bytes that are not a complete frame."""
    sizes, mono, offset, frames = frame_sizes(head), head.mono, start, 0
    while data := probe.read_at(offset, _BLOCK):
        at, last = 0, len(data) - 3
        while at < last and data[at] == 0xFF:
            size = sizes[data[at + 1] << 8 | data[at + 2]]
            if not size or (data[at + 3] >= 0xC0) is not mono:
                break
            at += size
            frames += 1
        if offset + at > probe.size:
            return _Run(start, offset + at - size, frames - 1)
        offset += at
        if at < last:
            break
        if offset + 4 > probe.size:
            break
    return _Run(start, offset, frames)


def _after_gap(probe: Probe, start: int, head: Header) -> int:
    """Where the next frames begin, after tags, zeros or damage; -1 if there are none.

    Raises:
        AudioError: they are of a different kind, or the bytes in between may have been frames.
    """
    start = _skip_tags(probe, start)
    end = trailing_tags_start(probe, start)
    if start >= end:
        return -1
    here = parse_header(probe.read_at(start, 4))
    if here and not here.is_like(head) and _find(probe, start, here) == start:
        at = probe.start + start
        probe.note_loss(f"several recordings joined: from {head} to {here} at byte {at}; split it")
        return -1
    found = _find(probe, start, head)
    if 0 <= found < end:
        if found > start:
            at = probe.start + start
            probe.note_loss(f"damaged: {found - start} bytes from byte {at} on are not MP3 frames")
        return found
    partial = here is not None and here.is_like(head) and start + here.size > probe.size
    if end - start > _FRAME_MAX and not partial:
        probe.note_loss(f"damaged: the last {end - start} bytes are not MP3 frames")
    return -1


def _skip_tags(probe: Probe, start: int) -> int:
    """The end of tags and zeros."""
    while data := probe.read_at(start, SEARCHED):
        if not data[0]:
            start += len(data) - len(data.lstrip(b"\0"))
        elif size := tag_size(data):
            start += size
        else:
            break
    return start


def _parts(probe: Probe, run: _Run, head: Header) -> list[bytes | Span]:
    """The frames of a run; the first ones, if they need data from before it, are made silent."""
    parts: list[bytes | Span] = []
    before, start, done = 0, run.start, run.start
    most = 511 if head.version == 3 else 255
    while before < most and start < run.end:
        here = parse_header(probe.read_at(start, 4))
        assert here is not None
        body = here.side_start + here.side_size
        if reservoir(here, probe.read_at(start, body)) > before:
            parts += [Span(done, start - done), silenced(here, before)]
            done = start + min(body, here.size)
        before += max(0, here.size - body)
        start += here.size
    return [*parts, Span(done, run.end - done)]
