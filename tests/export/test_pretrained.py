"""Parts taken from whole files: ours, the published ones, CLAP's, GPT-2's and CLIP's."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from published import publish
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, GPT2Config, GPT2LMHeadModel

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.export.pretrained import read_parts
from pengi_rt.models.pengi import PARTS, Pengi
from pengi_rt.models.tiny import random_model

TINY = PengiConfig.preset("tiny")


@pytest.fixture(scope="module")
def model() -> Pengi:
    return random_model(TINY)


def part(model: Pengi, *names: str) -> dict[str, Tensor]:
    prefixes = tuple(f"{name}." for name in names)
    return {key: tensor for key, tensor in model.state_dict().items() if key.startswith(prefixes)}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("parts", [["decoder"], ["audio_encoder", "text_mapper"], PARTS])
def test_parts_of_our_own_and_of_published_checkpoints(
    model: Pengi, tiny_checkpoint: Path, tmp_path: Path, parts: list[str]
) -> None:
    torch.save({"model": publish(model)}, tmp_path / "base.pth")
    for path in (tiny_checkpoint, tmp_path / "base.pth"):
        assert_same(read_parts(path, parts), part(model, *parts))


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt2_is_the_decoder(tmp_path: Path, folder: bool, prefix: str) -> None:
    """Its hidden states for the same ids are equal; old files also contain the causal mask."""
    sizes = GPT2Config(
        vocab_size=512,
        n_positions=128,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(sizes).eval()
    state = {
        prefix + name.removeprefix("transformer."): tensor.clone()
        for name, tensor in gpt2.state_dict().items()
        if name != "lm_head.weight"
    }
    for layer in range(2):
        state[f"{prefix}h.{layer}.attn.bias"] = torch.ones(1, 1, 128, 128).tril()
        state[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    state["lm_head.weight"] = state[f"{prefix}wte.weight"].clone()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    path = tmp_path if folder else tmp_path / "model.safetensors"
    ours = Pengi(TINY).eval()
    ours.load_state_dict(ours.state_dict() | read_parts(path, ["decoder"]))
    ids = torch.arange(20).reshape(2, 10)
    with torch.inference_mode():
        hidden, _ = ours.decoder(ours.decoder.wte(ids), torch.arange(10))
        logits = ours.decoder.logits(hidden)
        torch.testing.assert_close(logits, gpt2(ids).logits, atol=1e-4, rtol=1e-4)
    message = refusal(lambda: read_parts(path, ["decoder", "text_encoder"]))
    assert message.endswith("model.safetensors: has no text_encoder; it has decoder")
    state["lm_head.weight"] += 1
    save_file(state, tmp_path / "model.safetensors")
    assert "lm_head.weight is not" in refusal(lambda: read_parts(path, ["decoder"]))


def test_clip_is_the_text_encoder_without_our_projection(tmp_path: Path) -> None:
    text = TINY.text
    sizes = {
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "hidden_size": 32,
    }
    config = CLIPConfig(
        text_config=sizes
        | {
            "vocab_size": 512,
            "max_position_embeddings": 40,
            "bos_token_id": 510,
            "eos_token_id": 511,
            "pad_token_id": 511,
        },
        vision_config=sizes | {"image_size": 32, "patch_size": 16},
        projection_dim=text.projection_dim,
    )
    torch.manual_seed(0)
    clip = CLIPModel(config).eval()
    state = dict(clip.state_dict())
    state["text_model.embeddings.position_ids"] = torch.arange(40)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    assert {"logit_scale", "visual_projection.weight"} <= set(state)
    save_file(state, tmp_path / "model.safetensors")
    found = read_parts(tmp_path, ["text_encoder"])
    encoder = Pengi(TINY).eval().text_encoder
    assert encoder is not None
    rest = encoder.load_state_dict(
        {name.removeprefix("text_encoder."): tensor for name, tensor in found.items()},
        strict=False,
    )
    assert not rest.unexpected_keys
    assert all(name.startswith("projection.") for name in rest.missing_keys)
    ids = torch.tensor([[510, 3, 4, 511], [510, 9, 511, 511]])
    with torch.inference_mode():
        ours = encoder(ids)
        features = clip.get_text_features(input_ids=ids)
        theirs = features if isinstance(features, Tensor) else features.pooler_output
        torch.testing.assert_close(ours, encoder.projection(theirs), atol=1e-5, rtol=1e-5)


def clap_state(model: Pengi) -> dict[str, Tensor]:
    """CLAP's audio encoder is Pengi's; its text encoder is a GPT-2 with a projection."""
    state = {
        key: tensor for key, tensor in publish(model).items() if key.startswith("audio_encoder.")
    }
    gpt2 = {
        key.replace("decoder.", "caption_encoder.base.", 1): tensor
        for key, tensor in part(model, "decoder").items()
    }
    head = {"caption_encoder.projection.linear1.weight": torch.ones(3, 3)}
    return state | gpt2 | head | {"logit_scale": torch.tensor(1.0)}


def test_clap_gives_only_its_audio_encoder(model: Pengi, tmp_path: Path) -> None:
    path = tmp_path / "clap.pth"
    torch.save({"model": clap_state(model)}, path)
    assert_same(read_parts(path, ["audio_encoder"]), part(model, "audio_encoder"))
    for missing in ("text_encoder", "decoder"):
        message = refusal(partial(read_parts, path, [missing]))
        assert message == f"{path}: has no {missing}; it has audio_encoder"


@pytest.mark.parametrize(
    ("manifest", "parts"),
    [
        ("clap_2023.json", ["audio_encoder"]),
        ("pengi_base.json", list(PARTS)),
        ("pengi_base_no_text_enc.json", [name for name in PARTS if name != "text_encoder"]),
    ],
)
def test_every_published_key_has_its_place(
    reference: Path, tmp_path: Path, manifest: str, parts: list[str]
) -> None:
    """Uses the released files' keys only: with their shapes it would be a gigabyte."""
    listed = json.loads((reference / "manifests" / manifest).read_text())
    entries = listed if isinstance(listed, list) else listed["keys"]
    integers = ("num_batches_tracked", "position_ids", "relative_position_index")
    state = {
        entry["key"]: torch.zeros(1, dtype=torch.int64 if entry["key"].endswith(integers) else None)
        for entry in entries
    }
    torch.save({"model": state}, tmp_path / "a.pth")
    found = read_parts(tmp_path / "a.pth", parts)
    with torch.device("meta"):
        no_text = "text_encoder" not in parts and "decoder" in parts
        whole = Pengi(PengiConfig.preset("base_no_text_enc" if no_text else "base"))
    assert set(found) == set(part(whole, *parts))


