"""Checkpoints in both layouts, and every kind of file that must be refused without being run.

The published layout belongs to the full-size presets; here they are replaced by the tiny model, so
that a published file is half a megabyte.
"""

import io
import json
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from published import GPT, HTSAT, publish
from safetensors.torch import save_file
from torch import Tensor

from pengi_rt.config import pengi as config
from pengi_rt.config.presets import PRESETS
from pengi_rt.errors import CheckpointError
from pengi_rt.export import checkpoint_reader, published_keys
from pengi_rt.export.checkpoint_reader import load_model, read_checkpoint
from pengi_rt.export.pretrained import read_parts
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.tiny import random_model

TINY = PRESETS["tiny"]
NO_TEXT = TINY | {
    "name": "tiny_no_text_enc",
    "text": {"kind": "token_embedding", "suffix": " <|endoftext|>"},
    "text_mapper": TINY["text_mapper"] | {"kind": "transformer_seq"},
}


@pytest.fixture(autouse=True)
def _published_is_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "base", TINY)
    monkeypatch.setitem(PRESETS, "base_no_text_enc", NO_TEXT)


@pytest.fixture
def model() -> Pengi:
    return random_model(config.PengiConfig.preset("tiny"))


@pytest.fixture
def published(model: Pengi) -> dict[str, Tensor]:
    return publish(model)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "base.pth"


def save(path: Path, state: object) -> Path:
    torch.save({"model": state}, path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message, "one line"
    assert str(path) in message, "which file"
    return message


def assert_same(model: Pengi, loaded: Pengi) -> None:
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("buffers", [True, False])
def test_reads_the_published_layout(model: Pengi, path: Path, prefix: str, buffers: bool) -> None:
    state = publish(model, buffers=buffers)
    save(path, {prefix + key: tensor for key, tensor in state.items()})
    loaded, read = load_model(path)
    assert_same(model, loaded)
    assert not loaded.training
    assert read.tokenizers is None
    assert read.config.text.kind == "clip"


def test_tells_the_presets_apart_by_their_keys(path: Path) -> None:
    model = random_model(config.PengiConfig.preset("base_no_text_enc"))
    state = publish(model)
    del state["caption_encoder.base.embeddings.position_ids"]
    loaded, read = load_model(save(path, state))
    assert_same(model, loaded)
    assert read.config.name == "tiny_no_text_enc"


def test_the_stored_stft_and_mel_bank_are_used(path: Path, published: dict[str, Tensor]) -> None:
    published[HTSAT + "logmel_extractor.melW"] *= 1.5
    published[HTSAT + "spectrogram_extractor.stft.conv_real.weight"] += 0.25
    mel = load_model(save(path, published))[0].audio_encoder.mel
    assert torch.equal(mel.mel_bank, published[HTSAT + "logmel_extractor.melW"])
    stored = published[HTSAT + "spectrogram_extractor.stft.conv_real.weight"]
    assert torch.equal(mel.stft_real, stored)


def test_every_key_of_the_released_manifests_has_one_row(reference: Path) -> None:
    for name in ("pengi_base", "pengi_base_no_text_enc"):
        manifest = json.loads((reference / "manifests" / f"{name}.json").read_text())
        for entry in manifest["keys"]:
            key = entry["key"]
            rows = [row for row, _ in published_keys.PUBLISHED if re.fullmatch(row, key)]
            harmless = [row for row in published_keys.HARMLESS if re.fullmatch(row, key)]
            # An ignored key may also match a row's open-ended pattern; being ignored comes first.
            assert len(harmless) == 1 or len(rows) == 1 or key == published_keys.HEAD, key


def test_attention_biases_are_weights_not_masks(path: Path, published: dict[str, Tensor]) -> None:
    key = GPT + "transformer.h.1.attn.c_attn.bias"
    del published[key]
    assert "decoder.h.1.attn.c_attn.bias" in refusal(save(path, published))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_and_is_recorded(
    path: Path, published: dict[str, Tensor], dtype: torch.dtype
) -> None:
    key = "caption_decoder.audio_project.linear.weight"
    published[key] = published[key].to(dtype)
    loaded, read = load_model(save(path, published))
    assert read.converted == ("audio_mapper.linear.weight",)
    weight = loaded.get_parameter("audio_mapper.linear.weight")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, published[key].float())


