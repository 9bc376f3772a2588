"""Compare a backend's answers with ONNX Runtime's, token by token, on held-out scenes.

``python -m pengi_rt.training.scenes.agreement [PLAN] [--count 200] [--backend native --precision
int8]`` asks both every question about every scene. It prints where their best beams differ, and how
often they find the same next token likeliest, at every place of ONNX Runtime's answers.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pengi_rt.engine import load
from pengi_rt.errors import BackendError
from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.command import exit_code
from pengi_rt.training.scenes.ask import Asker
from pengi_rt.training.scenes.held_out import Clip, held_out


class Agreement(NamedTuple):
    """How far a backend agrees with ONNX Runtime."""

    answers: int
    differences: list[str]
    """One line for each answer whose best beam differs."""
    places: int
    """Places in ONNX Runtime's answers."""
    same_next_token: int
    """Those of them where both find the same next token likeliest."""


def agreement(
    plan: Path,
    clips: Sequence[Clip],
    *,
    backend: str = "torch",
    precision: str = "auto",
    beam_size: int = 3,
) -> Agreement:
    """Ask ``backend`` and ONNX Runtime every question about the clips."""
    with load(plan, backend="onnx") as engine:
        expected, likeliest = _answers(Asker(engine, beam_size=beam_size), clips)
    with load(plan, backend=backend, precision=precision) as engine:
        found, also = _answers(Asker(engine, beam_size=beam_size), clips, expected)
    questions = [question for clip in clips for question in clip.questions]
    lines = [
        f"{question.prompt!r}: onnx {onnx!r}, {backend} {other!r}"
        for question, onnx, other in zip(questions, expected, found, strict=True)
        if onnx != other
    ]
    same = sum(a == b for a, b in zip(likeliest, also, strict=True))
    return Agreement(len(questions), lines, len(likeliest), same)


def _answers(
    asker: Asker, clips: Sequence[Clip], along: Sequence[tuple[int, ...]] | None = None
) -> tuple[list[tuple[int, ...]], list[int]]:
    """All best beams; and the likeliest token at every place of ``along``, or of these beams."""
    answers = [tokens for _, said in asker.ask(clips) for tokens in said]
    places = asker.next_tokens(clips, answers if along is None else along)
    return answers, [token for tokens in places for token in tokens]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code, nonzero if an answer differs."""
    parser = argparse.ArgumentParser(
        prog="python -m pengi_rt.training.scenes.agreement",
        description="Ask a backend and ONNX Runtime the same questions; compare their answers.",
    )
    parser.add_argument("plan", type=Path, nargs="?", help="default: the built-in one")
    parser.add_argument("--count", type=int, default=200, help="scenes (%(default)s)")
    parser.add_argument("--backend", default="torch", help="(%(default)s)")
    parser.add_argument("--precision", default="auto", help="of that backend (%(default)s)")
    options = parser.parse_args(argv)
    return exit_code(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> None:
    plan, backend, precision = options.plan or builtin_plan(), options.backend, options.precision
    clips = list(held_out(options.count, notes=False, tasks=load_tasks()))
    found = agreement(plan, clips, backend=backend, precision=precision)
    for line in found.differences:
        print(line)
    print(
        f"{found.answers} answers about {len(clips)} scenes: {len(found.differences)} differ; "
        f"same next token at {found.same_next_token} of {found.places} places"
    )
    if found.differences and precision in ("auto", "fp32"):
        raise BackendError(f"{plan}: ONNX Runtime and {backend} do not agree")


if __name__ == "__main__":
    sys.exit(main())
