"""What a run starts from: fresh weights, a checkpoint, or parts of several."""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_run import MODEL, VARIANTS, Workshop, merged, train, variant, weights

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import CheckpointError, TokenizerError, UsageError
from pengi_rt.export.checkpoint_reader import read_checkpoint
from pengi_rt.models.checkpoint_writer import save_checkpoint
from pengi_rt.models.pengi import PARTS, Pengi
from pengi_rt.models.tiny import make_tokenizers, random_model
from pengi_rt.training.config import _model
from pengi_rt.training.initialize import fresh_weights, make_model, set_trained


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("initialize"))


@pytest.fixture(scope="module")
def checkpoint(workshop: Workshop) -> Path:
    """A model whose weights differ from a fresh one's, with its tokenizers."""
    config = PengiConfig.from_dict(_model(MODEL))
    path = workshop.root / "other" / "model.safetensors"
    path.parent.mkdir()
    save_checkpoint(random_model(config, 7), path, make_tokenizers(config))
    return path


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(path).state)


def start(workshop: Workshop, **changes: Any) -> Pengi:
    return make_model(workshop.config("captioning", "out", **changes))[0]


def equal(model: Pengi, tensors: dict[str, torch.Tensor], part: str) -> bool:
    own = {name: value for name, value in weights(model).items() if name.startswith(f"{part}.")}
    assert own
    return all(torch.equal(value, tensors[name]) for name, value in own.items())


def test_fresh_weights_depend_on_the_seed(workshop: Workshop) -> None:
    first, again, other = (weights(start(workshop, seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["decoder.wte.weight"], other["decoder.wte.weight"])


@pytest.mark.parametrize("name", VARIANTS)
def test_fresh_weights(name: str) -> None:
    """GPT-2 and embeddings 0.02, layers 1/sqrt(inputs), truncated at twice; norms, biases plain."""
    torch.manual_seed(0)
    config = PengiConfig.from_dict(_model(merged(variant(name), {"decoder": {"n_layer": 2}})))
    model = Pengi(config)
    fresh_weights(model)
    for key, value in model.named_parameters():
        if ".clip." in key:
            continue
        if key.endswith(("prefix_const", ".position")):
            assert value.std().item() == pytest.approx(0.02, rel=0.5)
        elif value.ndim >= 2 and "bias" not in key:
            table = key.startswith("decoder.") or "embedding" in key
            limit = 2 * (0.02 if table else value[0].numel() ** -0.5)
            limit /= 2 if key.endswith("c_proj.weight") else 1  # a residual of 2 layers
            assert value.abs().max() <= limit + 1e-7
            # A normal distribution truncated at two standard deviations has 0.88 of its own.
            assert value.std().item() == pytest.approx(limit / 2 * 0.88, rel=0.35)
        elif "bias_table" not in key:
            plain = 1.0 if key.endswith("weight") else 0.0
            assert torch.equal(value, torch.full_like(value, plain)), key


def test_a_whole_checkpoint(workshop: Workshop, checkpoint: Path) -> None:
    config = workshop.config(
        "captioning", "out", model=None, tokenizers=None, init_from=str(checkpoint)
    )
    model, tokenizers = make_model(config)
    tensors = tensors_of(checkpoint)
    assert all(torch.equal(value, tensors[name]) for name, value in weights(model).items())
    for name, data in tokenizers.items():
        assert data == (checkpoint.parent / "tokenizers" / f"{name}.json").read_bytes()


@pytest.mark.parametrize("part", PARTS)
def test_one_part_of_a_checkpoint(part: str, workshop: Workshop, checkpoint: Path) -> None:
    model = start(workshop, init={part: str(checkpoint)})
    tensors, fresh = tensors_of(checkpoint), weights(start(workshop))
    for other in PARTS:
        assert equal(model, tensors if other == part else fresh, other)


def test_a_table_and_a_whole_checkpoint_contradict(workshop: Workshop, checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=r"init_from brings its own model; .* init = \{audio"):
        start(workshop, init_from=str(checkpoint))


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"init": {"decoder": "no.safetensors"}}, CheckpointError, "no.safetensors"),
    (
        {"init": {"text_mapper": "CHECKPOINT"}, "model": VARIANTS["exp A"]},
        UsageError,
        r"init.text_mapper: this model \(tiny\) has no text_mapper$",
    ),
    (
        {"init": {"text_encoder": "CHECKPOINT"}, "model": VARIANTS["exp B"]},
        UsageError,
        "init.text_encoder: this model .* has no text_encoder$",
    ),
    (
        {"init": {"decoder": "CHECKPOINT"}, "model": {"decoder": {"n_positions": 64}}},
        CheckpointError,
        r"decoder.wpe.weight is \[128, 16\], this model's is \[64, 16\]: it is another model's",
    ),
    (
        {"init": {"decoder": "CHECKPOINT"}, "model": {"decoder": {"n_layer": 2}}},
        None,  # type: ignore[list-item]
        "decoder: not in .*model.safetensors, so fresh: decoder.h.1.ln_1.weight, ",
    ),
    (
        {"train": ["text_encoder"], "model": VARIANTS["exp B"]},
        UsageError,
        "train names text_encoder, which this model does not have",
    ),
    (
        {"train": ["text_mapper"], "model": VARIANTS["exp A"]},
        UsageError,
        "train names text_mapper, which this model does not have",
    ),
    (
        {"stage": "contrastive", "model": VARIANTS["exp B"]},
        UsageError,
        "the contrastive stage needs a text encoder: model.text.kind = 'clip'$",
    ),
    (
        {
            "stage": "language_model",
            "language_model": {"reading": True, "prompts": ["encoder"]},
            "model": VARIANTS["exp A"],
        },
        UsageError,
        "language_model.prompts has 'encoder', but the model has no text mapper",
    ),
    ({"tokenizers": "nowhere"}, TokenizerError, "nowhere"),
]