def test_a_missing_key_is_named(path: Path, published: dict[str, Tensor]) -> None:
    del published[HTSAT + "norm.bias"]
    assert re.search(r"missing audio_encoder\.htsat\.norm\.bias", refusal(save(path, published)))


def test_many_missing_keys_are_counted(path: Path, published: dict[str, Tensor]) -> None:
    gone = [key for key in published if key.startswith("caption_decoder.text_project.")]
    for key in gone:
        del published[key]
    message = refusal(save(path, published))
    assert f"and {len(gone) - 5} more" in message


def test_an_unexpected_key_is_named(path: Path, published: dict[str, Tensor]) -> None:
    published["optimizer.step"] = torch.zeros(1)
    assert "unexpected optimizer.step" in refusal(save(path, published))


def test_a_misshapen_tensor_is_named(path: Path, published: dict[str, Tensor]) -> None:
    key = "caption_decoder.audio_project.prefix_const"
    published[key] = published[key][:3]
    message = refusal(save(path, published))
    assert "audio_mapper.prefix_const is [3, 64]" in message
    assert "[8, 64]" in message


def test_integer_weights_are_refused(path: Path, published: dict[str, Tensor]) -> None:
    key = HTSAT + "norm.bias"
    published[key] = published[key].long()
    assert "torch.int64" in refusal(save(path, published))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_must_be_finite(path: Path, published: dict[str, Tensor], value: float) -> None:
    published[GPT + "transformer.wpe.weight"][9, 9] = value
    assert "decoder.wpe.weight holds NaN or infinity" in refusal(save(path, published))


def test_an_untied_head_is_refused(path: Path, published: dict[str, Tensor]) -> None:
    published[GPT + "lm_head.weight"] = published[GPT + "lm_head.weight"] + 1e-3
    assert "lm_head.weight" in refusal(save(path, published))


def test_an_equal_head_need_not_be_shared(path: Path, published: dict[str, Tensor]) -> None:
    published[GPT + "lm_head.weight"] = published[GPT + "lm_head.weight"].clone()
    read_checkpoint(save(path, published))


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"model": [1]}, [1, 2], "text"])
def test_another_structure_is_refused(path: Path, content: object) -> None:
    torch.save(content, path)
    assert "'model'" in refusal(path)


@pytest.mark.parametrize("value", [3, "text", {"a": 1}])
def test_values_that_are_not_tensors_are_refused(
    path: Path, published: dict[str, Any], value: object
) -> None:
    published[HTSAT + "norm.bias"] = value
    assert HTSAT + "norm.bias" in refusal(save(path, published))


