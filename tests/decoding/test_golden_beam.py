"""The released code's own beams from its own prefixes, on the full-size decoder.

``PENGI_RT_CHECKPOINTS`` names a folder with ``base.pth`` and ``base_no_text_enc.pth``, made by
``make_checkpoint.py`` of the reference folder.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from golden import PAIRS, api, meta, pair
from golden_beam import assert_golden, decode_options, goldens_of, prefix_of

from pengi_rt.backends.protocol import Backend
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.decoding.beam import search

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["base", "base_no_text_enc"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    folder = os.environ.get("PENGI_RT_CHECKPOINTS")
    if not folder:
        pytest.skip("PENGI_RT_CHECKPOINTS names no folder of full-size checkpoints")
    from pengi_rt.backends.torch import TorchBackend
    from pengi_rt.export.checkpoint_reader import load_model

    model, _ = load_model(Path(folder) / f"{request.param}.pth")
    runner = TorchBackend(model)
    yield runner
    runner.close()


def test_pairs_together(backend: Backend) -> None:
    """All runs of the same options in one batch, prefixes of 80, 81 and 83 rows among them."""
    usual = decode_options(pair(PAIRS[0]), 5)
    goldens = [each for each in goldens_of(backend.config.name) if decode_options(each, 5) == usual]
    answers = search(backend, [prefix_of(each) for each in goldens], usual)
    for golden, answer in zip(goldens, answers, strict=True):
        assert_golden(answer, golden["beam5_ids"], golden["beam5_scores"], golden["beam5_steps"])


def test_pairs_alone(backend: Backend) -> None:
    for golden in goldens_of(backend.config.name):
        (answer,) = search(backend, [prefix_of(golden)], decode_options(golden, 5))
        assert_golden(answer, golden["beam5_ids"], golden["beam5_scores"], golden["beam5_steps"])


def test_greedy(backend: Backend) -> None:
    for golden in goldens_of(backend.config.name):
        (answer,) = search(backend, [prefix_of(golden)], decode_options(golden, 1))
        assert_golden(answer, golden["greedy_ids"], golden["greedy_score"])


def test_other_options(backend: Backend) -> None:
    """Beam sizes, lengths, temperatures and stop tokens of the golden public calls."""
    if backend.config.name != "base":
        pytest.skip("the public calls' goldens are of base")
    prefix = prefix_of(pair("base_s0_p00"))
    golden = api()
    names = ["beam_2", "beam_10", "max_len_1", "max_len_2", "max_len_67", "stop_period"]
    names += ["stop_two_words", "temperature_0.0", "temperature_0.5", "temperature_2.0"]
    for name in names:
        case = meta(golden)["cases"][name]
        chosen = DecodeOptions(
            beam_size=case["beam_size"],
            max_new_tokens=case["entry_length"],
            temperature=case["temperature"],
            stop_id=case["stop_id"],
            pad_id=0,
        )
        (answer,) = search(backend, [prefix], chosen)
        scores = np.sort(golden[f"{name}/scores"])[::-1]  # as returned: in the order of the beams
        assert_golden(answer, golden[f"{name}/ids"], scores, golden[f"{name}/steps"])
