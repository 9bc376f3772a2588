"""A config makes a valid model, or is refused with the path to the bad value."""

import copy
import dataclasses
import json
import math
from typing import Any, get_args, get_type_hints

import pytest
import toy_plan

from pengi_rt.config import pengi as config
from pengi_rt.config.checked import Checked, Within
from pengi_rt.config.decode import MAX_BEAM_SIZE
from pengi_rt.config.parts import (
    DecoderConfig,
    GenerationConfig,
    HTSATConfig,
    MapperConfig,
    MelConfig,
    TextConfig,
)
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.config.presets import PRESETS
from pengi_rt.errors import UsageError

SMALL: dict[str, Any] = {
    "name": "small",
    "clip_seconds": 4.0,
    "mel": {
        "sample_rate": 16_000,
        "filter_rate": 16_000,
        "n_fft": 1024,
        "hop_length": 500,
        "n_mels": 64,
        "fmin": 50.0,
        "fmax": 8_000.0,
    },
    "htsat": {"spec_size": 128, "embed_dim": 48, "depths": [2, 2, 4], "num_heads": [1, 2, 4]},
    "text": {"kind": "token_embedding"},
    "audio_mapper": {"prefix_length": 8, "constant_length": 8},
    "text_mapper": {"kind": "transformer_seq", "prefix_length": 4, "constant_length": 4},
    "decoder": {"vocab_size": 162, "n_positions": 64, "n_embd": 192, "n_layer": 4, "n_head": 4},
    "stop_id": 1,
}
"""A small model with a different geometry."""

LARGE: dict[str, Any] = {
    "clip_seconds": 56.0,
    "mel": {"sample_rate": 352_800, "filter_rate": 256_000, "n_fft": 8192, "hop_length": 2560,
            "n_mels": 512, "fmin": 400.0, "fmax": 112_000.0},
    "htsat": {"spec_size": 2048, "embed_dim": 768, "depths": [16, 16, 48, 16],
              "num_heads": [32, 64, 128, 256], "mlp_ratio": 32},
    "text": {"max_length": 320, "vocab_size": 395_264, "hidden_size": 4096, "num_layers": 96,
             "num_heads": 64, "intermediate_size": 16_384, "max_positions": 616,
             "projection_dim": 4096},
    "d_proj": 8192,
    "audio_mapper": {"prefix_length": 320, "constant_length": 320, "num_layers": 32,
                     "num_heads": 64, "mlp_ratio": 16},
    "text_mapper": {"prefix_length": 320, "constant_length": 320, "num_layers": 32,
                    "num_heads": 64, "mlp_ratio": 16},
    "decoder": {"vocab_size": 402_056, "n_positions": 8192, "n_embd": 6144, "n_layer": 96,
                "n_head": 96},
    "generation": {"beam_size": 40, "max_new_tokens": 536},
}  # fmt: skip
"""Eight times the published sizes, everywhere at once."""

PARTS = (
    MelConfig,
    HTSATConfig,
    TextConfig,
    MapperConfig,
    DecoderConfig,
    GenerationConfig,
    PengiConfig,
)


