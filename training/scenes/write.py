"""Write synthetic clips to files: sound, a manifest for training, and the facts.

``python -m pengi_rt.training.scenes.write FOLDER --seed S --count N`` fills::

    FOLDER/audio/000000.wav   16 kHz, mono, 16 bits
    FOLDER/manifest.jsonl     one row per clip and task
    FOLDER/facts.jsonl        one row per clip: its index and its Facts

A clip depends only on the seed and its index, not on the range, the number of workers or the
processor (docs/demo-model.md has the limits). The manifest is written last, so if it exists it is
complete. The folder then describes this range only.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from pengi_rt.errors import InputError, UsageError
from pengi_rt.system.files import replacing, sweep
from pengi_rt.training.command import exit_code
from pengi_rt.training.scenes.facts import SAMPLE_RATE, draw
from pengi_rt.training.scenes.mix import render_clip
from pengi_rt.training.scenes.words import reading_rows, rows

_SPAN = 50  # clips that a worker makes between two reports


def write_clips(
    folder: Path, seed: int, start: int, count: int, workers: int = 1, *, progress: bool = False
) -> None:
    """Write the sounds of clips ``start`` to ``start + count - 1``, 16-bit WAV at 16 kHz.

    Args:
        folder: receives ``audio/000000.wav``, ...; created if missing; files are replaced.
        seed: the seed of the set.
        start: the first index.
        count: the number of clips.
        workers: processes; any number gives the same files.
        progress: show a bar on a terminal.

    Raises:
        UsageError: a number is invalid.
        InputError: the folder cannot be written.
    """
    _check(seed, start, count, workers)
    audio = folder / "audio"
    _make(audio)
    sweep(audio)
    spans = [
        (audio, seed, range(first, min(first + _SPAN, start + count)))
        for first in range(start, start + count, _SPAN)
    ]
    with tqdm(total=count, unit="clip", disable=None if progress else True) as bar:
        for done in _over(workers, spans):
            bar.update(done)


def write_text(folder: Path, seed: int, start: int, count: int, *, audio: bool = True) -> None:
    """Write ``facts.jsonl``, then ``manifest.jsonl``, each atomically.

    Args:
        folder: the folder; created if missing.
        seed: the seed of the set.
        start: the first index.
        count: the number of clips.
        audio: whether rows name the files of :func:`write_clips`. If not, they are text only, and
            include the rows for the reading task (``recipes/demo/tasks.toml``).

    Raises:
        UsageError: a number is invalid.
        InputError: the folder cannot be written.
    """
    _check(seed, start, count)
    _make(folder)
    indices = range(start, start + count)
    facts = ({"index": index, **dataclasses.asdict(draw(seed, index))} for index in indices)
    _write_lines(folder / "facts.jsonl", facts)
    _write_lines(folder / "manifest.jsonl", _manifest(seed, indices, audio=audio))


def main(argv: list[str] | None = None) -> int:
    """The command line; returns its exit code."""
    options = _parser().parse_args(argv)
    span = (options.folder, options.seed, options.start, options.count)

    def work() -> None:
        if not (options.text_only or options.force):
            _refuse_overwriting(options.folder, range(options.start, options.start + options.count))
        if not options.text_only:
            write_clips(*span, options.workers, progress=True)
        write_text(*span, audio=not options.text_only)

    return exit_code(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pengi_rt.training.scenes.write",
        description="Make a training set of short audio scenes, from a seed alone.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write")
    parser.add_argument("--seed", type=int, required=True, help="seed of the set")
    parser.add_argument("--count", type=int, required=True, help="number of clips")
    parser.add_argument("--start", type=int, default=0, help="the first index (default: 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--force", action="store_true", help="replace existing recordings")
    parser.add_argument(
        "--text-only", action="store_true", help="write no sound, only rows without it"
    )
    return parser


def _check(seed: int, start: int, count: int, workers: int = 1) -> None:
    numbers = {"seed": (seed, 0), "start": (start, 0), "count": (count, 1), "workers": (workers, 1)}
    for name, (value, least) in numbers.items():
        if value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}")


def _refuse_overwriting(folder: Path, indices: range) -> None:
    for path in (folder / "audio" / f"{index:06d}.wav" for index in indices):
        if path.exists():
            raise UsageError(f"{path}: already exists: name another folder, or give --force")


def _over(workers: int, spans: list[tuple[Path, int, range]]) -> Iterator[int]:
    if workers == 1:
        yield from map(_write_span, spans)
        return
    # Spawned, not forked: a fork of a process with threads (BLAS, torch) may hang.
    spawn = multiprocessing.get_context("spawn")
    with _one_thread_each():
        pool = spawn.Pool(min(workers, len(spans)))
    with pool:
        yield from pool.imap_unordered(_write_span, spans)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread each for matrix products.

    On two cores, two processes with two threads each are 2.5 times slower.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _write_span(span: tuple[Path, int, range]) -> int:
    """Write the sounds of some clips; returns their number."""
    audio, seed, indices = span
    for index in indices:
        path = audio / f"{index:06d}.wav"
        try:
            sound = BytesIO()
            samples = render_clip(seed, index)[1]
            soundfile.write(sound, samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
            with replacing(path, durable=False) as file:
                file.write(sound.getbuffer())
        except (OSError, soundfile.SoundFileError) as error:
            raise InputError(f"cannot write {path}: {error}") from None
    return len(indices)


def _manifest(seed: int, indices: range, *, audio: bool) -> Iterator[dict[str, object]]:
    for index in indices:
        heard: dict[str, object] = {"audio": f"audio/{index:06d}.wav"} if audio else {}
        facts, rng = draw(seed, index), np.random.default_rng([seed, index, 2])
        for row in [*rows(facts, rng), *([] if audio else reading_rows(facts, rng))]:
            yield {**heard, **row}


def _write_lines(path: Path, lines: Iterable[dict[str, object]]) -> None:
    try:
        with replacing(path) as file:
            file.writelines(f"{json.dumps(line)}\n".encode() for line in lines)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror or error}") from None


if __name__ == "__main__":
    sys.exit(main())
