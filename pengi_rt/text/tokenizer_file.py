"""A tokenizer's JSON, checked part by part before the library that runs it sees it.

That library can be made to panic, to match a stranger's regular expression for ever, and to grow a
short text to gigabytes. So a file may hold only the parts that our exports write: byte-level BPEs,
GPT-2's, CLIP's, and those of :mod:`pengi_rt.text.byte_bpe`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pengi_rt.errors import TokenizerError
from pengi_rt.system.quote import one_line, shown
from pengi_rt.system.strict_json import Limits, parse

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
"""The parts that have one form, but for ``ByteLevel`` and ``RobertaProcessing``."""

_LISTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
"""The key of a ``Sequence``'s parts."""

_OTHER_KEYS = {"version", "truncation", "padding", "added_tokens", "model"}
_FLAGS = {"add_prefix_space", "trim_offsets", "use_regex"}
_MODEL_KEYS = {
    "type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
    "byte_fallback", "ignore_merges", "vocab", "merges",
}  # fmt: skip
_ADDED_FLAGS = {"single_word", "lstrip", "rstrip", "normalized", "special"}

_MAX_PARTS = 4  # of a sequence; CLIP's has 3
_MAX_ADDED = 256
_MAX_TOKEN = 512  # characters; GPT-2's longest has 128


def read_tokenizer(data: bytes, rows: int) -> "Tokenizer":
    """The tokenizer that ``data`` describes; it neither pads nor cuts, whatever that says.

    Args:
        data: JSON.
        rows: of the embedding table that its ids index.

    Raises:
        TokenizerError: it is no tokenizer, holds a part that no export writes, or has more tokens.
    """
    try:
        _check(parse(data, _limits(rows)), rows)
    except ValueError as error:
        raise TokenizerError(f"the tokenizer file cannot be read: it {error}") from None
    from tokenizers import Tokenizer

    with library_refusals("the tokenizer file cannot be read"):
        tokenizer = Tokenizer.from_buffer(data)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def longest_file(rows: int) -> int:
    """The bytes of a tokenizer of so many tokens, at most; GPT-2's takes a quarter of it."""
    return 128 * rows + (1 << 16)


@contextmanager
def library_refusals(what: str) -> Iterator[None]:
    """Make whatever the library raises one line: its panics are no Exceptions.

    Raises:
        TokenizerError: it did.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = one_line(" ".join(str(error).split()))
        raise TokenizerError(f"{what}: {reason}") from None


def _limits(rows: int) -> Limits:
    # A token is a key, a number and a merge of two parts.
    return Limits(longest_file(rows), values=8 * rows + 10_000, string=2 * _MAX_TOKEN + 1)


def _check(data: object, rows: int) -> None:
    """Raises ValueError, whose message goes behind "it", or TokenizerError."""
    parts = _object(data, _FIXED.keys() | _OTHER_KEYS, "is not", "a tokenizer")
    for kind in _FIXED:
        for part in _parts(kind, parts.get(kind)):
            _check_part(kind, part, rows)
    _check_size(parts, rows)
    _check_model(parts.get("model"), rows)
    _check_added(parts.get("added_tokens", []), rows)


def _check_size(parts: dict[str, Any], rows: int) -> None:
    """Say so at once where a whole tokenizer is another model's; its parts are looked at later."""
    model, added = parts.get("model"), parts.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    texts = list(vocabulary) if isinstance(vocabulary, dict) else []
    if isinstance(added, list):
        texts += [token.get("content") for token in added if isinstance(token, dict)]
    size = len({text for text in texts if isinstance(text, str) and 0 < len(text) <= _MAX_TOKEN})
    if size > rows:
        raise TokenizerError(f"the tokenizer has {size} tokens, the model only {rows}")


def _object(data: object, keys: set[str], verb: str, what: str) -> dict[str, Any]:
    """``data`` if it is an object with no keys but these."""
    if not isinstance(data, dict) or not data:
        raise ValueError(f"{verb} {what}")
    unknown = sorted(data.keys() - keys)
    if unknown:
        raise ValueError(f"{verb} {what} that we write: it has {shown(unknown)[1:-1]}")
    return data


