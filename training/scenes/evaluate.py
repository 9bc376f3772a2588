"""What a model makes of the held-out scenes: the table of the demo model's card.

``python -m pengi_rt.training.scenes.evaluate PLAN ...`` answers every question about 1 000 scenes
and 1 000 notes with each plan, and prints their scores side by side, with chance (the best constant
answer) beside them. ``--silence`` gives the plans zeros instead of sound.
"""

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

import pengi_rt
from pengi_rt.decoding.beam import search
from pengi_rt.decoding.options import DecodeOptions
from pengi_rt.engine import Engine
from pengi_rt.tasks import load_tasks
from pengi_rt.training.command import exit_code
from pengi_rt.training.scenes.facts import EVENTS
from pengi_rt.training.scenes.held_out import SEED, YES_NO, Clip, Question, held_out

BATCH = 64  # clips, and answers, at a time
Scores = dict[str, float]
"""Shares of 1 by the name of a row of the table."""


def answers(
    engine: Engine, clips: Sequence[Clip], *, beam_size: int, silence: bool = False
) -> list[list[tuple[int, ...]]]:
    """The tokens of the best beam for every question about every clip."""
    config, backend = engine.config, engine.backend
    waves = np.stack([clip.samples * (0 if silence else 1) for clip in clips])
    audio = backend.encode_audio(waves).prefix
    text = _TextPrefixes(engine)
    prefixes = [
        np.concatenate([audio[index], text.of(question.prompt)])
        for index, clip in enumerate(clips)
        for question in clip.questions
    ]
    options = DecodeOptions(
        beam_size=beam_size,
        max_new_tokens=40,
        temperature=1.0,
        stop_id=config.stop_id,
        pad_id=config.pad_id,
    )
    found: list[tuple[int, ...]] = []
    for start in range(0, len(prefixes), BATCH):
        beams = search(backend, prefixes[start : start + BATCH], options)
        found += [hypotheses.beams[0].tokens for hypotheses in beams]
    said = iter(found)
    return [[next(said) for _ in clip.questions] for clip in clips]