def changed(data: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of ``data`` with ``value`` at ``path``."""
    data = copy.deepcopy(data)
    inside = data
    *parents, last = path.split(".")
    for parent in parents:
        inside = inside.setdefault(parent, {})
    inside[last] = value
    return data


def refusal(data: object) -> str:
    with pytest.raises(UsageError) as caught:
        PengiConfig.from_dict(data)
    assert toy_plan.one_line(str(caught.value))
    return str(caught.value)


TIME: dict[str, Any] = {
    "htsat": {"pooling": "time"},
    "audio_mapper": {"kind": "transformer_time"},
}
"""The published geometry with an audio prefix in time."""

CONFIGS = {**PRESETS, "small": SMALL, "large": LARGE, "time": TIME}


@pytest.mark.parametrize("data", CONFIGS.values(), ids=CONFIGS)
def test_configs_that_make_a_model(data: dict[str, Any]) -> None:
    made = PengiConfig.from_dict(data)
    assert PengiConfig.from_json(made.to_json()) == made
    assert hash(made) == hash(PengiConfig.from_dict(data))
    assert dataclasses.replace(made, name="other", pad_id=1).pad_id == 1


def test_another_geometry() -> None:
    small = PengiConfig.from_dict(SMALL)
    assert (small.clip_samples, small.mel_frames, small.image_frames) == (64_000, 129, 256)
    assert [small.htsat.resolution(stage) for stage in range(3)] == [32, 16, 8]
    assert (small.htsat.num_features, small.prefix_length) == (192, 12)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("htsat.patch_size", 0, "htsat.patch_size must be in [1, 64], got 0"),
        ("htsat.patch_size", 3, "htsat.spec_size must be a multiple of patch_size * 2^3 (24)"),
        ("htsat.window_size", 0, "htsat.window_size must be in [1, 64], got 0"),
        ("htsat.window_size", 7, "htsat.window_size must divide the resolution of stage 0 (64)"),
        ("htsat.spec_size", 0, "htsat.spec_size must be in [1, 2048], got 0"),
        ("htsat.spec_size", 250, "htsat.spec_size must be a multiple of"),
        ("htsat.depths", [], "htsat.depths must name 1 to 8 stages, got ()"),
        ("htsat.depths", [1] * 9, "htsat.depths must name 1 to 8 stages, got (1, 1, 1,"),
        ("htsat.depths", [2, 2, 10**9, 2], "htsat.depths must be in [1, 64], got 1000000000"),
        ("htsat.num_heads", [4, 8, 16], "htsat.num_heads must have one value per stage (4), got"),
        ("htsat.num_heads", [4, 8, 16, 0], "htsat.num_heads must be in [1, 256], got 0"),
        ("htsat.num_heads", [7, 8, 16, 32], "htsat.embed_dim * 2^0 must be a multiple of num_he"),
        ("htsat.embed_dim", 8192, "htsat.embed_dim gives a last stage of width 65536: too wide"),
        ("htsat.mlp_ratio", 0, "htsat.mlp_ratio must be in"),
        ("mel.hop_length", 0, "mel.hop_length must be in [1, 8192], got 0"),
        ("mel.hop_length", 1, "clip_seconds must give 2 to 1024 frames (the image's), got 308701"),
        ("mel.n_mels", 0, "mel.n_mels must be in [1, 512], got 0"),
        ("mel.n_mels", 48, "htsat.spec_size must be a multiple of mel.n_mels (48), got 256"),
        ("mel.n_mels", 4, "htsat.spec_size^2 / mel.n_mels must be at most 8192, got 16384"),
        ("mel.n_fft", 0, "mel.n_fft must be in [2, 8192], got 0"),
        ("mel.n_fft", 1023, "mel.n_fft must be even, got 1023"),
        ("mel.n_fft", 1 << 40, "mel.n_fft must be in [2, 8192], got 1099511627776"),
        ("mel.sample_rate", 0, "mel.sample_rate must be in"),
        ("mel.fmin", -1.0, "mel.fmin must be in"),
        ("mel.fmin", 14_000, "mel.fmax must be above fmin (14000) and at most half of"),
        ("mel.fmax", 16_001, "mel.fmax must be above fmin (50) and at most half of filter_rate"),
        ("mel.fmax", math.inf, "mel.fmax must be in [0, 192000], got inf"),
        ("clip_seconds", math.nan, "clip_seconds must be in [0.01, 120], got nan"),
        ("clip_seconds", -1, "clip_seconds must be in [0.01, 120], got -1.0"),
        ("clip_seconds", 0, "clip_seconds must be in [0.01, 120], got 0.0"),
        ("clip_seconds", 1e9, "clip_seconds must be in [0.01, 120], got 1000000000.0"),
        ("clip_seconds", 10**400, "clip_seconds must be float, got 10000000"),
        ("clip_seconds", 8, "clip_seconds must give 2 to 1024 frames (the image's), got 1103"),
        ("clip_seconds", 0.0116, "clip_seconds must be more samples than half of mel.n_fft (512)"),
        ("text.vocab_size", -3, "text.vocab_size must be in [1, 524288], got -3"),
        ("text.max_length", 1000, "text.max_length must be in [3, 77] (max_positions), got 1000"),
        ("text.max_length", 2, "text.max_length must be in [3, 77] (max_positions), got 2"),
        ("text.bos_id", 99_999, "text.bos_id must be below vocab_size (49408), got 99999"),
        ("text.eos_id", 49_408, "text.eos_id must be below vocab_size (49408), got 49408"),
        ("text.num_heads", 7, "text.hidden_size must be a multiple of num_heads (7), got 512"),
        ("text.num_layers", 10**7, "text.num_layers must be in"),
        ("text.kind", "token_embedding", "text_mapper.kind must be 'transformer_seq' (text.kind"),
        ("text_mapper.kind", "transformer_seq", "text_mapper.kind must not be 'transformer_seq'"),
        ("text_mapper.kind", "transformer_time", "text_mapper.kind must not be 'transformer_time'"),
        ("htsat.pooling", "time", "audio_mapper.kind must be 'transformer_time' (htsat.pooling"),
        ("audio_mapper.kind", "transformer_time", "audio_mapper.kind must not be 'transformer_t"),
        ("audio_mapper.kind", "transformer_seq", "audio_mapper.kind must not be 'transformer_s"),
        ("audio_mapper.num_layers", 0, "audio_mapper.num_layers must be in"),
        ("audio_mapper.num_heads", 7, "decoder.n_embd must be a multiple of audio_mapper.num_"),
        ("audio_mapper.constant_length", 39, "audio_mapper.constant_length must equal prefix_len"),
        ("text_mapper.prefix_length", 10**6, "text_mapper.prefix_length must be in [1, 512]"),
        ("d_proj", 0, "d_proj must be in [1, 8192], got 0"),
        ("decoder.vocab_size", -3, "decoder.vocab_size must be in [1, 524288], got -3"),
        ("decoder.n_layer", 10**7, "decoder.n_layer must be in [1, 128], got 10000000"),
        ("decoder.n_head", 0, "decoder.n_head must be in [1, 256], got 0"),
        ("decoder.n_head", 7, "decoder.n_embd must be a multiple of n_head (7), got 768"),
        ("decoder.n_positions", 80, "decoder.n_positions must hold the prefix (80) and a token"),
        ("stop_id", -1, "stop_id must be in"),
        ("stop_id", 50_257, "stop_id must be below decoder.vocab_size (50257), got 50257"),
        ("pad_id", 100_000, "pad_id must be below decoder.vocab_size (50257), got 100000"),
        ("generation.beam_size", 65, "generation.beam_size must be in [1, 64], got 65"),
        ("generation.max_new_tokens", 0, "generation.max_new_tokens must be in"),
        ("generation.temperature", math.inf, "generation.temperature must be in"),
        ("generation.temperature", -math.nan, "generation.temperature must be in"),
    ],
)
def test_value_that_makes_no_model_is_refused_by_its_path(
    path: str, value: object, says: str
) -> None:
    assert refusal(changed(PRESETS["base"], path, value)).startswith(f"config.{says}")


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"'bass'; there are: base, base_no_text_enc, tiny, demo$"):
        PengiConfig.preset("bass")


def test_steps_in_time() -> None:
    base, tiny = PengiConfig(), PengiConfig.preset("tiny")
    assert (base.strips, base.audio_steps) == (4, 1)
    assert PengiConfig.from_dict(TIME).audio_steps == 4 * 8
    time = dataclasses.replace(
        tiny,
        htsat=dataclasses.replace(tiny.htsat, pooling="time", depths=(2,), num_heads=(2,)),
        audio_mapper=dataclasses.replace(tiny.audio_mapper, kind="transformer_time"),
    )
    assert (time.strips, time.htsat.side, time.audio_steps) == (4, 16, 64)


def test_tokens_in_time_need_strips_of_whole_tokens() -> None:
    message = refusal(changed(TIME, "mel.n_mels", 16) | {"clip_seconds": 7.0})
    assert message == (
        "config.htsat.pooling 'time': the last stage's resolution must be a multiple of "
        "htsat.spec_size / mel.n_mels (16), got 8"
    )


def test_a_prompt_of_the_decoders_own_tokens_has_no_mapper() -> None:
    bare = PengiConfig.from_dict(
        {"text": {"kind": "decoder", "max_length": 30}, "text_mapper": {"kind": "transformer_seq"}}
    )
    assert (bare.prompt_rows(7), bare.prefix_length) == (7, 70)
    assert PengiConfig().prompt_rows(7) == 40
    with pytest.raises(UsageError, match=r"^decoder\.n_positions must hold the prefix \(1064\)"):
        dataclasses.replace(bare, text=dataclasses.replace(bare.text, max_length=1024))


def test_odd_mlp_mapper() -> None:
    data = changed(SMALL, "decoder", {"vocab_size": 162, "n_embd": 9, "n_head": 3})
    data["audio_mapper"] = {"kind": "mlp", "prefix_length": 5}
    message = refusal(data | {"text_mapper": {"kind": "transformer_seq", "num_heads": 3}})
    assert message.startswith("config.audio_mapper.prefix_length * decoder.n_embd must be a mult")
    data["audio_mapper"]["prefix_length"] = 6  # the constant rows mean nothing here
    PengiConfig.from_dict(data | {"text_mapper": {"kind": "transformer_seq", "num_heads": 3}})


def test_without_a_text_encoder_its_sizes_do_not_matter() -> None:
    data = changed(PRESETS["base_no_text_enc"], "text.bos_id", 99_999)
    assert PengiConfig.from_dict(changed(data, "text.max_length", 100)).text.max_length == 100


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mel.n_fft", 1024.0),
        ("mel.n_fft", "1024"),
        ("mel.n_fft", True),
        ("mel.n_fft", None),
        ("mel.fmin", False),
        ("mel", [1]),
        ("htsat.depths", 2),
        ("htsat.depths", [2, 2.0, 6, 2]),
        ("htsat.pooling", "max"),
        ("htsat.pooling", []),
        ("normalize_audio", 1),
        ("name", 7),
    ],
)
def test_value_of_another_type_is_refused(path: str, value: object) -> None:
    assert refusal(changed(PRESETS["base"], path, value)).startswith(f"config.{path} must be ")


def test_refusals_stay_short_whatever_they_quote() -> None:
    long = "x\n\x1b[2J" * 10_000
    for path in ("htsat.pooling", "mel.n_fft", long, "text." + "y" * 10_000, "d_proj", "mel"):
        refusal(changed({}, path, long))
    refusal(dict.fromkeys(map(str, range(10_000))))
    refusal({"htsat": {"depths": list(range(1, 60))}})
    refusal({"htsat": {"depths": [[[[[[[long]]]]]]]}})
    refusal({"decoder": {"n_layer": 10**4000}})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("path", ["clip_seconds", "mel.fmin", "generation.temperature", "d_proj"])
def test_json_with_nonfinite_numbers(number: str, path: str) -> None:
    text = json.dumps(changed({}, path, "?")).replace('"?"', number)
    with pytest.raises(UsageError, match=rf"^config\.{path} must be "):
        PengiConfig.from_json(text)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"d_proj": ' + "1" * 5000 + "}"])
def test_invalid_json(text: str) -> None:
    with pytest.raises(UsageError, match=r"^the model config is not JSON: "):
        PengiConfig.from_json(text)


def test_values_are_checked_whoever_makes_the_config() -> None:
    with pytest.raises(UsageError, match=r"^patch_size must be in \[1, 64\], got 0$"):
        HTSATConfig(patch_size=0)
    base = PengiConfig()
    with pytest.raises(UsageError, match=r"^stop_id must be below decoder\.vocab_size"):
        dataclasses.replace(base, decoder=dataclasses.replace(base.decoder, vocab_size=220))


@pytest.mark.parametrize("part", PARTS)
def test_every_number_has_finite_bounds(part: type[Checked]) -> None:
    plain, full = get_type_hints(part), get_type_hints(part, include_extras=True)
    for name, hint in plain.items():
        if hint in (int, float) or get_args(hint)[:1] == (int,):
            bounds = [extra for extra in full[name].__metadata__ if isinstance(extra, Within)]
            assert len(bounds) == 1, name
            assert 0 <= bounds[0].low < bounds[0].high < math.inf, name


def test_bounds_repeated_from_other_rooms_agree() -> None:
    hints = get_type_hints(GenerationConfig, include_extras=True)
    assert hints["beam_size"].__metadata__ == (Within(1, MAX_BEAM_SIZE),)


def test_every_part_of_the_config_is_tested_here() -> None:
    made = {x for x in vars(config).values() if isinstance(x, type) and issubclass(x, Checked)}
    assert made - {Checked} == set(PARTS)
