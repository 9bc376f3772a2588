"""Check a tokenizer's JSON part by part before the ``tokenizers`` library sees it.

A malicious file can make that library panic, match a regular expression forever, or grow a short
text to gigabytes. So a file may hold only the parts that our exports write: the byte-level BPEs of
GPT-2, CLIP and :mod:`pengi_rt.text.byte_bpe`.
"""

from typing import Any

from pengi_rt.errors import TokenizerError
from pengi_rt.system.quote import shown
from pengi_rt.system.strict_json import Limits, parse

_CLIP_SPACES = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
_CLIP_WORDS = {
    "type": "Split",
    "pattern": {"Regex": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"},
    "behavior": "Removed",
    "invert": True,
}
_FIXED: dict[str, tuple[dict[str, Any], ...]] = {
    "normalizer": ({"type": "NFC"}, {"type": "Lowercase"}, _CLIP_SPACES),
    "pre_tokenizer": (_CLIP_WORDS,),
    "post_processor": (),
    "decoder": (),
}
"""The forms that each part may have, besides ``ByteLevel`` and ``RobertaProcessing``."""

_LISTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
"""The key that holds the parts of a ``Sequence``."""

_OTHER_KEYS = {"version", "truncation", "padding", "added_tokens", "model"}
_FLAGS = {"add_prefix_space", "trim_offsets", "use_regex"}
_MODEL_KEYS = {
    *("type", "vocab", "merges", "dropout", "unk_token", "fuse_unk", "byte_fallback"),
    *("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"),
}
_ADDED_FLAGS = {"single_word", "lstrip", "rstrip", "normalized", "special"}

_MAX_PARTS = 4  # of a sequence; CLIP's has 3
_MAX_ADDED = 256
_MAX_TOKEN = 512  # characters; GPT-2's longest has 128


def check_tokenizer_json(data: bytes, vocab_size: int) -> None:
    """Check that ``data`` holds only parts that an export writes, and not too many tokens.

    Args:
        data: JSON.
        vocab_size: the rows of the embedding table that the token ids index.

    Raises:
        TokenizerError: the JSON is not a tokenizer, has an unknown part, or has too many tokens.
    """
    try:
        _check(parse(data, _limits(vocab_size)), vocab_size)
    except ValueError as error:
        raise TokenizerError(f"the tokenizer file cannot be read: it {error}") from None


def max_json_bytes(vocab_size: int) -> int:
    """The maximum bytes of a tokenizer with ``vocab_size`` tokens; GPT-2 needs a quarter."""
    return 128 * vocab_size + (1 << 16)


def _limits(vocab_size: int) -> Limits:
    # A token is a key, a number and a merge of two parts.
    return Limits(
        max_json_bytes(vocab_size), values=8 * vocab_size + 10_000, string=2 * _MAX_TOKEN + 1
    )


def _check(data: object, vocab_size: int) -> None:
    """Check the parts. Raises ValueError, whose message follows "it", or TokenizerError."""
    parts = _object(data, _FIXED.keys() | _OTHER_KEYS, "is not", "a tokenizer")
    for kind in _FIXED:
        for part in _parts(kind, parts.get(kind)):
            _check_part(kind, part, vocab_size)
    _check_size(parts, vocab_size)
    _check_model(parts.get("model"), vocab_size)
    _check_added(parts.get("added_tokens", []), vocab_size)


def _check_size(parts: dict[str, Any], vocab_size: int) -> None:
    """Recognize another model's tokenizer before checking its parts. Raises TokenizerError."""
    model, added = parts.get("model"), parts.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    texts = list(vocabulary) if isinstance(vocabulary, dict) else []
    if isinstance(added, list):
        texts += [token.get("content") for token in added if isinstance(token, dict)]
    size = len({text for text in texts if isinstance(text, str) and 0 < len(text) <= _MAX_TOKEN})
    if size > vocab_size:
        raise TokenizerError(f"the tokenizer has {size} tokens, but the model only {vocab_size}")


def _object(data: object, keys: set[str], verb: str, what: str) -> dict[str, Any]:
    """``data``, if it is an object with no keys but ``keys``."""
    if not isinstance(data, dict) or not data:
        raise ValueError(f"{verb} {what}")
    unknown = sorted(data.keys() - keys)
    if unknown:
        raise ValueError(f"{verb} {what} that we write: it has {shown(unknown)[1:-1]}")
    return data


def _parts(kind: str, part: Any) -> list[Any]:
    """The parts of a sequence, or the single part; empty if there is no part."""
    key = _LISTS.get(kind)
    if part is None:
        return []
    if key is None or not isinstance(part, dict) or part.get("type") != "Sequence":
        return [part]
    inside = part.get(key)
    if part.keys() != {"type", key} or not isinstance(inside, list) or len(inside) > _MAX_PARTS:
        raise ValueError(f"has a {kind} that is not a sequence of at most {_MAX_PARTS} parts")
    return inside


def _check_part(kind: str, part: Any, vocab_size: int) -> None:
    if part in _FIXED[kind]:
        return
    name = part.get("type") if isinstance(part, dict) else part
    values = dict(part) if isinstance(part, dict) else {}
    values.pop("type", None)
    if name == "RobertaProcessing" and kind == "post_processor":
        for end in ("sep", "cls"):
            _check_pair(values.pop(end, None), vocab_size)
    elif name != "ByteLevel" or kind == "normalizer":
        raise ValueError(
            f"has the {kind} {shown(name)} in a form that pengi-rt does not write; "
            "export the checkpoint again"
        )
    _check_flags(f"the {kind} {name}", values, _FLAGS)


def _check_pair(pair: object, vocab_size: int) -> None:
    """Check a token and its id in a post-processor."""
    if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
        raise ValueError("has a post_processor without its tokens")
    _check_id(pair[0], pair[1], vocab_size)


def _check_flags(what: str, values: dict[str, Any], known: set[str]) -> None:
    for key, value in values.items():
        if key not in known or not isinstance(value, bool):
            raise ValueError(f"has {shown(key)}: {shown(value)} in {what}, which we do not write")


def _check_id(token: str, number: object, vocab_size: int) -> None:
    if type(number) is not int or not 0 <= number < vocab_size:
        raise ValueError(
            f"gives the token {shown(token)} the id {shown(number)}, but the model has {vocab_size}"
        )


def _check_model(data: object, vocab_size: int) -> None:
    """Check the vocabulary and the options of a byte-level BPE."""
    model = _object(data, _MODEL_KEYS, "has no", "BPE model")
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"has a {shown(model['type'])} model, not BPE")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not (isinstance(vocabulary, dict) and isinstance(merges, list)):
        raise ValueError("has a BPE model without vocab and merges")  # noqa: TRY004
    if len(merges) > vocab_size:
        raise ValueError(f"has {len(merges)} merges, but the model only {vocab_size} tokens")
    _check_vocabulary(vocabulary, vocab_size)
    unknown, suffix = model.get("unk_token"), model.get("end_of_word_suffix")
    if unknown is not None and not (isinstance(unknown, str) and unknown in vocabulary):
        raise ValueError(
            f"has {shown(unknown)} as the unknown token, which is not in its vocabulary"
        )
    if suffix not in (None, "", "</w>"):
        raise ValueError(f"ends words with {shown(suffix)}, which we do not use")
    for key in ("dropout", "byte_fallback", "continuing_subword_prefix"):
        if model.get(key):
            raise ValueError(f"has {key} {shown(model[key])} in its BPE model, which we do not use")


