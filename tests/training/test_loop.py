"""The loop: what a step changes, batches in parts and across processes, records, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from training_run import (
    AUGMENT,
    VARIANTS,
    Workshop,
    forget,
    merged,
    outcome,
    states,
    train,
    variant,
    weights,
    write_clips,
)

from pengi_rt.errors import AudioError, CheckpointError, UsageError
from pengi_rt.training import loop, run_folder
from pengi_rt.training.config import TRAINED
from pengi_rt.training.data import TextData
from pengi_rt.training.errors import TrainingError
from pengi_rt.training.initialize import make_model
from pengi_rt.training.setup import prepare

STAGES = tuple(TRAINED)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("loop"))


# What is trained.

CASES: dict[str, dict[str, Any]] = {
    "contrastive": {"stage": "contrastive", "contrastive": {"tagging": 1.0}},
    "captioning": {"stage": "captioning"},
    "language_model": {"stage": "language_model"},
    "frozen": {"stage": "captioning", "train": ["audio_mapper", "text_mapper"]},
    "reading": {
        "stage": "language_model",
        "train": ["text_encoder", "text_mapper", "decoder"],
        "language_model": {"reading": True, "prompts": ["encoder", "tokens"]},
    },
    **{name: {"stage": "captioning", "model": variant(name)} for name in VARIANTS},
}


@pytest.mark.parametrize("case", CASES)
def test_only_trained_parts_change(case: str, workshop: Workshop) -> None:
    """After steps with validation in between; frozen batch norms keep their statistics."""
    validation = {"validation": [str(workshop.manifest)]}
    config = workshop.config(
        output=f"parts-{case}",
        **CASES[case],
        data=validation,
        augment=AUGMENT,
        run={"steps": 3, "validate_every": 1, "validation_batches": 1},
    )
    before = weights(make_model(config)[0])
    try:
        run = loop._start(config)
        loop._open_folder(run, resume=False)
        with loop._progress(run) as bar:
            loop._steps(run, bar)
    finally:
        forget()
    model = run.prepared.model
    there = {name for name, part in model.named_children()}
    trained = set(config.trained) & there
    for part in there:
        after = {k: v for k, v in weights(model).items() if k.startswith(f"{part}.")}
        changed = {k for k, v in after.items() if not torch.equal(v, before[k])}
        module = model.get_submodule(part)
        assert {m.training for m in module.modules()} == {part in trained}
        if part in trained:
            learned = {f"{part}.{name}" for name, _ in module.named_parameters()}
            # The last step's rate is zero, but two steps came before it.
            assert changed >= {name for name in learned if "bias" not in name}
            if part == "audio_encoder":
                assert "audio_encoder.mel.bn.running_mean" in changed
                assert {
                    name for name in after if "mel.stft" in name or "bank" in name
                } & changed == set()
        else:
            assert changed == set()
            assert all(value.grad is None for value in module.parameters())


# Records.


def test_records_are_means_of_their_steps(workshop: Workshop) -> None:
    run = {"steps": 5, "batch_size": 4, "accumulate": 2}
    often = workshop.config("captioning", "often", run=run | {"log_every": 1})
    seldom = workshop.config("captioning", "seldom", run=run | {"log_every": 2})
    train(often)
    train(seldom)
    each = [record["loss"] for record in outcome(often)[1]]
    records = outcome(seldom)[1]
    assert [record["step"] for record in records] == [2, 4, 5]
    expected = [(each[0] + each[1]) / 2, (each[2] + each[3]) / 2, each[4]]
    assert [record["loss"] for record in records] == pytest.approx(expected, rel=1e-12)
    assert [record["rate"] for record in outcome(often)[1]] == pytest.approx(
        # For the next step: warm-up over three steps, then down to zero at five.
        [1e-2 * 2 / 3, 1e-2, 1e-2, 1e-2 * 1 / 2, 0.0]
    )


def test_validation_uses_its_own_rows_and_changes_nothing(workshop: Workshop) -> None:
    other = str(write_clips(workshop.root / "unseen", count=3))
    changed = {"augment": AUGMENT, "data": {"validation": [other]}}
    validated = workshop.config(
        "captioning",
        "validated",
        **merged(changed, {"run": {"validate_every": 2, "validation_batches": 2}}),
    )
    quiet = workshop.config("captioning", "quiet", **changed)
    assert train(validated).read_bytes() == train(quiet).read_bytes()
    records = outcome(validated)[1]
    shown = [record for record in records if "validation_loss" in record]
    assert [record["step"] for record in shown] == [2, 4, 6]
    assert [r for r in records if "loss" in r] == outcome(quiet)[1]


def test_validation_of_plain_text_is_not_the_training_text(workshop: Workshop) -> None:
    text, unseen = workshop.root / "text.txt", workshop.root / "unseen.txt"
    text.write_text("a dog barks\n" * 3)
    unseen.write_text("thunder\n")
    config = workshop.config(
        "language_model",
        "text",
        data={"manifests": None, "text": [str(text)], "validation": [str(unseen)]},
        run={"validate_every": 1, "batch_size": 1, "validation_batches": 1, "steps": 1},
    )
    prepared = prepare(config)
    assert isinstance(prepared.data, TextData)
    assert isinstance(prepared.validation, TextData)
    assert {row.target for row in prepared.data.rows} == {"a dog barks"}
    assert {row.target for row in prepared.validation.rows} == {"thunder"}


def test_a_run_that_died_before_its_first_state_starts_over(workshop: Workshop) -> None:
    config = workshop.config("captioning", "again")
    root = Path(config.output_dir)
    root.mkdir()
    (root / run_folder.METRICS).write_text('{"step": 2, "loss": 9.0}\n{"ste')
    train(config)
    fresh = workshop.config("captioning", "fresh")
    train(fresh)
    assert outcome(config) == outcome(fresh)


def test_tensorboard_gets_every_record(workshop: Workshop) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = workshop.config("captioning", "board", run={"tensorboard": True})
    train(config)
    (file,) = Path(config.output_dir).rglob("events.out.*")
    board = events.EventAccumulator(str(file))
    board.Reload()
    found = {(event.step, event.value) for event in board.Scalars("loss")}
    records = {(r["step"], np.float32(r["loss"])) for r in outcome(config)[1]}
    assert found == records


# What stops a run.


def test_a_loss_that_is_not_finite(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is named, and no state is written from then on."""
    config = workshop.config(
        "captioning", "nan", run={"save_every": 1, "log_every": 100, "keep": 9}
    )
    real = loop._on_device

    def poison(batch: Any, device: torch.device) -> Any:
        batch = real(batch, device)
        poison.count += 1  # type: ignore[attr-defined]
        if poison.count == 3:  # type: ignore[attr-defined]
            batch.wave.fill_(float("nan"))
        return batch

    poison.count = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(loop, "_on_device", poison)
    with pytest.raises(TrainingError, match=r"^the loss is not finite at step 3: ") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert states(config) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_recording_that_breaks_during_the_run(workers: int, tmp_path: Path) -> None:
    """Its header is intact, so the check before the run accepts it."""
    workshop = Workshop(tmp_path)
    config = workshop.config("captioning", "broken", data={"workers": workers})
    for path in workshop.manifest.parent.glob("*.wav"):
        samples, rate = soundfile.read(path)
        soundfile.write(path.with_suffix(".flac"), samples, rate)
        data = bytearray(path.with_suffix(".flac").read_bytes())
        data[len(data) // 3 : len(data) // 3 + 800] = bytes(800)
        path.write_bytes(data)
    with pytest.raises(AudioError) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert ".wav" in str(caught.value)


def test_half_precision_needs_a_gpu(workshop: Workshop) -> None:
    config = workshop.config("captioning", "half", run={"precision": "fp16"})
    with pytest.raises(UsageError, match=r"run.precision is fp16, which needs a CUDA device"):
        train(config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_cuda_without_a_gpu_is_refused(workshop: Workshop) -> None:
    config = workshop.config("captioning", "cuda", run={"device": "cuda"})
    with pytest.raises(UsageError, match=r"run.device is cuda, but PyTorch sees no CUDA device"):
        train(config)


def test_bfloat16_is_close_to_float32(workshop: Workshop) -> None:
    """Numbers have eight bits: losses agree in two digits; weights stay float32."""
    losses = []
    for precision in ("fp32", "bf16"):
        config = workshop.config("captioning", precision, run={"precision": precision})
        tensors = load_file(train(config))
        assert {value.dtype for value in tensors.values()} == {torch.float32, torch.int64}
        losses.append([record["loss"] for record in outcome(config)[1]])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    assert losses[1] != losses[0]


def test_a_folder_that_cannot_be_made(workshop: Workshop) -> None:
    (workshop.root / "file").write_text("")
    config = workshop.config("captioning", "folder", output_dir=str(workshop.root / "file" / "a"))
    with pytest.raises(TrainingError, match=r"file/a: cannot be written: Not a directory$"):
        train(config)


@pytest.mark.parametrize("taken", ["tokenizers", "tokenizers/text.json/x", "config.json/x"])
def test_an_unwritable_checkpoint_is_noticed_before_the_first_step(
    workshop: Workshop, taken: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / taken).parent.mkdir(parents=True)
    (folder / taken).touch()
    with pytest.raises(TrainingError, match=r"run: cannot be written: "):
        train(workshop.config("captioning", "taken", output_dir=str(folder)))
    assert not (folder / "state").exists()


def test_a_model_that_cannot_be_saved_is_not_lost(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = workshop.config("captioning", "full", run={"steps": 1})

    def full(*_: object) -> None:
        raise CheckpointError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pengi_rt.training.loop.save_checkpoint", full)
        with pytest.raises(CheckpointError) as caught:
            train(config)
    assert caught.value.__notes__ == [
        "the last state is whole: mend that, and write it with --resume"
    ]
    assert train(config, resume=True).exists()


def test_the_config_is_beside_the_checkpoint(workshop: Workshop) -> None:
    config = workshop.config("captioning", "beside", run={"steps": 1})
    path = train(config)
    assert path == Path(config.output_dir) / "model.safetensors"
    assert json.loads((path.parent / "config.json").read_text()) == json.loads(config.to_json())