class _TextPrefixes:
    """Prefixes of the prompts, each encoded once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, np.ndarray[tuple[int, int], np.dtype[np.float32]]] = {}

    def of(self, prompt: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """[T, n_embd]."""
        if prompt not in self._known:
            ids = self._engine.prompt_tokenizer.encode(prompt).ids
            self._known[prompt] = self._engine.backend.encode_text(ids[None]).prefix[0]
        return self._known[prompt]


class Tally:
    """Right answers, and all of them, by row of the table."""

    def __init__(self) -> None:
        self.points: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()
        self.targets: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, row: str, points: float, out_of: int = 1) -> None:
        """Count ``points`` of ``out_of``."""
        self.points[row] += points
        self.counts[row] += out_of

    def question(self, clip: Clip, question: Question, said: str) -> None:
        """Count one answer in every row that it belongs to."""
        count = len(clip.facts.events)
        if question.task == "events" and count:
            self._events(count, question.target, said)
        elif question.task == "caption" and count:
            self._caption(clip, count, said)
        elif question.task == "note":
            self._note(question.target, said)
        elif question.task == "scene":
            self.add("scene (place)", said == question.target)
        elif question.task == "qa":
            self.targets[question.kind][question.target] += 1
            self.add(f"question: {question.kind}", said == question.target)

    def _events(self, count: int, target: str, said: str) -> None:
        true, named = set(target.split(", ")), said.split(", ")
        right = len(true.intersection(named))
        # F1: a class named twice, or one that is not there, costs as much as one left out.
        for row in ("events, F1", f"events, F1: {count}"):
            self.add(row, 2 * right, len(true) + len(named))
        self.add("events, all and no other", sorted(true) == sorted(named))

    def _caption(self, clip: Clip, count: int, said: str) -> None:
        true = {event.name for event in clip.facts.events}
        named = {word for word in re.findall(r"\w+", said) if word in EVENTS}
        for row in ("caption names every event", f"caption names every event: {count}"):
            self.add(row, true <= named)
        self.add("caption names every event and no other", true == named)

    def _note(self, target: str, said: str) -> None:
        true, found = _note_fields(target), _note_fields(said)
        if true is None:
            raise AssertionError(target)
        self.add("note: instrument", found is not None and found[0] == true[0])
        self.add("note: pitch, exact", found is not None and found[1] == true[1])
        near = found is not None and abs(found[1] - true[1]) <= 1
        self.add("note: pitch, within a semitone", near)
        self.add("note: velocity (of 5)", found is not None and found[2] == true[2])

    def scores(self) -> Scores:
        """Every row, questions also as the mean over their kinds."""
        rows = {row: self.points[row] / self.counts[row] for row in self.counts}
        kinds = {row: share for row, share in rows.items() if row.startswith("question: ")}
        if kinds:
            rows["questions, mean of kinds"] = float(np.mean(list(kinds.values())))
            yes_no = [share for row, share in kinds.items() if row.endswith(YES_NO)]
            rows["questions, yes/no"] = float(np.mean(yes_no))
        return rows

    def chance(self) -> Scores:
        """The best constant answer to each kind of question."""
        kinds = {
            f"question: {kind}": max(targets.values()) / targets.total()
            for kind, targets in self.targets.items()
        }
        mean = {"questions, mean of kinds": float(np.mean(list(kinds.values())))}
        yes_no = [share for row, share in kinds.items() if row.endswith(YES_NO)]
        return kinds | mean | {"questions, yes/no": float(np.mean(yes_no))}


def _note_fields(text: str) -> tuple[str, int, int] | None:
    match = re.fullmatch(r"produced by (\w+), pitch (\d+), velocity (\d+)", text)
    return (match[1], int(match[2]), int(match[3])) if match else None


def evaluate(
    engine: Engine, count: int, *, beam_size: int = 3, silence: bool = False, seed: int = SEED
) -> Tally:
    """Answer every question about ``count`` scenes and ``count`` notes."""
    tally = Tally()
    tasks = load_tasks()
    with tqdm(total=2 * count, unit="clip", disable=None) as bar:
        for notes in (False, True):
            for clips in _chunks(held_out(count, notes=notes, tasks=tasks, seed=seed)):
                said = answers(engine, clips, beam_size=beam_size, silence=silence)
                for clip, best in zip(clips, said, strict=True):
                    for question, tokens in zip(clip.questions, best, strict=True):
                        tally.question(clip, question, engine.tokenizer.decode(tokens).strip())
                bar.update(len(clips))
    return tally


def compare(
    plans: Sequence[Path],
    count: int,
    *,
    beam_size: int = 3,
    silence: bool = False,
    seed: int = SEED,
) -> dict[str, Scores]:
    """A column of scores for each plan, by its name, behind one of chance."""
    columns: dict[str, Scores] = {}
    for path in plans:
        with pengi_rt.load(path) as engine:
            tally = evaluate(engine, count, beam_size=beam_size, silence=silence, seed=seed)
        columns.setdefault("chance", tally.chance())
        columns[path.stem] = tally.scores()
    return columns


def table(columns: Mapping[str, Scores]) -> str:
    """Scores side by side in per cent, as Markdown."""
    rows = sorted({row for scores in columns.values() for row in scores})
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for row in rows:
        cells = [f"{100 * scores[row]:.1f}" if row in scores else "" for scores in columns.values()]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _chunks(clips: Iterable[Clip]) -> Iterator[list[Clip]]:
    chunk: list[Clip] = []
    for clip in clips:
        chunk.append(clip)
        if len(chunk) == BATCH:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pengi_rt.training.scenes.evaluate",
        description="Score plans on held-out scenes and notes, side by side.",
    )
    parser.add_argument("plans", type=Path, nargs="+", help="plans, a column each")
    parser.add_argument("--count", type=int, default=1000, help="scenes, and notes (%(default)s)")
    parser.add_argument("--beam-size", type=int, default=3)
    parser.add_argument("--seed", type=int, default=SEED, help="of the set (%(default)s: held out)")
    parser.add_argument("--silence", action="store_true", help="zeros instead of the sound")
    parser.add_argument("--json", type=Path, help="write the scores here too")
    options = parser.parse_args(argv)
    return exit_code(lambda: _score(options))


def _score(options: argparse.Namespace) -> None:
    choices = {"beam_size": options.beam_size, "seed": options.seed}
    columns = compare(options.plans, options.count, silence=options.silence, **choices)
    print(table(columns))
    if options.json:
        options.json.write_text(json.dumps(columns, indent=1))


if __name__ == "__main__":
    sys.exit(main())
