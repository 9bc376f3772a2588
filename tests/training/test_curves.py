"""The curves show what the run recorded, smoothed as stated, and a picture of them all."""

import json
from pathlib import Path

import numpy as np
import pytest

from pengi_rt.errors import InputError
from pengi_rt.training.curves import SMOOTHING, Curve, draw_curves, main, read_metrics, smoothed

PNG = b"\x89PNG"


def write_run(folder: Path, stage: str = "contrastive", steps: int = 40) -> Path:
    """The folder of a run, as the trainer writes it."""
    folder.mkdir(parents=True)
    lines: list[dict[str, float]] = []
    for step in range(10, 10 * steps + 1, 10):
        lines.append({"step": step, "loss": 5 / step, "rate": 1e-4, "clips_per_second": 30.5})
        if step % 100 == 0:
            lines.append({"step": step, "validation_loss": 6 / step})
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "config.json").write_text(json.dumps({"stage": stage}))
    return folder


def test_every_quantity_by_name(tmp_path: Path) -> None:
    curves = read_metrics(write_run(tmp_path / "run"))
    assert list(curves) == ["loss", "rate", "clips_per_second", "validation_loss"]
    np.testing.assert_array_equal(curves["loss"].steps, np.arange(10, 401, 10))
    np.testing.assert_allclose(curves["loss"].values, 5 / np.arange(10, 401, 10))
    np.testing.assert_array_equal(curves["validation_loss"].steps, [100, 200, 300, 400])


def test_an_unfinished_line_is_ignored(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", steps=2) / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 30, "lo')
    assert read_metrics(path.parent)["loss"].steps.tolist() == [10, 20]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "metrics.jsonl: holds no records"),
        ('{"step": 1}\n', "metrics.jsonl: holds no records"),
        ('{"step": 1, "loss": 2}\n[]\n', "metrics.jsonl:2: is not a record"),
        ('{"loss": 2}\n', "metrics.jsonl:1: is not a record"),
        ('{"step": 1, "loss": null}\n', "metrics.jsonl:1: is not a record"),
    ],
)
def test_invalid_records(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=said):
        read_metrics(tmp_path)


def test_smoothing_by_its_definition() -> None:
    """A mean of all values so far, weighted by age."""
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.integers(1, 20, 50)).astype(np.float64)
    values = rng.normal(size=50)
    span = (steps[-1] - steps[0]) * SMOOTHING
    for index, mean in enumerate(smoothed(Curve(steps, values))):
        weights = np.exp((steps[: index + 1] - steps[index]) / span)
        assert mean == pytest.approx(np.average(values[: index + 1], weights=weights))


def test_smoothing_one_value_and_equal_ones() -> None:
    assert smoothed(Curve(np.array([7.0]), np.array([3.0]))).tolist() == [3.0]
    flat = Curve(np.arange(9.0), np.full(9, 2.5))
    np.testing.assert_allclose(smoothed(flat), 2.5)


def test_picture_of_several_runs(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", "captioning", steps=1)
    (two / "config.json").unlink()
    pictures = [tmp_path / f"{count}.png" for count in range(3)]
    draw_curves([one], pictures[0])
    draw_curves([one, two], pictures[1])
    draw_curves([one, two], pictures[2])
    drawn = [path.read_bytes() for path in pictures]
    assert all(data.startswith(PNG) for data in drawn)
    assert drawn[0] != drawn[1] == drawn[2]
    heights = [int.from_bytes(data[20:24], "big") for data in drawn]
    assert heights[0] < heights[1]


def test_panels_show_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    from pengi_rt.training import curves

    seen: list[Figure] = []
    monkeypatch.setattr(curves, "save_picture", lambda figure, _path: seen.append(figure))
    draw_curves([write_run(tmp_path / "clap")], tmp_path / "a.png")
    losses, rate, speed = seen[0].axes
    assert losses.get_title(loc="left") == "clap (contrastive)"
    labels = [text.get_text() for text in losses.get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["loss", "loss, unseen"]
    raw, smooth, unseen = (np.asarray(line.get_ydata()) for line in losses.lines)
    np.testing.assert_allclose(raw, 5 / np.arange(10, 401, 10))
    assert smooth.shape == raw.shape
    np.testing.assert_allclose(unseen, 6 / np.arange(100, 401, 100))
    assert losses.get_yscale() == "log"  # 0.5 to 0.0125
    assert {float(value) for value in np.asarray(rate.lines[0].get_ydata())} == {1e-4}
    assert {float(value) for value in np.asarray(speed.lines[0].get_ydata())} == {30.5}


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a.png"
    assert main([str(write_run(tmp_path / "run")), "-o", str(picture)]) == 0
    assert picture.read_bytes().startswith(PNG)
    assert main([str(tmp_path / "none"), "-o", str(picture)]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'none' / 'metrics.jsonl'}: cannot be read")
    assert error.count("\n") == 1