class Gadget:
    """Runs ``function(*arguments)`` when a pickle of it is loaded carelessly."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def gadgets(marker: Path) -> dict[str, Gadget]:
    make = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    return {
        "os.system": Gadget(os.system, f"touch {marker}"),
        "eval": Gadget(eval, make),
        "exec": Gadget(exec, make),
        "pathlib": Gadget(Path.touch, marker),
        "getattr": Gadget(getattr, marker, "touch"),
        "nested load": Gadget(pickle.loads, pickle.dumps(Gadget(os.system, f"touch {marker}"))),
    }


@pytest.mark.parametrize("name", gadgets(Path()))
@pytest.mark.parametrize("place", ["top", "in model", "as key"])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_hostile_file_runs_nothing(tmp_path: Path, name: str, place: str, form: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "base.pth"
    gadget = gadgets(marker)[name]
    content: object = {
        "top": {"model": {}, "extra": gadget},
        "in model": {"model": {"a": gadget}},
        "as key": {"model": {("a", gadget): torch.zeros(1)}},
    }[place]
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))  # torch.save's
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    refusal(path)
    assert not marker.exists()


def test_the_hostile_files_would_run_code(tmp_path: Path) -> None:
    """Guards the test above: loaded carelessly, these files do create the marker."""
    for index, name in enumerate(("os.system", "eval", "exec", "pathlib", "nested load")):
        marker = tmp_path / str(index)
        pickle.loads(pickle.dumps(gadgets(marker)[name]))
        assert marker.exists(), name


def test_a_newer_pickle_is_refused_in_one_line(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": {}}, protocol=4))
    refusal(path)


def test_a_hostile_tar_runs_nothing(tmp_path: Path) -> None:
    """PyTorch's oldest format, through which weights_only was once bypassed (CVE-2025-32434)."""
    marker, path = tmp_path / "marker", tmp_path / "base.pth"
    with tarfile.open(path, "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(Gadget(os.system, f"touch {marker}"), protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    refusal(path)
    assert not marker.exists()


def test_a_cut_file_is_refused(path: Path, published: dict[str, Tensor]) -> None:
    whole = save(path, published).read_bytes()
    for length in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"<html><body>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"ftrt\0\0\0\0", "TensorRT"),
        (b"\x93NUMPY\1\0", ""),
        (b"hello", ""),
    ],
    ids=["empty", "doctype", "html", "lfs", "tensorrt", "numpy", "text"],
)
def test_other_files_are_refused_by_name(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    assert message in refusal(path)


def test_other_zips_are_refused(path: Path) -> None:
    for entry, message in (("plan.json", "plan"), ("word/document.xml", "")):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(entry, "{}")
        assert message in refusal(path)


def test_a_plan_is_refused(tiny_plan: Path) -> None:
    assert "is a plan already" in refusal(tiny_plan)


def test_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    assert "folder" in refusal(tmp_path)
    assert "pengi-rt pull" in refusal(tmp_path / "none.pth")


def test_our_own_layout_round_trips(tiny_checkpoint: Path, model: Pengi) -> None:
    loaded, read = load_model(tiny_checkpoint)
    assert_same(model, loaded)
    assert read.config == config.PengiConfig.preset("tiny")
    assert read.tokenizers == tiny_checkpoint.parent / "tokenizers"
    assert len(read.sha256) == 64


def own(model: Pengi, path: Path, **changes: Tensor) -> Path:
    state = model.state_dict() | changes
    save_file(state, path, metadata={"pengi_rt": model.config.to_json()})
    return path


def test_our_own_files_are_checked_as_well(model: Pengi, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    bad = model.state_dict()["decoder.wpe.weight"].clone()
    bad[0, 0] = torch.nan
    assert "NaN" in refusal(own(model, path, **{"decoder.wpe.weight": bad}))
    assert "[1]" in refusal(own(model, path, **{"decoder.wpe.weight": torch.zeros(1)}))
    assert "unexpected x" in refusal(own(model, path, x=torch.zeros(1)))
    whole = own(model, path).read_bytes()
    path.write_bytes(whole[:-7])
    refusal(path)


@pytest.mark.parametrize("metadata", [None, {"other": "1"}])
def test_foreign_safetensors_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    assert "pengi_rt" in refusal(path)


@pytest.mark.parametrize("text", ["{", '{"heads": 3}', '{"clip_seconds": "long"}', "[]"])
def test_an_invalid_config_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"pengi_rt": text})
    refusal(path)


def test_files_that_are_not_checkpoints_are_refused(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.zeros(100, np.float32), 16_000)
    refusal(sound)
    pipe = tmp_path / "pipe.pth"
    os.mkfifo(pipe)
    assert "not a regular file" in refusal(pipe)