def _parts(kind: str, part: Any) -> list[Any]:
    """A sequence's parts, or the one that there is."""
    key = _LISTS.get(kind)
    if part is None:
        return []
    if key is None or not isinstance(part, dict) or part.get("type") != "Sequence":
        return [part]
    inside = part.get(key)
    if part.keys() != {"type", key} or not isinstance(inside, list) or len(inside) > _MAX_PARTS:
        raise ValueError(f"has a {kind} that is no sequence of at most {_MAX_PARTS} parts")
    return inside


def _check_part(kind: str, part: Any, rows: int) -> None:
    if part in _FIXED[kind]:
        return
    name = part.get("type") if isinstance(part, dict) else part
    values = dict(part) if isinstance(part, dict) else {}
    values.pop("type", None)
    if name == "RobertaProcessing" and kind == "post_processor":
        for end in ("sep", "cls"):
            _check_pair(values.pop(end, None), rows)
    elif name != "ByteLevel" or kind == "normalizer":
        raise ValueError(
            f"has the {kind} {shown(name)} in a form that pengi-rt does not write; "
            "export the checkpoint again"
        )
    _check_flags(f"the {kind} {name}", values, _FLAGS)


def _check_pair(pair: object, rows: int) -> None:
    """A token and its id, as a post-processor has them."""
    if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
        raise ValueError("has a post_processor without its tokens")
    _check_id(pair[0], pair[1], rows)


def _check_flags(what: str, values: dict[str, Any], known: set[str]) -> None:
    for key, value in values.items():
        if key not in known or not isinstance(value, bool):
            raise ValueError(f"has {shown(key)}: {shown(value)} in {what}, which we do not write")


def _check_id(token: str, number: object, rows: int) -> None:
    if type(number) is not int or not 0 <= number < rows:
        raise ValueError(
            f"gives the token {shown(token)} the id {shown(number)}, the model has {rows}"
        )


def _check_model(data: object, rows: int) -> None:
    """The vocabulary of a byte-level BPE that always does the same."""
    model = _object(data, _MODEL_KEYS, "has no", "BPE model")
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"has a {shown(model['type'])} model, not BPE")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not (isinstance(vocabulary, dict) and isinstance(merges, list)):
        raise ValueError("has a BPE model without vocab and merges")  # noqa: TRY004
    if len(merges) > rows:
        raise ValueError(f"has {len(merges)} merges, the model only {rows} tokens")
    _check_vocabulary(vocabulary, rows)
    unknown, suffix = model.get("unk_token"), model.get("end_of_word_suffix")
    if unknown is not None and not (isinstance(unknown, str) and unknown in vocabulary):
        raise ValueError(f"has {shown(unknown)} for what is unknown, which is no token")
    if suffix not in (None, "", "</w>"):
        raise ValueError(f"ends words with {shown(suffix)}, which we do not use")
    for key in ("dropout", "byte_fallback", "continuing_subword_prefix"):
        if model.get(key):
            raise ValueError(f"has {key} {shown(model[key])} in its BPE model, which we do not use")


def _check_vocabulary(vocabulary: dict[str, Any], rows: int) -> None:
    """All at once, as there are 50 000; the first that is wrong is looked for if there is one."""
    numbers, lengths = vocabulary.values(), list(map(len, vocabulary))
    fits = not lengths or (min(lengths) > 0 and max(lengths) <= _MAX_TOKEN)
    if fits and set(map(type, numbers)) <= {int} and not set(numbers) - set(range(rows)):
        return
    for token, number in vocabulary.items():
        _check_token(token)
        _check_id(token, number, rows)


def _check_added(data: object, rows: int) -> None:
    """The tokens that are found before any merge."""
    if not isinstance(data, list) or len(data) > _MAX_ADDED:
        raise ValueError(f"has added_tokens that are no list of at most {_MAX_ADDED}")
    for token in data:
        values = dict(_object(token, _ADDED_FLAGS | {"id", "content"}, "has", "an added token"))
        text, number = values.pop("content", None), values.pop("id", None)
        _check_token(text)
        _check_id(text, number, rows)
        _check_flags("an added token", values, _ADDED_FLAGS)


def _check_token(text: object) -> None:
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_TOKEN:
        raise ValueError(f"has the token {shown(text)}, not 1 to {_MAX_TOKEN} characters")
