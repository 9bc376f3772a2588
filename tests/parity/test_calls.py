"""The released wrapper's public calls: its loader's quirks, temperatures, stop tokens, lengths."""

import random
from typing import Any

import numpy as np
import pytest
from full_size import BACKENDS, Engines, Ledger
from golden import api, loading_case, meta, waveform

from pengi_rt.audio.recording import AudioLike, load_windows
from pengi_rt.config.pengi import PengiConfig, pengi_config

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("backend", BACKENDS)]

RATE = 44_100
CASES: dict[str, dict[str, Any]] = meta(api())["cases"]
GENERATIONS = [name for name, case in CASES.items() if case["call"] in ("generate", "describe")]
EMBEDDINGS = [name for name, case in CASES.items() if case["call"] == "get_audio_embeddings"]


def recording(name: str) -> AudioLike:
    if not name.startswith("load_"):
        return waveform(name), RATE
    samples, rate = loading_case(name)
    return np.ascontiguousarray(samples.T), rate


def compat_samples(config: PengiConfig, case: dict[str, Any]) -> list[np.ndarray]:
    """The case's files as the released loader reads them, crops drawn one after the other."""
    generator = random.Random(case.get("random_seed") or 0)
    resample = case.get("audio_resample", True)
    return [
        load_windows(
            recording(name), config, long_audio="compat", rng=generator, resample=resample
        ).samples
        for name in case["audio"]
    ]


@pytest.mark.parametrize("name", GENERATIONS)
def test_generate(engines: Engines, ledger: Ledger, backend: str, name: str) -> None:
    golden, case = api(), CASES[name]
    assert case["float64_tokens_agree"]
    engine = engines.get("base", backend)
    item = case["item"]
    prompt = case["prompt"] if case["call"] == "describe" else case["prompt"][item]
    samples = compat_samples(pengi_config(engine.config), case)[item]
    result = engine.generate(
        (samples[0], RATE),
        prompt,
        text=additional_text(case, item),
        beam_size=case["beam_size"],
        max_new_tokens=case["entry_length"],
        temperature=case["temperature"],
        stop=case["stop_token"],
    )
    expected = [[int(i) for i in row if i >= 0] for row in golden[f"{name}/ids"]]
    wrong = sum(list(b.tokens) != row for b, row in zip(result.beams, expected, strict=True))
    ledger(backend, "beams with other tokens", wrong, 0)
    assert [list(beam.tokens) for beam in result.beams] == expected
    assert [beam.text for beam in result.beams] == [str(t) for t in golden[f"{name}/texts"]]
    scores = np.sort(golden[f"{name}/scores"])[::-1]
    difference = float(np.abs(np.array([beam.score for beam in result.beams]) - scores).max())
    tolerance = max(10 * case["max_abs_diff_scores_float32_vs_float64"], 5e-5)
    ledger(backend, "beam scores", difference, tolerance)
    assert difference <= tolerance


def additional_text(case: dict[str, Any], item: int) -> str:
    """Item i's text: the i-th string of a list, or the i-th letter of a string (as released)."""
    given = case.get("add_text", [""])[item] if case["call"] == "generate" else ""
    return given[item] if given else ""


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_audio_embeddings(engines: Engines, ledger: Ledger, backend: str, name: str) -> None:
    golden, case = api(), CASES[name]
    engine = engines.get("base", backend)
    embedding, prefix = engine.backend.encoders.encode_audio(
        np.concatenate(compat_samples(pengi_config(engine.config), case))
    )
    expected = golden[f"{name}/embed"]
    # The loader's resampler equals torchaudio's to 2e-6 on the samples.
    tolerance = max(10 * case["max_abs_diff_embed_float32_vs_float64"], 2e-6)
    difference = float(np.abs(embedding - expected).max())
    ledger(backend, "audio_proj", difference, tolerance)
    assert difference <= tolerance
    rows = prefix[:, [0, 39]]
    np.testing.assert_allclose(rows, golden[f"{name}/prefix_rows"], atol=1e-3)


def test_prompt_embeddings(engines: Engines, ledger: Ledger, backend: str) -> None:
    golden = api()
    engine = engines.get("base", backend)
    prompts = [engine.prompt_tokenizer.encode(str(p)) for p in golden["prompt_embeddings/prompts"]]
    ids = engine.prompt_tokenizer.pad([prompt.ids for prompt in prompts])
    embedding, prefix = engine.backend.encoders.encode_text(ids)
    expected = golden["prompt_embeddings/embed"]
    difference = float(np.abs(embedding - expected).max())
    ledger(backend, "text_embed", difference, 5e-5)
    assert difference <= 5e-5
    np.testing.assert_allclose(
        prefix[:, [0, 39]], golden["prompt_embeddings/prefix_rows"], atol=5e-4
    )
