"""Where tokenizers come from; another model's are refused, and the hub is never contacted."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import huggingface_hub
import pytest
from golden import loading
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import TokenizerError
from pengi_rt.export.tokenizer_source import REPOSITORIES, REVISIONS, find_tokenizers
from pengi_rt.models.tiny import make_tokenizers

BASE, NO_TEXT = PengiConfig.preset("base"), PengiConfig.preset("base_no_text_enc")
TINY = PengiConfig.preset("tiny")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network\nand many more lines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizers"
    folder.mkdir()
    for name, text in make_tokenizers(TINY).items():
        (folder / f"{name}.json").write_bytes(text)
    return folder


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(TokenizerError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_our_own_are_beside_the_checkpoint(beside: Path) -> None:
    found = find_tokenizers(TINY, None, beside)
    assert set(found) == {"text", "decoder"}
    decoder = Tokenizer.from_buffer(found["decoder"])
    assert decoder.encode(" <|endoftext|>").ids[0] == TINY.stop_id
    assert decoder.encode("wow!!").ids[-2:] == [TINY.pad_id] * 2


@pytest.mark.parametrize("name", ["text", "decoder"])
def test_one_that_is_missing_is_named(beside: Path, name: str) -> None:
    (beside / f"{name}.json").unlink()
    assert f"{name}.json" in refusal(lambda: find_tokenizers(TINY, None, beside))


@pytest.mark.parametrize("content", [b"", b"{}", b"<html>", b"\xff\xfe", b"[1, 2]"])
def test_invalid_tokenizers_are_refused(beside: Path, content: bytes) -> None:
    (beside / "decoder.json").write_bytes(content)
    assert "decoder.json" in refusal(lambda: find_tokenizers(TINY, None, beside))


def test_unregistered_specials_are_refused(beside: Path) -> None:
    """A plain BPE of the right size splits " <|endoftext|>", so that nothing ever stops."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, show_progress=False)
    words = json.loads((beside / "text.json").read_text())["model"]["vocab"]
    plain.train_from_iterator([*[" <|"] * 99, *words, *(f"{word}b" for word in words)], trainer)
    assert plain.encode(" <|endoftext|>").ids[0] != TINY.stop_id
    (beside / "decoder.json").write_text(plain.to_str())
    message = refusal(lambda: find_tokenizers(TINY, None, beside))
    assert f"the model stops at {TINY.stop_id}" in message


@pytest.mark.parametrize("kind", ["token_embedding", "decoder"])
def test_without_a_text_encoder_there_is_one_tokenizer(
    beside: Path, kind: Literal["token_embedding", "decoder"]
) -> None:
    text = dataclasses.replace(TINY.text, kind=kind)
    mapper = dataclasses.replace(TINY.text_mapper, kind="transformer_seq")
    config = dataclasses.replace(TINY, text=text, text_mapper=mapper)
    found = find_tokenizers(config, None, beside)
    assert found["text"] == found["decoder"] == make_tokenizers(TINY)["decoder"]


def test_another_models_tokenizers_are_refused(beside: Path) -> None:
    message = refusal(lambda: find_tokenizers(BASE, None, beside))
    assert "512" in message
    assert "another model" in message


def test_offline_one_line_says_what_to_fetch_and_where_to_put_it() -> None:
    message = refusal(lambda: find_tokenizers(BASE, None, None))
    assert "openai-community/gpt2" in message
    assert "tokenizer.json" in message
    assert "--tokenizers DIR" in message
    assert "DIR/gpt2/" in message


def test_the_hub_is_asked_for_a_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, file: str, *, revision: str) -> str:
        asked.append((repository, file, revision))
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    refusal(lambda: find_tokenizers(BASE, None, None))
    assert asked == [(REPOSITORIES["gpt2"], "tokenizer.json", REVISIONS["gpt2"])]
    for revision in REVISIONS.values():
        assert len(revision) == 40
        int(revision, 16)


def test_a_given_folder_comes_before_everything(beside: Path, tmp_path: Path) -> None:
    message = refusal(lambda: find_tokenizers(TINY, tmp_path / "given", beside))
    assert str(tmp_path / "given" / "gpt2" / "tokenizer.json") in message


def test_the_published_ones_give_the_released_ids(reference: Path) -> None:
    found = find_tokenizers(BASE, reference / "tokenizers", None)
    decoder, text = (Tokenizer.from_buffer(found[name]) for name in ("decoder", "text"))
    assert decoder.encode(" <|endoftext|>").ids == [220, 50256]
    assert decoder.encode("hello !").ids == [31373, 220, 0]
    golden = loading()
    for prompt, released in zip(golden["prompts"], golden["clip/input_ids"], strict=True):
        ids = text.encode(str(prompt), add_special_tokens=False).ids[:38]
        assert released[: len(ids) + 2].tolist() == [49406, *ids, 49407]


def test_without_a_text_encoder_the_prompts_are_the_decoders(reference: Path) -> None:
    found = find_tokenizers(NO_TEXT, reference / "tokenizers", None)
    assert found["text"] == found["decoder"]
