"""The tiny model for tests: random weights, and tokenizers trained on a few made-up sentences.

``python -m pengi_rt.models.tiny DIR`` writes ``DIR/tiny.safetensors`` and ``DIR/tokenizers/``. Its
text is gibberish; its quirks are those of the released model.
"""

import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.checkpoint_writer import save_checkpoint
from pengi_rt.models.pengi import Pengi
from pengi_rt.text.byte_bpe import END_OF_TEXT, train_decoder_tokenizer, train_text_tokenizer

SUBJECTS = (
    "a dog", "a cat", "a man", "a woman", "two children", "a crowd", "an engine", "a siren",
    "a bell", "the rain", "a strong wind", "thunder", "a bird", "many insects", "a guitar",
    "a church organ", "a train", "footsteps", "a door", "water",
)  # fmt: skip
SOUNDS = (
    "barks loudly", "is speaking", "sings a song", "laughs and shouts", "rings twice",
    "falls on a tin roof", "howls in the distance", "hums quietly", "passes by", "plays a melody",
    "opens and closes", "drips slowly", "squeaks", "approaches from far away", "is heard",
)  # fmt: skip
PLACES = (
    "in the background", "on a busy street", "in a small room", "near the sea", "at night",
    "while music is playing", "followed by silence", "generate audio caption", "generate metadata",
    "question: what is heard?", "this is a sound of", "this acoustic scene is", "this emotion is",
)  # fmt: skip


def make_tiny(directory: Path, seed: int = 0) -> Path:
    """Write the tiny checkpoint into ``directory``. The same seed gives the same bytes."""
    config = PengiConfig.preset("tiny")
    model = random_model(config, seed)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "tiny.safetensors"
    save_checkpoint(model, path, make_tokenizers(config))
    return path


def random_model(config: PengiConfig, seed: int = 0) -> Pengi:
    """A model of any size with random weights that behave: values of order one, answers that end.

    Each tensor has its own random stream, seeded by its name. Answers depend on the recording and
    the prompt. Late positions favor the stop token, so that answers differ in length.
    """
    model = Pengi(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_draw(name, tuple(parameter.shape), seed))
        bn = model.audio_encoder.mel.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        bn.running_mean.fill_(-20.0)  # dB
        bn.running_var.fill_(800.0)
        # A filter without its mean sees differences instead of level, so recordings differ.
        filters = model.audio_encoder.htsat.patch_embed.proj.weight
        filters -= filters.mean(dim=(1, 2, 3), keepdim=True)
        _lean_to_stop(model)
    return model.eval()


def make_tokenizers(config: PengiConfig) -> dict[str, bytes]:
    """Train byte-level BPEs of exactly the config's sizes, for the prompt and for the decoder.

    Without a text encoder, both are the same tokenizer.
    """
    sentences = [f"{who} {does} {where}" for who in SUBJECTS for does in SOUNDS for where in PLACES]
    decoder = train_decoder_tokenizer(sentences, config.decoder.vocab_size).to_str().encode()
    if config.text.kind != "clip":
        return dict.fromkeys(("text", "decoder"), decoder)
    text = train_text_tokenizer(sentences, config.text.vocab_size)
    assert text.token_to_id(END_OF_TEXT) == config.text.eos_id
    return {"text": text.to_str().encode(), "decoder": decoder}


# (Suffix of the name, standard deviation). The rest get a gain over the root of their inputs.
_DEVIATIONS = (
    ("decoder.wpe.weight", 0.5),
    ("token_embedding.weight", 0.6),
    ("position_embedding.weight", 0.25),
    ("relative_position_bias_table", 0.4),
    ("patch_embed.proj.weight", 0.3),
    ("prefix_const", 1.0),
    ("audio_mapper.linear.weight", 1.2),  # its input is a unit vector
    ("audio_mapper.fc1.weight", 1.2),
    ("audio_mapper.position", 0.5),
)
_GAIN = 1.3
_DECODER_GAIN = 2.6  # attention must outweigh the token itself, or the tied head repeats it
_WTE_GAIN = 3.2  # the standard deviation of the logits is this times the root of n_embd


def _draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    stream = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = torch.from_numpy(stream.standard_normal(shape).astype(np.float32))
    for ending, deviation in _DEVIATIONS:
        if name.endswith(ending):
            return values * deviation
    if len(shape) == 1:
        norm = "norm" in name or ".ln_" in name or ".bn." in name
        return values * 0.05 + (1.0 if norm and name.endswith("weight") else 0.0)
    if name == "decoder.wte.weight":
        return values * (_WTE_GAIN / shape[1] ** 0.5)
    if name.startswith("decoder."):  # GPT-2 stores its weights [inputs, outputs]
        if name.endswith("mlp.c_proj.weight"):
            values[1::2] = -values[0::2]  # pairs cancel GELU's mean, otherwise a constant
        return values * (_DECODER_GAIN / shape[0] ** 0.5)
    if name.endswith("mlp.fc2.weight"):
        values[:, 1::2] = -values[:, 0::2]
    return values * (_GAIN / shape[1] ** 0.5)


def _lean_to_stop(model: Pengi) -> None:
    """Make late positions favor the stop token, through one direction of the hidden state."""
    config = model.config.decoder
    direction = _draw("stop direction", (config.n_embd,), 0).sign() / config.n_embd**0.5
    model.decoder.wte.weight[model.config.stop_id] += 3.0 * direction
    late = torch.arange(config.n_positions) - model.config.prefix_length
    model.decoder.wpe.weight += 20.0 * (late / 20).clamp(0.0, 1.0)[:, None] * direction


if __name__ == "__main__":
    print(make_tiny(Path(sys.argv[1])))
