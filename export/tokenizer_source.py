"""Find a plan's tokenizers and register their special tokens.

The published ``tokenizer.json`` files may list no added tokens. Used as they are, they would split
" <|endoftext|>" into pieces, and no answer would ever stop.
"""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import TokenizerError
from pengi_rt.system.quote import one_line
from pengi_rt.text.tokenizer_json import max_json_bytes
from pengi_rt.text.tokenizers import read_tokenizer

SPECIALS = {
    # "!" is the released wrapper's pad token; once registered, it is split off before any merge.
    "gpt2": ("<|endoftext|>", "!"),
    "clip": ("<|startoftext|>", "<|endoftext|>"),
}
REPOSITORIES = {"gpt2": "openai-community/gpt2", "clip": "openai/clip-vit-base-patch16"}
REVISIONS = {
    "gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "clip": "57c216476eefef5ab752ec549e440a49ae4ae5f3",
}
STOP_TEXT = " <|endoftext|>"


def find_tokenizers(
    config: PengiConfig, directory: Path | None, beside: Path | None
) -> dict[str, bytes]:
    """Find the ``text`` and ``decoder`` tokenizers and return them as JSON.

    Args:
        config: the model that they must fit.
        directory: ``--tokenizers``, a folder with ``gpt2/`` and ``clip/``.
        beside: the ``tokenizers/`` folder of our own checkpoint, which needs no changes.

    Raises:
        TokenizerError: they cannot be found or read, or belong to another model.
    """
    clip = config.text.kind == "clip"  # otherwise prompts use the decoder's tokenizer
    rows = {"text": config.text.vocab_size, "decoder": config.decoder.vocab_size}
    tokenizers: dict[str, Tokenizer] = {}
    for name, family in (("decoder", "gpt2"), ("text", "clip")):
        if name == "text" and not clip:
            tokenizers[name] = tokenizers["decoder"]
        elif directory is None and beside is not None:
            tokenizers[name] = _read(beside / f"{name}.json", rows[name])
        else:
            tokenizers[name] = _published(family, directory, rows[name])
    _check(tokenizers, config)
    return {name: tokenizer.to_str().encode() for name, tokenizer in tokenizers.items()}


def _published(name: str, directory: Path | None, rows: int) -> Tokenizer:
    path = directory / name / "tokenizer.json" if directory else _fetch(name)
    tokenizer = _read(path, rows)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS[name]])
    return tokenizer


def _read(path: Path, rows: int) -> Tokenizer:
    if not path.is_file():
        raise TokenizerError(
            f"{_shown(path)}: there is no such file; put it there, or give --tokenizers another DIR"
        )
    try:
        with path.open("rb") as file:
            data = file.read(max_json_bytes(rows) + 1)
        return read_tokenizer(data, rows)
    except OSError as error:
        raise TokenizerError(f"{_shown(path)}: cannot be read: {error.strerror}") from None
    except TokenizerError as error:
        raise TokenizerError(f"{_shown(path)}: {error}") from None


def _shown(path: Path) -> str:
    return one_line(str(path), 1000)


def _fetch(name: str) -> Path:
    """Fetch a tokenizer from the Hugging Face cache, or from the hub if there is a network."""
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(REPOSITORIES[name], "tokenizer.json", revision=REVISIONS[name])
    except Exception as error:  # noqa: BLE001 - whatever the network does
        raise TokenizerError(
            f"the {name} tokenizer is not in the Hugging Face cache and cannot be fetched from the "
            f"hub ({type(error).__name__}): download tokenizer.json of {REPOSITORIES[name]}, put "
            f"it in DIR/{name}/ and pass --tokenizers DIR"
        ) from None
    return Path(path)


def _check(tokenizers: dict[str, Tokenizer], config: PengiConfig) -> None:
    decoder = tokenizers["decoder"]
    ids = decoder.encode(STOP_TEXT).ids
    if ids[:1] != [config.stop_id] or decoder.token_to_id(STOP_TEXT.strip()) not in ids:
        raise TokenizerError(
            f"the decoder tokenizer reads {STOP_TEXT!r} as {ids}, the model stops at "
            f"{config.stop_id}: it belongs to another model, or its special tokens are not "
            "registered"
        )
    sizes = {"decoder": config.decoder.vocab_size}
    if config.text.kind == "clip":
        sizes["text"] = config.text.vocab_size
    for name, size in sizes.items():
        count = tokenizers[name].get_vocab_size()
        if count != size:
            raise TokenizerError(
                f"the {name} tokenizer has {count} tokens, the model {size}: it belongs to another "
                "model"
            )
