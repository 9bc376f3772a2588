"""ClothoAQA: six questions per Clotho recording, each answered by three people."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pengi_rt.errors import InputError
from pengi_rt.system.quote import shown
from pengi_rt.training.datasets.common import Examples, Options, Row, locate, read_table
from pengi_rt.training.datasets.recordings import Recordings

SPLITS = ("train", "val", "test")
CONFIDENCE = {"yes": 10, "maybe": 6, "no": 1}
"""The weight of a vote, in tenths, by the voter's stated confidence."""

_COLUMNS = ("file_name", "QuestionText", "answer", "confidence")


def convert(root: Path, split: str, options: Options) -> Examples:
    """Read ``clotho_aqa_{split}.csv`` (Latin-1) and the recordings in ``audio_files/``."""
    table = locate(root, f"clotho_aqa_{split}.csv")
    recordings = Recordings(options.audio or locate(root, "audio_files"))
    return Examples(recordings, _rows(table, recordings))


def _rows(table: Path, recordings: Recordings) -> Iterator[Row]:
    for (file_name, question), votes in _questions(table, recordings).items():
        audio = recordings.find(file_name, [file_name])
        for answer in settled(votes) if audio else ():
            yield {"audio": audio, "task": "qa", "question": question, "answer": answer}


def _questions(table: Path, recordings: Recordings) -> dict[tuple[str, str], dict[str, int]]:
    """For each recording and question, the total weight of each answer."""
    questions: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for where, cells in read_table(table, _COLUMNS, encoding="latin-1"):
        confidence = cells["confidence"].strip().lower()
        if confidence not in CONFIDENCE:
            raise InputError(f"{where}: confidence {shown(confidence)} must be yes, no or maybe")
        question = recordings.text(cells["QuestionText"])
        if question and (answer := recordings.text(cells["answer"]).lower()):
            votes = questions[cells["file_name"], question]
            votes[answer] = votes.get(answer, 0) + CONFIDENCE[confidence]
    return questions


def settled(votes: dict[str, int]) -> list[str]:
    """The answers to train on: the heavier of yes and no (the first on a tie), otherwise all."""
    if votes.keys() <= {"yes", "no"}:
        return [max(votes, key=votes.__getitem__)]
    return list(votes)
