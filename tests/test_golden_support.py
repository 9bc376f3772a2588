"""The golden files and the clips they were computed from are as documented."""

import golden
import numpy as np
import pytest
from golden_audio import DIGESTS, digest


@pytest.mark.parametrize("name", [name for name in DIGESTS if not name.startswith("load_")])
def test_clip_is_the_reference_clip(name: str) -> None:
    samples = golden.waveform(name)
    assert samples.shape == (308_700,)
    assert samples.dtype == np.float32
    assert digest(samples[None]) == DIGESTS[name]


@pytest.mark.parametrize("name", [name for name in DIGESTS if name.startswith("load_")])
def test_loading_case_is_the_reference_recording(name: str) -> None:
    samples, rate = golden.loading_case(name)
    assert samples.dtype == np.float32
    assert samples.shape[0] == (2 if "stereo" in name else 1)
    assert rate == {"load_48k_5s": 48_000, "load_16k_4s": 16_000}.get(name, 44_100)
    assert digest(samples) == DIGESTS[name]


def test_callers_cannot_spoil_a_clip_for_the_next() -> None:
    golden.waveform("silence")[:] = 1
    assert not golden.waveform("silence").any()


@pytest.mark.parametrize("name", golden.PAIRS)
def test_pair_names_its_inputs(name: str) -> None:
    pair = golden.pair(name)
    meta = golden.meta(pair)
    head = pair["audio_samples_head"]
    np.testing.assert_array_equal(golden.waveform(meta["audio"])[: head.size], head)
    assert meta["config"] == ("base_no_text_enc" if name.startswith("notext") else "base")
    assert meta["prompt"]


def test_api_and_loading_are_complete() -> None:
    cases = golden.meta(golden.api())["cases"]
    assert {"beam_10", "temperature_0.0", "stop_period"} <= set(cases)
    assert len(golden.loading()["prompts"]) == 10