def test_unknown_keys_are_refused(model: Pengi, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(
        {"model": clap_state(model) | {"audio_encoder.base.fc1.weight": torch.ones(1)}}, path
    )
    assert "unexpected audio_encoder.base.fc1" in refusal(
        lambda: read_parts(path, ["audio_encoder"])
    )
    save_file({"encoder.layer.0.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    assert "unexpected encoder.layer.0.weight" in refusal(lambda: read_parts(tmp_path, ["decoder"]))
    assert "no such file" in refusal(lambda: read_parts(tmp_path / "none", ["decoder"]))


def test_values_are_checked_and_become_float32(model: Pengi, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = {key.removeprefix("decoder."): tensor for key, tensor in part(model, "decoder").items()}
    save_file({key: tensor.half() for key, tensor in whole.items()}, path)
    found = read_parts(path, ["decoder"])
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    save_file(whole | {"ln_f.bias": torch.full((64,), torch.nan)}, path)
    assert "decoder.ln_f.bias holds NaN" in refusal(lambda: read_parts(path, ["decoder"]))
    save_file(whole | {"ln_f.bias": torch.ones(64, dtype=torch.int8)}, path)
    assert "decoder.ln_f.bias is torch.int8" in refusal(lambda: read_parts(path, ["decoder"]))


def test_an_unknown_part(tiny_checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=r"^a model has no 'encoder'; its parts are audio_encoder"):
        read_parts(tiny_checkpoint, ["decoder", "encoder"])
