"""ClothoAQA: Latin-1, votes weighted by confidence, every distinct other answer once."""

from pathlib import Path

import pytest
from miniature import record, write

from pengi_rt.errors import InputError
from pengi_rt.training.datasets.clotho_aqa import settled
from pengi_rt.training.datasets.registry import convert_dataset

VOTES = """
file_name,QuestionText,answer,confidence
Café.wav,Are there waves?,yes,yes
Café.wav,Are there waves?,no,maybe
Café.wav,Are there waves?,no,no
Café.wav,"Is it loud, or not?",Yes,no
Café.wav,"Is it loud, or not?",no,maybe
Café.wav,"Is it loud, or not?",yes,no
b.wav,Is it loud?,no,maybe
b.wav,Is it loud?,no,maybe
b.wav,Is it loud?,yes,yes
b.wav,What sings?,bird,yes
b.wav,What sings?,Bird ,no
b.wav,What sings?,birds,maybe
b.wav,How many?,yes,yes
b.wav,How many?,two,yes
gone.wav,Is it loud?,yes,yes
"""


def test_rows(tmp_path: Path) -> None:
    write(tmp_path / "clotho_aqa_train.csv", VOTES, "latin-1")
    cafe = record(tmp_path / "audio_files" / "Café.wav")
    other = record(tmp_path / "audio_files" / "b.wav")
    done = convert_dataset("clotho_aqa", tmp_path, "train")
    assert done.rows == [
        {"audio": audio, "task": "qa", "question": question, "answer": answer}
        for audio, question, answer in [
            (cafe, "Are there waves?", "yes"),  # 1.0 against 0.6 + 0.1
            (cafe, "Is it loud, or not?", "no"),  # 0.1 + 0.1 against 0.6
            (other, "Is it loud?", "no"),  # 0.6 + 0.6 against 1.0
            (other, "What sings?", "bird"),
            (other, "What sings?", "birds"),
            (other, "How many?", "yes"),
            (other, "How many?", "two"),
        ]
    ]
    assert (done.clips, done.missing) == (2, 1)


def test_ties_go_to_the_first_answer() -> None:
    assert settled({"no": 10, "yes": 10}) == ["no"]
    assert settled({"yes": 10, "no": 10}) == ["yes"]


def test_unknown_confidence(tmp_path: Path) -> None:
    table = write(tmp_path / "clotho_aqa_val.csv", VOTES + "b.wav,Why?,so,perhaps\n", "latin-1")
    record(tmp_path / "audio_files" / "b.wav")
    with pytest.raises(InputError, match=f"^{table}:17: confidence 'perhaps' must be yes, no or"):
        convert_dataset("clotho_aqa", tmp_path, "val")
