"""Every verb at full size, and log-likelihoods against a plain forward pass of the whole decoder.

The reference shares no search, trie or cache with the engine: PyTorch reads prefix and label in one
go, 50 labels side by side, in float32 and in float64.
"""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from full_size import Engines, Ledger
from golden import PAIRS, meta, pair, waveform
from torch import Tensor

from pengi_rt.backends.protocol import F64
from pengi_rt.backends.torch import model_of
from pengi_rt.config.pengi import pengi_config
from pengi_rt.engine import Engine
from pengi_rt.models.gpt2 import GPT2
from pengi_rt.text.prompts import task_prompt

pytestmark = pytest.mark.slow

RATE = 44_100
ESC_50 = (
    "dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow", "rain",
    "sea waves", "crackling fire", "crickets", "chirping birds", "water drops", "wind",
    "pouring water", "toilet flush", "thunderstorm", "crying baby", "sneezing", "clapping",
    "breathing", "coughing", "footsteps", "laughing", "brushing teeth", "snoring",
    "drinking sipping", "door wood knock", "mouse click", "keyboard typing", "door wood creaks",
    "can opening", "washing machine", "vacuum cleaner", "clock alarm", "clock tick",
    "glass breaking", "helicopter", "chainsaw", "siren", "car horn", "engine", "train",
    "church bells", "airplane", "fireworks", "hand saw",
)  # fmt: skip
"""ESC-50's classes (Piczak, 2015), spaces for underscores."""

TOLERANCES = {"sum": 5e-4, "mean": 1e-4}
GAP = 1e-3
"""Labels whose float64 scores differ by more than this keep their order."""


@pytest.fixture(scope="module")
def engine(engines: Engines) -> Engine:
    return engines.get("base", "onnx")


@pytest.fixture(scope="module")
def audio() -> tuple[Any, int]:
    (name, *_) = (name for name in PAIRS if meta(pair(name))["config"] == "base")
    return waveform(meta(pair(name))["audio"]), RATE


@pytest.fixture(scope="module")
def expected(engine: Engine, audio: tuple[Any, int]) -> dict[str, F64]:
    """``[labels, 2]`` in float32 and float64: the sum over a label and the stop, and the mean."""
    ids = engine.prompt_tokenizer.encode(task_prompt("events")).ids
    prefix = np.concatenate(
        [
            engine.backend.encoders.encode_audio(audio[0][None]).prefix[0],
            engine.backend.encoders.encode_text(ids[None]).prefix[0],
        ]
    )
    stop = pengi_config(engine.config).stop_id
    labels = [[*engine.tokenizer.encode(label), stop] for label in ESC_50]
    decoder = model_of(engine.plan).eval().decoder
    assert decoder is not None
    rows = torch.from_numpy(prefix)
    single = plain(decoder, rows, labels)
    return {"float32": single, "float64": plain(decoder.double(), rows.double(), labels)}


@torch.inference_mode()
def plain(decoder: GPT2, prefix: Tensor, labels: list[list[int]]) -> F64:
    """One forward pass over prefix and label, padded at the end, which no token attends to."""
    longest = max(map(len, labels))
    tokens = torch.tensor([label + [0] * (longest - len(label)) for label in labels])
    x = torch.cat([prefix.expand(len(labels), -1, -1), decoder.wte(tokens)], dim=1)
    hidden, _ = decoder(x, torch.arange(x.shape[1]))
    before = hidden[:, len(prefix) - 1 : -1]  # the states that predict the labels' tokens
    logits = decoder.logits(before)
    log_probabilities = logits.log_softmax(-1).gather(2, tokens[:, :, None])[:, :, 0].double()
    sums = torch.stack(
        [row[: len(label)].sum() for row, label in zip(log_probabilities, labels, strict=True)]
    )
    return np.stack([sums.numpy(), sums.numpy() / [len(label) for label in labels]], axis=1)


@pytest.mark.parametrize("normalize", ["sum", "mean"])
def test_log_likelihoods_are_those_of_a_plain_forward_pass(
    engine: Engine,
    audio: tuple[Any, int],
    expected: dict[str, F64],
    ledger: Ledger,
    normalize: Literal["sum", "mean"],
) -> None:
    found = engine.classify(audio, ESC_50, method="log-likelihood", normalize=normalize)
    by_label = {each.label: each.score for each in found.labels}
    ours = np.array([by_label[label] for label in ESC_50])
    for precision, both in expected.items():
        difference = float(np.abs(ours - both[:, ("sum", "mean").index(normalize)]).max())
        ledger("onnx", f"label log-likelihoods, {normalize}", difference, TOLERANCES[normalize])
        assert difference <= TOLERANCES[normalize], precision
    exact = expected["float64"][:, ("sum", "mean").index(normalize)]
    apart = exact[:, None] - exact > GAP
    assert apart.sum() > 1000, "most pairs of labels must have an order to keep"
    assert (ours[:, None] > ours)[apart].all()


def test_every_verb_works(engine: Engine, audio: tuple[Any, int]) -> None:
    prompts = ["generate audio caption", "this is a sound of"]
    caption, events = engine.generate(audio, prompts, beam_size=2, max_new_tokens=3)
    assert [caption.prompt, events.prompt] == prompts
    alone = engine.generate(audio, prompts[1], beam_size=2, max_new_tokens=3)
    assert [beam.tokens for beam in events.beams] == [beam.tokens for beam in alone.beams]

    greedy = engine.generate(audio, beam_size=1, max_new_tokens=3)
    assert "".join(engine.stream(audio, max_new_tokens=3)) == greedy.text
    drawn = engine.generate(audio, samples=2, seed=1, max_new_tokens=3)
    assert len(drawn.beams) == 2

    description = engine.describe(audio, max_new_tokens=2, beam_size=1)
    assert description.text

    matched = engine.classify(audio, ESC_50, max_new_tokens=3, beam_size=1)
    assert {each.label for each in matched.labels} == set(ESC_50)
    assert all(abs(each.score) <= 1 + 1e-6 for each in matched.labels)

    (heard,) = engine.embed_audio([audio])
    config = pengi_config(engine.config)
    assert heard.embedding.shape == (1, config.d_proj)
    assert np.linalg.norm(heard.embedding) == pytest.approx(1, abs=1e-5)
    read = engine.embed_text(prompts)
    assert [each.prefix.shape for each in read] == [(40, config.decoder.n_embd)] * 2

    (explained,) = engine.explain([audio], k=2)
    vectors = explained.windows[0].vectors
    assert [vector.part for vector in vectors] == ["audio"] * 40 + ["prompt"] * 40
    assert all(len(vector.neighbors) == 2 for vector in vectors)
