"""Tokenizer files contain the parts our exports write; no other part reaches the library.

The library panics on some, which is not an Exception, and uses gigabytes for others.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
import toy_plan
from tokenizers import Tokenizer

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import TokenizerError
from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.plan.manifest import tokenizer_entry
from pengi_rt.text.tokenizer_json import max_json_bytes
from pengi_rt.text.tokenizers import DecoderTokenizer, read_tokenizer, tokenizer_errors

TOKENIZERS = ("text", "decoder")

ROWS = PengiConfig.preset("demo").decoder.vocab_size
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    contents = toy_plan.contents(builtin_plan())
    return {name: contents[tokenizer_entry(name)] for name in TOKENIZERS}


def refusal(data: bytes, rows: int = ROWS) -> str:
    with pytest.raises(TokenizerError) as caught:
        read_tokenizer(data, rows)
    assert toy_plan.one_line(str(caught.value))
    return str(caught.value)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_our_own_are_read(name: str, files: dict[str, bytes]) -> None:
    assert read_tokenizer(files[name], ROWS).get_vocab_size() == ROWS


@pytest.mark.parametrize(("name", "rows"), [("gpt2", 50_257), ("clip", 49_408)])
def test_the_published_ones_are_read(name: str, rows: int, reference: Any) -> None:
    data = (reference / "tokenizers" / name / "tokenizer.json").read_bytes()
    assert read_tokenizer(data, rows).get_vocab_size() == rows
    exported = Tokenizer.from_buffer(data).to_str(pretty=True).encode()
    assert read_tokenizer(exported, rows).get_vocab_size() == rows


CLIP = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ],
    },
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"},
                "behavior": "Removed",
                "invert": True,
            },
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        ],
    },
    "post_processor": {
        "type": "RobertaProcessing",
        "sep": ["<|endoftext|>", 671],
        "cls": ["<|startoftext|>", 670],
        "trim_offsets": False,
        "add_prefix_space": False,
    },
}


def test_clips_parts_are_read(files: dict[str, bytes]) -> None:
    data = json.loads(files["text"]) | CLIP
    tokenizer = read_tokenizer(json.dumps(data).encode(), ROWS)
    assert tokenizer.encode("A  DOG", add_special_tokens=False).ids


def put(*path: Any, value: Any) -> Edit:
    """Set the value at ``path``."""

    def edit(data: dict[str, Any]) -> None:
        inside: Any = data
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = value

    return edit


def grow(data: dict[str, Any]) -> None:
    """A few hundred bytes that expand one letter to gigabytes."""
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 20}
    data["normalizer"] = {"type": "Sequence", "normalizers": [double] * 4}


def replace(pattern: dict[str, str], content: str = " ") -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


ADDED = {
    "id": 5,
    "content": "%",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
SEQUENCE = {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 5}
WORD_LEVEL = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (grow, "has the normalizer 'Replace' in a form"),
        (put("normalizer", value=replace({"String": ""})), "the normalizer 'Replace'"),
        (put("normalizer", value=replace({"Regex": "(a+)+$"})), "the normalizer 'Replace'"),
        (put("normalizer", value={"type": "Precompiled", "precompiled_charsmap": ""}), "compiled"),
        (put("normalizer", value={"type": "Prepend", "prepend": "x"}), "'Prepend'"),
        (put("normalizer", value={"type": "NFC", "more": 1}), "the normalizer 'NFC' in a form"),
        (put("normalizer", value=SEQUENCE), "not a sequence of at most 4 parts"),
        (put("normalizer", value={"type": "ByteLevel"}), "the normalizer 'ByteLevel'"),
        (put("normalizer", value="NFC"), "the normalizer 'NFC' in a form"),
        (put("pre_tokenizer", value={"type": "FixedLength", "length": 0}), "'FixedLength'"),
        (put("pre_tokenizer", value={"type": "Split"}), "the pre_tokenizer 'Split'"),
        (put("pre_tokenizer", "use_regex", value=1), "has 'use_regex': 1 in the pre_tokenizer"),
        (put("decoder", value={"type": "Sequence", "decoders": []}), "the decoder 'Sequence'"),
        (put("decoder", value={"type": "Strip"}), "the decoder 'Strip'"),
        (put("post_processor", value={"type": "TemplateProcessing"}), "'TemplateProcessing'"),
        (put("post_processor", value={"type": "RobertaProcessing"}), "without its tokens"),
        (put("model", value=WORD_LEVEL), "has a 'WordLevel' model, not BPE"),
        (put("model", "type", value="Unigram"), "has a 'Unigram' model, not BPE"),
        (put("model", "vocab", value=[]), "without vocab and merges"),
        (put("model", "dropout", value=0.5), "has dropout 0.5 in its BPE model"),
        (put("model", "byte_fallback", value=True), "has byte_fallback True"),
        (put("model", "continuing_subword_prefix", value="##"), "continuing_subword_prefix '##'"),
        (put("model", "end_of_word_suffix", value="é"), "ends words with 'é'"),
        (put("model", "unk_token", value="none"), "has 'none' as the unknown token"),
        (put("model", "unk_token", value=["a"]), "has ['a'] as the unknown token"),
        (
            put("model", "vocab", "e", value=10**9),
            "the token 'e' the id 1000000000, but the model has",
        ),
        (put("model", "vocab", "e", value=-1), "the token 'e' the id -1"),
        (put("model", "vocab", "e", value=True), "the token 'e' the id True"),
        (put("model", "vocab", "e" * 600, value=1), "not 1 to 512 characters"),
        (put("model", "merges", 0, value=["zz", "zz"]), "cannot be read: "),
        (put("model", "merges", 0, value=7), "cannot be read: "),
        (
            put("model", "vocab", "more", value=1),
            "the tokenizer has 673 tokens, but the model only 672",
        ),
        (put("added_tokens", value=None), "added_tokens that are not a list"),
        (put("added_tokens", value=[ADDED] * 300), "added_tokens that are not a list"),
        (put("added_tokens", 0, "content", value=""), "not 1 to 512 characters"),
        (put("added_tokens", 0, "content", value=7), "has the token 7"),
        (put("added_tokens", 0, "id", value=ROWS), "the id 672, but the model has 672"),
        (put("added_tokens", 0, "special", value="yes"), "has 'special': 'yes' in an added token"),
        (put("added_tokens", 0, "more", value=1), "has an added token that we write: it has"),
        (put("more", value=1), "is not a tokenizer that we write: it has 'more'"),
    ],
)
def test_what_no_export_writes(edit: Edit, says: str, files: dict[str, bytes]) -> None:
    data = json.loads(files["text"])
    edit(data)
    assert says in refusal(json.dumps(data).encode())


def test_the_size_of_a_file_is_bounded(files: dict[str, bytes]) -> None:
    longest = max_json_bytes(ROWS)
    assert "bytes, at most" in refusal(files["text"] + b" " * longest)
    assert read_tokenizer(files["text"] + b" " * (longest - len(files["text"])), ROWS)


def test_settings_that_we_do_not_use_are_ignored(files: dict[str, bytes]) -> None:
    data = json.loads(files["decoder"])
    data["truncation"] = {
        "max_length": 1,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    data["padding"] = {
        "strategy": {"Fixed": 1 << 40},
        "direction": "Right",
        "pad_id": 0,
        "pad_to_multiple_of": None,
        "pad_type_id": 0,
        "pad_token": "x",
    }
    tokenizer = read_tokenizer(json.dumps(data).encode(), ROWS)
    assert 1 < len(tokenizer.encode("a dog").ids) < 9


def test_a_panic_is_a_one_line_error() -> None:
    """Raised as the library does: not an Exception, from a module that cannot be imported."""
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    line = r"^it reads: attempt to subtract with overflow$"
    with pytest.raises(TokenizerError, match=line), tokenizer_errors("it reads"):
        raise panic("attempt to subtract\nwith overflow")
    for other in (KeyboardInterrupt, SystemExit):
        with pytest.raises(other), tokenizer_errors("it reads"):
            raise other


def test_a_later_failure_is_a_one_line_error(files: dict[str, bytes]) -> None:
    decoder = DecoderTokenizer(files["decoder"], PengiConfig.preset("demo"))
    with pytest.raises(TokenizerError, match=r"^the tokenizer cannot decode its tokens: "):
        decoder.decode([-1])
