"""All pairs in batches of 1, 3 and 8, in any order: neighbors never change the tokens."""

import numpy as np
import pytest
from full_size import BACKENDS, Engines, Ledger
from golden import PAIRS, meta, pair
from test_pairs import prefix_of, released

from pengi_rt.config.decode import DecodeOptions
from pengi_rt.decoding.beam import search

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("order", ["forwards", "backwards", "shuffled"])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("backend", BACKENDS)
def test_batches(engines: Engines, ledger: Ledger, backend: str, batch: int, order: str) -> None:
    if backend == "torch" and (batch, order) != (8, "shuffled"):
        pytest.skip("PyTorch is the reference: one batch of it is enough")
    engine = engines.get("base", backend)
    goldens = [
        pair(name)
        for name in PAIRS
        if meta(pair(name))["config"] == "base"
        and meta(pair(name))["max_len"] == 30
        and "temperature" not in meta(pair(name))
    ]
    goldens = {
        "forwards": goldens,
        "backwards": goldens[::-1],
        "shuffled": [goldens[i] for i in np.random.default_rng(0).permutation(len(goldens))],
    }[order]
    prefixes = [prefix_of(engine, golden) for golden in goldens]
    assert len({len(prefix) for prefix in prefixes}) > 1, "prefixes of several lengths belong in"
    options = DecodeOptions(beam_size=5, max_new_tokens=30, temperature=1.0, stop_id=220, pad_id=0)
    found = [
        hypotheses
        for start in range(0, len(prefixes), batch)
        for hypotheses in search(engine.backend, prefixes[start : start + batch], options)
    ]
    wrong = 0
    for hypotheses, golden in zip(found, goldens, strict=True):
        ids, _, _ = released(golden, 5)
        wrong += [list(beam.tokens) for beam in hypotheses.beams] != ids
        assert hypotheses.steps == int(golden["beam5_steps"])
    ledger(backend, f"clips with other beams, batch {batch}", wrong, 0)
    assert wrong == 0
