"""The demo: several prompts about each sound, and a picture of the answers.

``python -m pengi_rt.training.scenes.demo OUT`` makes scenes and a note that no model was trained
on, and writes ``OUT/NAME.wav`` and ``OUT/NAME.png``. If recordings are named after ``OUT``, it
answers about those instead. It needs the runtime and the extra ``[plot]``, not torch.
"""

import argparse
import io
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap

import soundfile

from pengi_rt.audio.decode import F32
from pengi_rt.audio.recording import load_windows
from pengi_rt.engine import Engine, load
from pengi_rt.errors import InputError, UsageError
from pengi_rt.render.pictures import answer_picture, new_figure
from pengi_rt.text.prompts import Task, load_tasks
from pengi_rt.training.command import exit_code
from pengi_rt.training.scenes.facts import SAMPLE_RATE
from pengi_rt.training.scenes.held_out import Clip, Question, held_out

FIRST_SEED = 910_000_000
"""Added to ``--seed``, to stay clear of the seeds of training (below a million) and scoring."""

KINDS = (
    "how many",
    "what comes after",
    "which instrument",
    "low, middle or high",
    "can you hear (yes/no)",
    "how loud",
    "first",
)
"""Kinds of question by priority; each clip gets the first :data:`QUESTIONS` it has."""
QUESTIONS = 4

TOLD = ("caption", "events", "scene", "metadata")
ASKED = ("how many sounds are there?", "what is heard first?", "what is heard last?")
"""What to ask about a recording of unknown content: tasks, then questions."""

_WIDTHS = (50, 46)  # characters: prompts, answers


@dataclass(frozen=True, slots=True)
class Sound:
    """A file and its prompts; a synthetic one also has a true answer per prompt."""

    path: Path
    name: str  # of the picture
    prompts: tuple[str, ...]
    truths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A sound, the samples that the model got [frames], and its answers."""

    sound: Sound
    samples: F32
    rate: int  # Hz
    cut: bool  # the file is longer
    answers: tuple[str, ...]

    @property
    def right(self) -> int:
        """The number of answers that are true, word for word."""
        return sum(map(str.__eq__, self.answers, self.sound.truths))


def make_sounds(folder: Path, count: int, seed: int, tasks: Mapping[str, Task]) -> Iterator[Sound]:
    """Write ``count`` scenes with one, two and three events in turn, then a note, as 16-bit WAV.

    Raises:
        InputError: a file cannot be written.
    """
    for kind, amount in (("scene", count), ("note", 1)):
        made = held_out(amount, notes=kind == "note", tasks=dict(tasks), seed=FIRST_SEED + seed)
        for number, clip in enumerate(made, start=1):
            path = folder / f"{kind}-{number}.wav"
            try:
                soundfile.write(path, clip.samples, SAMPLE_RATE, subtype="PCM_16")
            except (OSError, soundfile.SoundFileError) as error:
                raise InputError(f"cannot write {path}: {error}") from None
            asked = _chosen(clip)
            prompts = tuple(question.prompt for question in asked)
            yield Sound(path, path.stem, prompts, tuple(question.target for question in asked))


def given_sounds(paths: Sequence[Path], tasks: Mapping[str, Task]) -> Iterator[Sound]:
    """The user's recordings, with the same prompts for all; every picture gets a unique name."""
    told = [tasks[name].prompt for name in TOLD]
    asked = [tasks["qa"].prompt_for({"question": question}) for question in ASKED]
    taken: set[str] = set()
    for number, path in enumerate(paths, start=1):
        name = path.stem if path.stem not in taken else f"{path.stem}-{number}"
        taken.add(name)
        yield Sound(path, name, (*told, *asked))


def answer(engine: Engine, sound: Sound) -> Answered:
    """Ask every prompt about the first window of a sound.

    Raises:
        AudioError: it cannot be read.
    """
    recording = load_windows(sound.path, engine.config, long_audio="first")
    rate = engine.config.sample_rate
    return Answered(
        sound=sound,
        samples=recording.samples[0, : round(recording.ends[0] * rate)],
        rate=rate,
        cut=recording.truncated,
        answers=tuple(engine.generate(recording, prompt).text for prompt in sound.prompts),
    )


def table(answered: Answered) -> str:
    """Prompts and answers as text; the true answer is below each wrong one."""
    sound = answered.sound
    lines = [f"{sound.path}{_cut(answered)}"]
    truths = sound.truths or answered.answers
    for prompt, said, true in zip(sound.prompts, answered.answers, truths, strict=True):
        right = wrap(said, _WIDTHS[1]) or ["(nothing)"]
        if said != true:
            right += wrap(f"true: {true}", _WIDTHS[1], subsequent_indent="      ")
        for left, text in zip_longest(wrap(prompt, _WIDTHS[0]), right, fillvalue=""):
            lines.append(f"  {left:{_WIDTHS[0]}}  {text}")
    return "\n".join(lines)


def draw(answered: Answered, folder: Path) -> Path:
    """Draw the spectrogram with the answers; returns the picture's path.

    Raises:
        BackendError: matplotlib is not installed.
        InputError: it cannot be written.
    """
    sound = answered.sound
    said = answered.answers
    if sound.truths:
        pairs = zip(said, sound.truths, strict=True)
        said = tuple(text if text == true else f"{text} (true: {true})" for text, true in pairs)
    path = folder / f"{sound.name}.png"
    answers = list(zip(sound.prompts, said, strict=True))
    title = f"{sound.path.name}{_cut(answered)}"
    answer_picture(answered.samples, answered.rate, answers, path, title)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    options = _parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")

    def work() -> None:
        _check(options)
        _demonstrate(options)

    return exit_code(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pengi_rt.training.scenes.demo",
        description="Answer prompts about synthetic sounds, or about yours, and draw the answers.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="OUT", help="folder for the pictures; created if missing"
    )
    parser.add_argument(
        "audio", type=Path, nargs="*", metavar="AUDIO", help="recordings to use instead"
    )
    parser.add_argument("--engine", type=Path, metavar="PLAN", help="default: the built-in model")
    parser.add_argument("--count", type=int, default=3, help="number of scenes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sounds (%(default)s)")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Check the options before a model is opened."""
    for name, least in (("count", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} must be at least {least}, got {getattr(options, name)}")
    new_figure(1, 1)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot make the folder {options.folder}: {reason}") from None


def _demonstrate(options: argparse.Namespace) -> None:
    tasks = load_tasks()
    right = asked = 0
    with load(options.engine) as engine:
        if options.audio:
            sounds = given_sounds(options.audio, tasks)
        else:
            sounds = make_sounds(options.folder, options.count, options.seed, tasks)
        for sound in sounds:
            answered = answer(engine, sound)
            print(table(answered))
            print(f"  picture: {draw(answered, options.folder)}\n", flush=True)
            right, asked = right + answered.right, asked + len(sound.truths)
    if asked:
        print(f"{right} of {asked} answers are true, word for word.")


def _chosen(clip: Clip) -> list[Question]:
    """The clip's tasks, then questions of :data:`KINDS`."""
    told = [question for question in clip.questions if question.task != "qa"]
    asked = [question for question in clip.questions if question.kind in KINDS]
    return told + sorted(asked, key=lambda question: KINDS.index(question.kind))[:QUESTIONS]


def _cut(answered: Answered) -> str:
    seconds = answered.samples.size / answered.rate
    return f" (its first {seconds:g} s)" if answered.cut else ""


if __name__ == "__main__":
    sys.exit(main())