def test_a_flipped_byte_never_causes_a_traceback(tmp_path: Path) -> None:
    """Every file is refused or read correctly; no foreign exception escapes."""
    path = tmp_path / "base.pth"
    torch.save({"model": {"audio_encoder.projection.layer_norm.bias": torch.zeros(8)}}, path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        refusal(path)


def test_double_precision_becomes_float32_and_is_recorded(
    path: Path, published: dict[str, Tensor]
) -> None:
    name = next(key for key in published if key.endswith("layer_norm.bias"))
    published[name] = published[name].double()
    torch.save({"model": published}, path)
    read = read_checkpoint(path)
    assert len(read.converted) == 1
    assert read.state[read.converted[0]].dtype == torch.float32
    published[name] = torch.full_like(published[name], 1e300)
    torch.save({"model": published}, path)
    assert "NaN or infinity" in refusal(path)


class Rebuilt:
    """Unpickles as the result of ``function(*arguments)``."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def odd_tensors(tensor: Tensor) -> dict[str, object]:
    """Values in place of a weight in a state dict that are not valid weights."""
    huge = torch.zeros(1).expand(2**40)
    meta = Rebuilt(
        torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (2**60,), (1,), False
    )
    return {
        "meta": tensor.to("meta"),
        "meta of 2^60": meta,
        "stride 0": huge,
        "stride 0 of the right shape": torch.zeros(1).expand(tensor.shape),
        "overlapping": torch.zeros(tensor.shape[0] + 1).as_strided((*tensor.shape, 2), (1, 1)),
        "nested": torch._nested_view_from_buffer(
            torch.zeros(5), torch.tensor([[2], [3]]), torch.tensor([[1], [1]]), torch.tensor([0, 2])
        ),
        "jagged": torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
        "sparse": tensor.to_sparse(),
        "complex": tensor.to(torch.complex64),
        "conjugate": tensor.to(torch.complex64).conj(),
        "float8": tensor.to(torch.float8_e4m3fn),
        "bool": tensor.bool(),
        "uint16": tensor.to(torch.uint16),
        "empty": tensor[:0],
        "scalar": tensor[0],
        "a million dimensions": tensor.reshape(*[1] * 60, -1),
        "a level deeper": {"weight": tensor},
        "a list": [tensor],
        "eight bits": tensor.to(torch.float8_e5m2),  # PyTorch cannot compare it with others
        "an integer": 10**5000,
    }


@pytest.mark.parametrize("name", odd_tensors(torch.ones(3)))
def test_a_tensor_that_is_not_plain_is_refused(
    path: Path, published: dict[str, Any], name: str
) -> None:
    """Refused in one line before its values are read, both as a weight and as the tied head."""
    weight = next(key for key in published if key.endswith("layer_norm.bias"))
    for key in (weight, published_keys.HEAD):
        odd = odd_tensors(published[weight])[name]
        refusal(save(path, published | {key: odd}))
        with pytest.raises(CheckpointError):
            read_parts(path, ["audio_encoder"], whatever_shape_is_wrong)


def whatever_shape_is_wrong(name: str, tensor: Tensor) -> None:
    """Acts as a model that none of the odd tensors fit."""
    if tensor.ndim != 1 or not tensor.numel() or tensor.dtype != torch.float32:
        raise CheckpointError(name)


def test_a_parameter_is_a_tensor(path: Path, published: dict[str, Any]) -> None:
    parameters = {key: value for key, value in published.items() if value.is_floating_point()}
    save(path, published | {key: torch.nn.Parameter(parameters[key]) for key in parameters})
    assert not any(tensor.requires_grad for tensor in read_checkpoint(path).state.values())


@pytest.mark.parametrize("key", [5, b"x", None, (1, "a"), "\x1b[2J\n", "a\0b", "", "x" * 10**6])
def test_untrusted_keys_are_quoted_and_shortened(
    path: Path, published: dict[Any, Any], key: object
) -> None:
    message = refusal(save(path, published | {key: torch.ones(1)}))
    assert message.isprintable()
    assert len(message) < 600


def test_too_many_tensors(path: Path) -> None:
    shared = torch.ones(1)
    message = refusal(save(path, {f"{number}": shared for number in range(16_385)}))
    assert "has 16385 tensors; the largest model has fewer than 16384" in message


def test_one_tensor_under_two_keys(path: Path, published: dict[str, Tensor]) -> None:
    published["caption_decoder.audio_project.transformer.prefix_const"] = torch.ones(8, 64)
    assert "the same tensor under two keys" in refusal(save(path, published))


def test_a_weight_of_absurd_magnitude(path: Path, published: dict[str, Tensor]) -> None:
    """A flipped bit in the exponent produces such a value."""
    published[GPT + "transformer.wpe.weight"][9, 9] = -3e36
    assert "decoder.wpe.weight holds 3e+36, no weight is above 1e+06" in refusal(
        save(path, published)
    )
    published[GPT + "transformer.wpe.weight"][9, 9] = -1e5
    read_checkpoint(save(path, published))


def test_the_stft_is_computed_after_all_checks(
    model: Pengi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 8192 points it takes 12 s and 1 GB, which a damaged file must not cost."""
    path = tmp_path / "a.safetensors"
    state = {name: tensor for name, tensor in model.state_dict().items() if ".stft_" not in name}
    state["decoder.wpe.weight"] = torch.zeros(1)
    save_file(state, path, metadata={"pengi_rt": model.config.to_json()})
    monkeypatch.setattr(checkpoint_reader, "stft_kernels", None)
    assert "decoder.wpe.weight is [1]" in refusal(path)
