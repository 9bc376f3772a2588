"""Score both classification methods, and retrieval, on held-out scenes.

``python -m pengi_rt.training.scenes.methods`` runs every closed task with a plan (the built-in one
by default), by text matching and by log-likelihood. Then it searches for each of 1 000 scenes among
all of them. It prints tables in percent, with columns for chance (the best constant answer) and
silence (zeros instead of sound). ``--against torch`` compares the choices with another backend's.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from pengi_rt.backends.opening import open_backend
from pengi_rt.config.backend import backends
from pengi_rt.config.options import ClassifyOptions
from pengi_rt.engine import Engine
from pengi_rt.errors import BackendError, UsageError
from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.plan.reader import Plan
from pengi_rt.session.session import Session
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.command import exit_code, write_json
from pengi_rt.training.scenes.closed import (
    ClosedTask,
    Scores,
    chance,
    choose,
    differences,
    note_tasks,
    scene_tasks,
    scores,
)
from pengi_rt.training.scenes.evaluate import table
from pengi_rt.training.scenes.heard_once import HeardOnce
from pengi_rt.training.scenes.held_out import SEED, Clip, held_out
from pengi_rt.training.scenes.retrieve import NAMED, Recall, retrieval

MATCHING, LIKELIHOOD = "text matching", "log-likelihood"

METHODS: Mapping[str, ClassifyOptions] = {
    MATCHING: ClassifyOptions(method="text-matching"),
    LIKELIHOOD: ClassifyOptions(method="log-likelihood"),
}
VARIANTS: Mapping[str, ClassifyOptions] = {
    "… per token": ClassifyOptions(method="log-likelihood", normalize="mean"),
    "… per character": ClassifyOptions(method="log-likelihood", normalize="chars"),
    "… over silence": ClassifyOptions(method="log-likelihood", calibrate="silence"),
}
"""Variants of log-likelihood. Tasks with several labels use only plain sums."""

Asked = tuple[Sequence[Clip], Sequence[ClosedTask]]
"""Clips, and the closed tasks about them."""


def questions(count: int, seed: int = SEED) -> list[Asked]:
    """``count`` scenes and ``count`` notes, with all closed tasks about them."""
    tasks = load_tasks()
    scenes, notes = (
        list(held_out(count, notes=notes, tasks=tasks, seed=seed)) for notes in (False, True)
    )
    return [(scenes, scene_tasks(scenes)), (notes, note_tasks(notes))]


def compare(engine: Engine, asked: Sequence[Asked]) -> dict[str, Scores]:
    """One column of scores per method, after chance; the columns for silence come last."""
    names = ["chance", *METHODS, *VARIANTS, *(f"{name}, silence" for name in METHODS)]
    columns: dict[str, Scores] = {name: {} for name in names}
    for clips, tasks in asked:
        for task in tqdm(tasks, unit="task", disable=None):
            columns["chance"] |= chance(task)
            for name, options in METHODS.items():
                columns[name] |= scores(task, choose(engine, task, clips, options))
                deaf = choose(engine, task, clips, options, silence=True)
                columns[f"{name}, silence"] |= scores(task, deaf)
            for name, options in ({} if task.multi_label else VARIANTS).items():
                columns[name] |= scores(task, choose(engine, task, clips, options))
    return columns


class Agreement(NamedTuple):
    """How well two backends agree."""

    choices: int
    differ: int
    scores_apart: float
    """The largest difference."""


def agree(one: Engine, other: Engine, asked: Sequence[Asked]) -> dict[str, Agreement]:
    """The agreement of two backends, by method."""
    found: dict[str, Agreement] = {}
    for name, options in METHODS.items():
        apart = [
            pair
            for clips, tasks in asked
            for task in tasks
            for pair in differences(
                choose(one, task, clips, options), choose(other, task, clips, options)
            )
        ]
        labels, by = zip(*apart, strict=True)
        found[name] = Agreement(len(apart), sum(labels), float(np.max(by)))
    return found


def recall_table(found: Mapping[str, Recall]) -> str:
    """Recall in percent as Markdown, one line per row of ``found``."""
    ks = next(iter(found.values()))
    return table({k: {row: recall[k] for row, recall in found.items()} for k in ks})


@contextmanager
def opened(path: Path, backend: str) -> Iterator[Engine]:
    """Open an engine that encodes each clip only once."""
    with (
        Plan.open(path) as plan,
        Engine(Session(plan, HeardOnce(open_backend(plan, backend=backend)))) as engine,
    ):
        yield engine


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code, nonzero if the compared backends differ."""
    parser = argparse.ArgumentParser(
        prog="python -m pengi_rt.training.scenes.methods",
        description="Score both ways to classify, and retrieval, on held-out scenes and notes.",
    )
    parser.add_argument("plan", type=Path, nargs="?", help="default: the built-in one")
    parser.add_argument(
        "--scenes", type=int, default=1000, help="scenes, and also notes (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=SEED, help="seed of the set (%(default)s: held out)"
    )
    names = ["auto", *(spec.name for spec in backends())]
    parser.add_argument("--backend", choices=names, default="auto")
    parser.add_argument("--against", choices=names, help="compare choices with this backend's")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(argv)
    return exit_code(lambda: _score(options))


def _score(options: argparse.Namespace) -> None:
    if options.scenes < 1:
        raise UsageError(f"--scenes must be at least 1, got {options.scenes}")
    path = options.plan or builtin_plan()
    asked = questions(options.scenes, options.seed)
    with opened(path, options.backend) as engine:
        if options.against:
            with opened(path, options.against) as other:
                _compare_backends(engine, other, asked, options)
            return
        columns = compare(engine, asked)
        print(table(columns), end="\n\n")
        found = retrieval(engine, asked[0][0], options.seed)
    print(recall_table(found.recalls), end="\n\n")
    print(table({f"P@{NAMED}": found.named}), end="\n\n")
    shares = " and ".join(f"{share:.1%} of {kind}" for kind, share in found.distinct.items())
    print(f"{shares} captions are distinct.")
    retrieved = {
        "retrieval": found.recalls,
        "names": found.named,
        "distinct captions": found.distinct,
    }
    _write(options, path, {"closed": columns, **retrieved})


def _compare_backends(
    one: Engine, other: Engine, asked: Sequence[Asked], options: argparse.Namespace
) -> None:
    found = agree(one, other, asked)
    backends = one.backend.name, other.backend.name
    names = " and ".join(backends)
    for method, (count, differ, apart) in found.items():
        print(f"{method}: {count} choices of {names}: {differ} differ; scores by up to {apart:.1e}")
    told = {method: agreement._asdict() for method, agreement in found.items()}
    _write(options, one.plan.path, {"backends": backends, "agreement": told})
    if any(agreement.differ for agreement in found.values()):
        raise BackendError(f"{one.plan.path}: {names} do not agree")


def _write(options: argparse.Namespace, plan: Path, figures: Mapping[str, object]) -> None:
    """Write the file of ``--json``, if it is given."""
    if options.json:
        facts = {"plan": plan.name, "scenes": options.scenes, "seed": options.seed}
        write_json(options.json, {**facts, **figures})


if __name__ == "__main__":
    sys.exit(main())
