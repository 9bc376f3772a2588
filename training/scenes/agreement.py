"""Compare the answers of ONNX Runtime and PyTorch, token by token, on held-out scenes.

``python -m pengi_rt.training.scenes.agreement [PLAN] [--count 200]`` asks both backends every
question about every scene, and prints where their best beams differ.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pengi_rt.engine import load
from pengi_rt.errors import BackendError
from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.command import exit_code
from pengi_rt.training.scenes.ask import Asker
from pengi_rt.training.scenes.held_out import Clip, held_out


def differences(plan: Path, clips: Sequence[Clip], *, beam_size: int = 3) -> tuple[int, list[str]]:
    """The number of answers, and one line for each that differs."""
    both = [_answers(plan, backend, clips, beam_size) for backend in ("onnx", "torch")]
    lines = [
        f"{question.prompt!r}: onnx {onnx!r}, torch {torch!r}"
        for clip, *texts in zip(clips, *both, strict=True)
        for question, onnx, torch in zip(clip.questions, *texts, strict=True)
        if onnx != torch
    ]
    return sum(len(clip.questions) for clip in clips), lines


def _answers(
    plan: Path, backend: str, clips: Sequence[Clip], beam_size: int
) -> list[list[tuple[int, ...]]]:
    with load(plan, backend=backend) as engine:
        return [said for _, said in Asker(engine, beam_size=beam_size).ask(clips)]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code, nonzero if an answer differs."""
    parser = argparse.ArgumentParser(
        prog="python -m pengi_rt.training.scenes.agreement",
        description="Ask ONNX Runtime and PyTorch the same questions; compare their best beams.",
    )
    parser.add_argument("plan", type=Path, nargs="?", help="default: the built-in one")
    parser.add_argument("--count", type=int, default=200, help="scenes (%(default)s)")
    options = parser.parse_args(argv)
    return exit_code(lambda: _compare(options.plan or builtin_plan(), options.count))


def _compare(plan: Path, count: int) -> None:
    clips = list(held_out(count, notes=False, tasks=load_tasks()))
    asked, lines = differences(plan, clips)
    for line in lines:
        print(line)
    print(f"{asked} answers about {len(clips)} scenes: {len(lines)} differ")
    if lines:
        raise BackendError(f"{plan}: ONNX Runtime and PyTorch do not agree")


if __name__ == "__main__":
    sys.exit(main())
