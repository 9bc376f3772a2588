"""Tokenizers from a manifest: both sizes, covering everything that a run will read."""

from pathlib import Path

import pytest
from import_graph import ROOT
from training_run import MODEL, merged, write_clips, write_rows

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import UsageError
from pengi_rt.export.tokenizer_source import find_tokenizers
from pengi_rt.text.prompts import load_tasks
from pengi_rt.text.tokenizers import DecoderTokenizer, PromptTokenizer
from pengi_rt.training.config import _model
from pengi_rt.training.manifest import read_manifest
from pengi_rt.training.scenes.write import write_text
from pengi_rt.training.vocabulary import main, write_vocabulary

SIZE = 400
TASKS = ROOT / "training" / "recipes" / "demo" / "tasks.toml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command's tokenizers of 50 synthesized scenes."""
    folder = tmp_path_factory.mktemp("vocabulary")
    write_text(folder, seed=1, start=0, count=50, audio=False)
    paths = [str(folder / "manifest.jsonl"), str(folder / "tokenizers")]
    assert main([*paths, "--size", str(SIZE), "--tasks", str(TASKS)]) == 0
    return folder


def config() -> PengiConfig:
    text = {"vocab_size": SIZE, "bos_id": SIZE - 2, "eos_id": SIZE - 1}
    table = merged(MODEL, {"text": text, "decoder": {"vocab_size": SIZE}})
    return PengiConfig.from_dict(_model(table))


def test_a_model_of_that_size_accepts_them(folder: Path) -> None:
    found = find_tokenizers(config(), None, folder / "tokenizers")
    prompts = PromptTokenizer(found["text"], config())
    decoder = DecoderTokenizer(found["decoder"], config())
    tokens = letters = 0
    for row in read_manifest(folder / "manifest.jsonl", load_tasks(TASKS), need_audio=False):
        prompt = prompts.encode(row.prompt, strict=True)
        assert (prompt.ids[0], prompt.ids[-1]) == (SIZE - 2, SIZE - 1)
        assert decoder.encode(f"{row.target} <|endoftext|>")[-2:] == [220, SIZE - 1]
        for text in (row.target, row.prompt, f" {row.transcript}"):
            tokens += len(decoder.encode(text))
            letters += len(text)
    # Trained on these very texts; for other texts it would make about one token per letter.
    assert tokens < letters / 3


def test_the_same_rows_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    rows = read_manifest(folder / "manifest.jsonl", load_tasks(TASKS), need_audio=False)
    write_vocabulary(rows, tmp_path / "again", SIZE)
    for name in ("text.json", "decoder.json"):
        again = (tmp_path / "again" / name).read_bytes()
        assert again == (folder / "tokenizers" / name).read_bytes()


def test_audio_is_not_needed_but_allowed(tmp_path: Path) -> None:
    main([str(write_clips(tmp_path)), str(tmp_path / "out"), "--size", "300"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"text.json", "decoder.json"}


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no.jsonl"), str(tmp_path / "out"), "--size", "300"]) == 3
    error = capsys.readouterr().err
    assert error == f"error: {tmp_path}/no.jsonl: cannot be read: No such file or directory\n"


def test_too_little_text(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "m.jsonl", [{"task": "caption", "caption": "a"}])
    rows = read_manifest(path, load_tasks(), need_audio=False)
    with pytest.raises(UsageError, match=r"gives a vocabulary of \d+ pieces, not 999"):
        write_vocabulary(rows, tmp_path / "out", 1000)
