"""Every golden pair, stage by stage and token by token, on both backends.

Tolerance: ten times what the released code itself loses to float32 at that stage (its float32
against its float64, ``meta.max_abs_diff_float32_vs_float64``), and never below 1e-6 of the stage's
largest value.
"""

from typing import Any

import numpy as np
import pytest
from full_size import BACKENDS, Engines, Ledger
from golden import PAIRS, Golden, meta, pair, waveform
from lock_step import prefilled
from numpy.typing import NDArray

from pengi_rt.backends.protocol import F32
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.engine import Engine

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("backend", BACKENDS)]

RATE = 44_100


def compare(
    ledger: Ledger, backend: str, golden: Golden, stage: str, noise: str, ours: F32
) -> None:
    expected = golden[stage]
    lost = meta(golden)["max_abs_diff_float32_vs_float64"].get(noise, 0.0)
    tolerance = max(10 * lost, 1e-6 * float(np.abs(expected).max()))
    difference = float(np.abs(np.asarray(ours, np.float64) - expected).max())
    ledger(backend, noise, difference, tolerance)
    assert difference <= tolerance, stage


def additional_text(golden: Golden) -> str:
    """How the released code reads ``add_text``: only the first letter of a plain string."""
    given = meta(golden)["add_text"]
    text: str = given[0] if given else ""
    return text


def prefix_of(engine: Engine, golden: Golden) -> F32:
    facts = meta(golden)
    ids = engine.prompt_tokenizer.encode(facts["prompt"]).ids
    wave = waveform(facts["audio"])[None]
    parts = [
        engine.backend.encoders.encode_audio(wave).prefix[0],
        engine.backend.encoders.encode_text(ids[None]).prefix[0],
    ]
    text = additional_text(golden)
    if text:
        parts.append(
            require_decoder(engine.backend).embed_tokens(np.array(engine.tokenizer.encode(text)))
        )
    return np.concatenate(parts)


@pytest.mark.parametrize("name", PAIRS)
def test_stages(engines: Engines, ledger: Ledger, backend: str, name: str) -> None:
    golden = pair(name)
    engine = engines.get(meta(golden)["config"], backend)
    facts = meta(golden)
    audio = engine.backend.encoders.encode_audio(waveform(facts["audio"])[None])
    ids = engine.prompt_tokenizer.encode(facts["prompt"]).ids
    text = engine.backend.encoders.encode_text(ids[None])
    compare(ledger, backend, golden, "audio_embed", "audio_proj", audio.embedding[0])
    compare(ledger, backend, golden, "m1_out", "m1_out", audio.prefix[0])
    compare(ledger, backend, golden, "text_embed", "text_embed", text.embedding[0])
    compare(ledger, backend, golden, "m2_out", "m2_out", text.prefix[0])
    prefix = prefix_of(engine, golden)
    logits = prefilled(engine.backend, prefix[None]).first
    compare_log_probabilities(ledger, backend, golden, logits[0])


def compare_log_probabilities(
    ledger: Ledger, backend: str, golden: Golden, logits: NDArray[Any]
) -> None:
    ours = logits.astype(np.float64)
    ours -= np.log(np.exp(ours - ours.max()).sum()) + ours.max()
    for ids, values in (
        ("first_logits_top50_ids", "first_logits_top50_values"),
        ("first_logits_sampled_ids", "first_logits_sampled_values"),
    ):
        expected = golden[values] - float(golden["first_logits_logsumexp"])
        lost = meta(golden)["max_abs_diff_float32_vs_float64"]["first_logits"]
        tolerance = max(10 * lost, 1e-6 * float(np.abs(expected).max()))
        difference = float(np.abs(ours[golden[ids]] - expected).max())
        ledger(backend, "first log-probabilities", difference, tolerance)
        assert difference <= tolerance


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("beams", [1, 3, 5])
def test_tokens(engines: Engines, ledger: Ledger, backend: str, name: str, beams: int) -> None:
    golden = pair(name)
    facts = meta(golden)
    assert facts["float64_tokens_agree"]
    if beams == 3 and "beam3_scores" not in golden:
        pytest.skip("the golden has no beam 3")
    engine = engines.get(facts["config"], backend)
    result = engine.generate(
        (waveform(facts["audio"]), RATE),
        facts["prompt"],
        text=additional_text(golden),
        beam_size=beams,
        max_new_tokens=facts["max_len"],
        temperature=facts.get("temperature", 1.0),
    )
    ids, scores, texts = released(golden, beams)
    wrong = sum(list(beam.tokens) != row for beam, row in zip(result.beams, ids, strict=True))
    ledger(backend, "beams with other tokens", wrong, 0)
    assert [list(beam.tokens) for beam in result.beams] == ids
    assert [beam.text for beam in result.beams] == texts
    tolerance = 10 * facts["max_abs_diff_float32_vs_float64"]["beam_avg"]
    difference = float(np.abs(np.array([beam.score for beam in result.beams]) - scores).max())
    ledger(backend, "beam scores", difference, tolerance)
    assert difference <= tolerance


def released(golden: Golden, beams: int) -> tuple[list[list[int]], NDArray[Any], list[str]]:
    """Token ids, scores and texts of the released search, best first."""
    if beams == 1:
        ids = [golden["greedy_ids"].tolist()]
        return ids, np.array([golden["greedy_score"]]).ravel(), [str(golden["greedy_text"])]
    if beams == 3:
        rows = [golden[f"beam3_ids_{index}"] for index in range(3)]
        texts = golden["beam3_texts"]
    else:
        rows, texts = list(golden["beam5_ids"]), golden["beam5_texts"]
    ids = [[int(token) for token in row if token >= 0] for row in rows]
    return ids, golden[f"beam{beams}_scores"], [str(text) for text in texts]
