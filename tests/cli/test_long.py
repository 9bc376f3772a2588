"""Long recordings on the command line: rows appear as they are computed, and failures midway."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip
from command_line import Argument, Capture, run

from pengi_rt.audio import samples
from pengi_rt.cli import progress
from pengi_rt.engine import Engine
from pengi_rt.results.generation import Result
from pengi_rt.session.batches import Batch, _FillingBatch

VERBS: dict[str, list[Argument]] = {
    "generate": ["--prompt", "what?", "--prompt", "where?"],
    "describe": [],
    "classify": ["--labels", "dog,rain", "--method", "log-likelihood"],
    "explain": ["--neighbors", 1],
}
SHORT: list[Argument] = ["--max-new-tokens", "2"]
WINDOWS = 5


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream every recording: none is short enough to be kept in memory."""
    monkeypatch.setattr(samples, "KEPT", 0)


@pytest.fixture
def hour(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "hour.wav", 2, seconds=2.0 * WINDOWS)


def _command(verb: str, plan: Path, *more: Argument) -> list[Argument]:
    short = SHORT if verb in ("generate", "describe") else []
    return [verb, "--engine", plan, "--threads", 1, *VERBS[verb], *short, *more]


def _on_each_batch(monkeypatch: pytest.MonkeyPatch, look: Any) -> None:
    """Call ``look`` with the number of each batch, after it is read and before it is answered."""
    rest, count = _FillingBatch.rest, 0

    def looked(filling: _FillingBatch) -> Any:
        nonlocal count
        for batch in rest(filling):
            assert isinstance(batch, Batch)
            look(count)
            count += 1
            yield batch

    monkeypatch.setattr(_FillingBatch, "rest", looked)


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize(
    ("verb", "form"),
    [
        *[("generate", form) for form in ("jsonl", "csv", "text", "srt")],
        *[("classify", form) for form in ("jsonl", "text")],
        ("describe", "csv"),
        ("explain", "text"),
    ],
)
def test_rows_are_written_before_the_recording_ends(
    verb: str,
    form: str,
    tiny_plan: Path,
    hour: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    output = hour.parent / "rows"
    part = output.with_name("rows.part")
    sizes = []
    _on_each_batch(monkeypatch, lambda _: sizes.append(part.stat().st_size))
    more: list[Argument] = ["--format", form, "-o", output, "--batch-size", 1]
    command = _command(verb, tiny_plan, hour, *more)
    if form == "srt":
        command = ["generate", "--engine", tiny_plan, hour, *more, "--windows", "each", *SHORT]
    assert run(capsys, *command)[0] == 0
    assert len(sizes) == WINDOWS
    assert sizes[0] == 0
    assert sizes == sorted(set(sizes))  # it grows with every window


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("windows", ["each", "merged", "pooled"])
def test_rows_of_streamed_and_in_memory_recordings_agree(
    windows: str, tiny_plan: Path, hour: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    command = _command("generate", tiny_plan, hour, "--windows", windows, "--batch-size", 2)
    streamed = run(capsys, *command)
    monkeypatch.setattr(samples, "KEPT", 1 << 30)
    assert run(capsys, *command) == streamed


@pytest.mark.usefixtures("streamed")
def test_rows_of_further_prompts_come_at_the_end(
    tiny_plan: Path, hour: Path, capsys: Capture
) -> None:
    command = _command("generate", tiny_plan, hour, "--format", "jsonl", "--batch-size", 2)
    rows = [json.loads(line) for line in run(capsys, *command)[1].splitlines()]
    assert [row["prompt"] for row in rows] == ["what?"] * WINDOWS + ["where?"] * WINDOWS
    assert [row["start"] for row in rows] == [0, 2, 4, 6, 8] * 2
    assert {row["windows"] for row in rows} == {WINDOWS}


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("verb", VERBS)
def test_a_recording_that_changes_does_not_stop_the_others(
    verb: str,
    tiny_plan: Path,
    hour: Path,
    noise: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    def change(number: int) -> None:
        if number == 1:
            with hour.open("ab") as file:
                file.write(b"more")

    _on_each_batch(monkeypatch, change)
    output = hour.parent / "rows"
    more: list[Argument] = ["--format", "jsonl", "-o", output, "--batch-size", 1]
    code, _, err = run(capsys, *_command(verb, tiny_plan, hour, noise, *more))
    why = f"{hour}: was changed while it was read; read it again"
    assert (code, err.count("\n")) == (4, 1)
    assert err == f"pengi-rt: {why}\n"
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    broken = [row for row in rows if row["audio"] == str(hour)]
    assert broken[-1] == {"audio": str(hour), "error": why}
    assert 0 < len(broken) - 1 < WINDOWS
    assert rows[: len(broken)] == broken
    assert {row["audio"] for row in rows[len(broken) :]} == {str(noise)}


@pytest.mark.usefixtures("streamed")
def test_a_recording_damaged_at_its_end_has_no_rows(
    tiny_plan: Path, hour: Path, capsys: Capture
) -> None:
    hour.write_bytes(hour.read_bytes()[:-100])
    command = _command("generate", tiny_plan, hour, "--format", "jsonl", "--batch-size", 1)
    code, out, err = run(capsys, *command)
    assert (code, err.count("\n")) == (3, 1)
    (row,) = map(json.loads, out.splitlines())
    assert set(row) == {"audio", "error"}


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("verb", ["generate", "classify"])
def test_a_recording_half_answered_is_asked_again(
    verb: str, tiny_plan: Path, hour: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    output = hour.parent / "rows"
    more: list[Argument] = ["--format", "jsonl", "-o", output, "--batch-size", 1]
    command = _command(verb, tiny_plan, hour, *more)

    def interrupt(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        _on_each_batch(patch, interrupt)
        assert run(capsys, *command)[0] == 130
    part = output.with_name("rows.part")
    assert len(part.read_text().splitlines()) == 3
    code, _, err = run(capsys, *command, "--resume")
    assert code == 0
    assert "1 incomplete and left out" in err
    resumed = output.read_bytes()
    assert run(capsys, *command)[0] == 0
    assert output.read_bytes() == resumed
    rows = resumed.splitlines()
    assert {json.loads(row)["rows"] for row in rows} == {len(rows)}
    assert "1 kept" in run(capsys, *command, "--resume")[2]
    assert output.read_bytes() == resumed


class _Bar:
    """The part of tqdm that is used."""

    def __init__(self, **options: Any) -> None:
        self.options, self.done = options, 0
        bars.append(self)

    def update(self, count: int = 1) -> None:
        self.done += count

    def close(self) -> None:
        self.options["closed"] = True


bars: list[_Bar] = []


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("windows", ["each", "pooled"])
def test_a_bar_counts_the_windows_of_a_long_recording(
    windows: str,
    tiny_plan: Path,
    hour: Path,
    noise: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    bars.clear()
    monkeypatch.setattr("tqdm.tqdm", _Bar)
    monkeypatch.setattr(progress, "_is_watched", lambda: True)
    command = _command("generate", tiny_plan, hour, noise, "--windows", windows)
    assert run(capsys, *command, "--batch-size", 2)[0] == 0
    recordings, inner = bars
    assert (recordings.options["total"], recordings.done) == (2, 2)
    assert inner.options["desc"] == "hour.wav"
    assert (inner.options["total"], inner.done) == (WINDOWS, WINDOWS)
    assert inner.options["closed"]
    assert recordings.options["closed"]


@pytest.mark.usefixtures("streamed")
def test_the_first_pass_over_a_recording_is_reported(
    tiny_plan: Path, hour: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    bars.clear()
    monkeypatch.setattr("tqdm.tqdm", _Bar)
    monkeypatch.setattr(progress, "_is_watched", lambda: True)
    monkeypatch.setattr(progress, "_LARGE", 0)
    assert run(capsys, *_command("generate", tiny_plan, hour), "--batch-size", 2)[0] == 0
    said = [bar.options.get("desc") for bar in bars]
    assert said == [None, "reading hour.wav", "hour.wav"]
    assert all(bar.options["closed"] for bar in bars)


@pytest.mark.usefixtures("streamed")
def test_quiet_shows_no_bar(
    tiny_plan: Path, hour: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(progress, "_is_watched", lambda: True)
    command = _command("generate", tiny_plan, hour, "--batch-size", 2)
    assert run(capsys, "-q", *command)[2] == ""


def test_reading_is_timed_on_the_command_line_too(
    tiny_plan: Path, hour: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine does the reading, so its timings include it."""
    results: list[Result] = []
    iter_generate = Engine.iter_generate

    def kept(engine: Engine, *arguments: Any, **keywords: Any) -> Iterator[Result]:
        for result in iter_generate(engine, *arguments, **keywords):
            results.append(result)
            yield result

    monkeypatch.setattr(Engine, "iter_generate", kept)
    code, _, _ = run(capsys, "generate", "--engine", tiny_plan, *SHORT, hour)
    assert code == 0
    assert results
    assert all(result.timings.read > 0 for result in results)