def _check_vocabulary(vocabulary: dict[str, Any], vocab_size: int) -> None:
    """Check all 50 000 tokens at once; only if that fails, look for the first bad one."""
    numbers, lengths = vocabulary.values(), list(map(len, vocabulary))
    fits = not lengths or (min(lengths) > 0 and max(lengths) <= _MAX_TOKEN)
    if fits and set(map(type, numbers)) <= {int} and not set(numbers) - set(range(vocab_size)):
        return
    for token, number in vocabulary.items():
        _check_token(token)
        _check_id(token, number, vocab_size)


def _check_added(data: object, vocab_size: int) -> None:
    """Check the tokens that are split off before any merge."""
    if not isinstance(data, list) or len(data) > _MAX_ADDED:
        raise ValueError(f"has added_tokens that are not a list of at most {_MAX_ADDED}")
    for token in data:
        values = dict(_object(token, _ADDED_FLAGS | {"id", "content"}, "has", "an added token"))
        text, number = values.pop("content", None), values.pop("id", None)
        _check_token(text)
        _check_id(text, number, vocab_size)
        _check_flags("an added token", values, _ADDED_FLAGS)


def _check_token(text: object) -> None:
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_TOKEN:
        raise ValueError(f"has the token {shown(text)}, not 1 to {_MAX_TOKEN} characters")