@pytest.mark.parametrize(("changes", "error", "said"), REFUSED, ids=[row[2] for row in REFUSED])
def test_init_files_that_do_not_fit(
    changes: dict[str, Any],
    error: type[Exception] | None,
    said: str,
    workshop: Workshop,
    checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    init = changes.get("init", {})
    files = {part: name.replace("CHECKPOINT", str(checkpoint)) for part, name in init.items()}
    changes = {"stage": "captioning", **changes, "init": files}
    config = workshop.config(output="out", **changes)
    if error is None:
        with caplog.at_level(logging.WARNING):
            make_model(config)
        (message,) = caplog.messages
    else:
        with pytest.raises(error, match=said) as caught:
            make_model(config)
        message = str(caught.value)
    assert "\n" not in message

    assert re.search(said, message)


def test_set_trained(workshop: Workshop) -> None:
    model = start(workshop)
    set_trained(model, ["text_mapper", "decoder"])
    for name, part in model.named_children():
        trained = name in {"text_mapper", "decoder"}
        assert {module.training for module in part.modules()} == {trained}
        assert {parameter.requires_grad for parameter in part.parameters()} == {trained}


def test_a_tag_head_depends_on_the_seed(workshop: Workshop, checkpoint: Path) -> None:
    """A run from a checkpoint draws no numbers for the model, but its stage does."""
    found: list[bytes] = []
    for output in ("tags-a", "tags-b"):
        torch.manual_seed(len(found))  # whatever this process drew before
        config = workshop.config(
            "contrastive",
            output,
            model=None,
            tokenizers=None,
            init_from=str(checkpoint),
            contrastive={"tagging": 1.0},
        )
        found.append(train(config).read_bytes())
    assert found[0] == found[1]


def test_stages_follow_one_another(workshop: Workshop) -> None:
    """Contrastive and language model, then captioning from their parts."""
    tensors = {}
    for stage, output in (("contrastive", "chain-c"), ("language_model", "chain-l")):
        path = train(workshop.config(stage, output))
        tensors[stage] = tensors_of(path)
        assert (path.parent / "tokenizers" / "decoder.json").exists()
    init = {
        "audio_encoder": str(workshop.root / "chain-c" / "model.safetensors"),
        "text_encoder": str(workshop.root / "chain-c" / "model.safetensors"),
        "decoder": str(workshop.root / "chain-l" / "model.safetensors"),
    }
    config = workshop.config("captioning", "chain", init=init)
    begun = make_model(config)[0]
    assert equal(begun, tensors["contrastive"], "audio_encoder")
    assert equal(begun, tensors["contrastive"], "text_encoder")
    assert equal(begun, tensors["language_model"], "decoder")
    ended = tensors_of(train(config))
    assert not equal(begun, ended, "audio_encoder")
    assert not equal(begun, ended, "audio_mapper")
    assert equal(begun, ended, "text_encoder")
    assert equal(begun, ended, "decoder")


def test_a_checkpoint_with_nan(workshop: Workshop, checkpoint: Path) -> None:
    folder = workshop.root / "broken"
    shutil.copytree(checkpoint.parent, folder, dirs_exist_ok=True)
    tensors = load_file(checkpoint)
    tensors["decoder.ln_f.weight"][0] = float("nan")
    config = PengiConfig.from_dict(_model(MODEL)).to_json()
    save_file(tensors, folder / "model.safetensors", metadata={"pengi_rt": config})
    with pytest.raises(CheckpointError, match=r"decoder.ln_f.weight"):
        start(workshop, init={"decoder": str(folder / "model.safetensors")})


@pytest.mark.parametrize("kind", ["meta", "stride 0", "nested", "another shape, NaN"])
def test_shapes_are_checked_before_values(kind: str, workshop: Workshop) -> None:
    """A tensor of 2^40 numbers that takes 4 bytes of its file is refused at once."""
    odd = {
        "meta": torch.empty(16, device="meta"),
        "stride 0": torch.zeros(1).expand(2**40),
        "nested": torch.nested.nested_tensor([torch.zeros(3)], layout=torch.jagged),
        "another shape, NaN": torch.full((3,), torch.nan),
    }[kind]
    path = workshop.root / "odd.pth"
    key = "caption_decoder.gpt.transformer.ln_f.weight"
    torch.save({"model": {key: odd}}, path)
    with pytest.raises(CheckpointError) as caught:
        start(workshop, init={"decoder": str(path)})
    said = (
        "is not a plain tensor" if odd.is_nested or odd.numel() != 3 else "is [3], this model's is"
    )
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
