"""Score models on the held-out scenes: the table of the demo model's card.

``python -m pengi_rt.training.scenes.evaluate PLAN ...`` answers every question about 1 000 scenes
and 1 000 notes with each plan, and prints their scores side by side with those of chance (the best
constant answer). ``--silence`` adds the scores of each plan when it gets zeros instead of sound.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pengi_rt.engine import Engine, load
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.command import exit_code, write_json
from pengi_rt.training.scenes.ask import Asker
from pengi_rt.training.scenes.facts import EVENTS, Facts
from pengi_rt.training.scenes.held_out import SEED, YES_NO, Question, held_out

CONSTANTS = 100
"""Constant answers tried for chance: the most common true ones of each kind of question."""

Scores = dict[str, float]
"""Fractions by the name of a row of the table."""

Said = tuple[Facts, Question, str]
"""A clip's facts, a question about it, and the answer."""


class Tally:
    """Counts correct answers and all answers, by row of the table."""

    def __init__(self) -> None:
        self.points: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()

    def add(self, row: str, points: float, out_of: int = 1) -> None:
        """Count ``points`` of ``out_of``."""
        self.points[row] += points
        self.counts[row] += out_of

    def question(self, facts: Facts, question: Question, said: str) -> None:
        """Count one answer in each row that it belongs to."""
        count = len(facts.events)
        if question.task == "events" and count:
            self._events(count, question.target, said)
        elif question.task == "caption" and count:
            self._caption(facts, said)
        elif question.task == "note":
            self._note(question.target, said)
        elif question.task == "scene":
            self.add("scene (place)", said == question.target)
        elif question.task == "qa":
            self.add(f"question: {question.kind}", said == question.target)

    def _events(self, count: int, target: str, said: str) -> None:
        true, named = set(target.split(", ")), said.split(", ")
        right = len(true.intersection(named))
        # F1: naming a class twice, or a wrong one, costs as much as leaving one out.
        for row in ("events, F1", f"events, F1: {count}"):
            self.add(row, 2 * right, len(true) + len(named))
        self.add("events, all and no other", sorted(true) == sorted(named))

    def _caption(self, facts: Facts, said: str) -> None:
        true = {event.name for event in facts.events}
        named = {word for word in re.findall(r"\w+", said) if word in EVENTS}
        for row in ("caption names every event", f"caption names every event: {len(facts.events)}"):
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

    def rows(self) -> Scores:
        """The score of each row that was counted."""
        return {row: self.points[row] / self.counts[row] for row in self.counts}


def scores(said: Iterable[Said]) -> Scores:
    """The rows of the table, including means over the kinds of question."""
    tally = Tally()
    for facts, question, answer in said:
        tally.question(facts, question, answer)
    return _with_means(tally.rows())


def chance(said: Iterable[Said]) -> Scores:
    """The score of constant answers: in each row the best of :data:`CONSTANTS`."""
    kinds: defaultdict[tuple[bool, str], list[tuple[Facts, Question]]] = defaultdict(list)
    for facts, question, _ in said:
        kinds[facts.note is None, question.kind].append((facts, question))
    best: Scores = {}
    for asked in kinds.values():
        targets = Counter(question.target for _, question in asked)
        for constant, _ in targets.most_common(CONSTANTS):
            tally = Tally()
            for facts, question in asked:
                tally.question(facts, question, constant)
            for row, share in tally.rows().items():
                best[row] = max(share, best.get(row, 0.0))
    return _with_means(best)


def _with_means(rows: Scores) -> Scores:
    kinds = {row: share for row, share in rows.items() if row.startswith("question: ")}
    yes_no = [share for row, share in kinds.items() if row.endswith(YES_NO)]
    means = {
        "questions, mean of kinds": list(kinds.values()),
        "questions, yes/no": yes_no,
    }
    return rows | {row: float(np.mean(shares)) for row, shares in means.items() if shares}


def _note_fields(text: str) -> tuple[str, int, int] | None:
    match = re.fullmatch(r"produced by (\w+), pitch (\d+), velocity (\d+)", text)
    return (match[1], int(match[2]), int(match[3])) if match else None


def evaluate(
    engine: Engine, count: int, *, beam_size: int = 3, silence: bool = False, seed: int = SEED
) -> list[Said]:
    """The answers to every question about ``count`` scenes and ``count`` notes."""
    asker, tasks = Asker(engine, beam_size=beam_size), load_tasks()
    found: list[Said] = []
    with tqdm(total=2 * count, unit="clip", disable=None) as bar:
        for notes in (False, True):
            clips = held_out(count, notes=notes, tasks=tasks, seed=seed)
            for clip, best in asker.ask(clips, silence=silence):
                texts = [engine.tokenizer.decode(tokens).strip() for tokens in best]
                pairs = zip(clip.questions, texts, strict=True)
                found += [(clip.facts, question, text) for question, text in pairs]
                bar.update()
    return found


def compare(
    plans: Sequence[Path],
    count: int,
    *,
    beam_size: int = 3,
    silence: bool = False,
    seed: int = SEED,
) -> dict[str, Scores]:
    """One column of scores per plan, by name, after a column for chance.

    With ``silence``, each plan has a second column for its answers to silence.
    """
    columns: dict[str, Scores] = {}
    for path in plans:
        with load(path) as engine:
            for deaf in (False, True)[: 1 + silence]:
                said = evaluate(engine, count, beam_size=beam_size, silence=deaf, seed=seed)
                if not columns:
                    columns["chance"] = chance(said)
                columns[f"{path.stem}, silence" if deaf else path.stem] = scores(said)
    return columns


def table(columns: Mapping[str, Scores]) -> str:
    """Scores side by side in percent, as Markdown."""
    rows = sorted({row for scores in columns.values() for row in scores})
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for row in rows:
        cells = [f"{100 * scores[row]:.1f}" if row in scores else "" for scores in columns.values()]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pengi_rt.training.scenes.evaluate",
        description="Score plans on held-out scenes and notes, side by side.",
    )
    parser.add_argument("plans", type=Path, nargs="+", help="plans, one column each")
    parser.add_argument(
        "--count", type=int, default=1000, help="scenes, and also notes (%(default)s)"
    )
    parser.add_argument("--beam-size", type=int, default=3)
    parser.add_argument(
        "--seed", type=int, default=SEED, help="seed of the set (%(default)s: held out)"
    )
    parser.add_argument("--silence", action="store_true", help="add a column of answers to silence")
    parser.add_argument("--json", type=Path, help="also write the scores to this file")
    options = parser.parse_args(argv)
    return exit_code(lambda: _score(options))


def _score(options: argparse.Namespace) -> None:
    choices = {"beam_size": options.beam_size, "seed": options.seed}
    columns = compare(options.plans, options.count, silence=options.silence, **choices)
    print(table(columns))
    if options.json:
        write_json(options.json, columns)


if __name__ == "__main__":
    sys.exit(main())
