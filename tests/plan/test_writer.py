"""A plan is written whole or not at all, each content once, and always the same bytes."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_plan
from numpy.typing import NDArray

from pengi_rt.errors import PlanError
from pengi_rt.plan.manifest import ALIGNMENT, WEIGHTS
from pengi_rt.plan.reader import Plan
from pengi_rt.plan.writer import PlanWriter

OLD = b"what stood there before"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "pengi.plan"
    path.write_bytes(OLD)
    return path


def check_untouched(path: Path) -> None:
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208 - names, hidden ones too


def test_equal_tensors_are_stored_once(path: Path) -> None:
    ones = np.ones((256, 8), np.float32)
    with PlanWriter(path, toy_plan.CONFIG, backends=("onnx",)) as writer:
        records = writer.add_tensors(
            {
                "decoder.wte.weight": ones,
                "copy": ones.copy(),
                "reshaped": ones.reshape(16, 128),
                "decoder.wpe.weight": ones[:96],
                "zero": np.zeros(1, np.float32),
                "minus zero": -np.zeros(1, np.float32),
            }
        )
        toy_plan.add_entries(writer)
        writer.seal()
        writer.commit()
    offsets = {name: record.offset for name, record in records.items()}
    assert offsets["decoder.wte.weight"] == offsets["copy"] == offsets["reshaped"] == 0
    assert len(set(offsets.values())) == 4
    with Plan.open(path) as plan:
        assert plan.manifest.tensors == records
        assert plan.manifest.entries[WEIGHTS].size == ones.nbytes + 2 * ALIGNMENT + 4
        assert plan.tensor("reshaped").shape == (16, 128)


def test_every_tensor_is_asked_for_once(path: Path) -> None:
    class Lazy(Mapping[str, NDArray[Any]]):
        asked: list[str] = []  # noqa: RUF012 - of the only instance

        def __getitem__(self, name: str) -> NDArray[Any]:
            self.asked.append(name)
            return np.full(3, len(name))

        def __iter__(self) -> Iterator[str]:
            return iter(("a", "bb", "ccc"))

        def __len__(self) -> int:
            return 3

    lazy = Lazy()
    with PlanWriter(path, toy_plan.CONFIG, backends=("onnx",)) as writer:
        writer.add_tensors(lazy)
    assert lazy.asked == ["a", "bb", "ccc"]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    first, second = toy_plan.write(tmp_path / "a.plan"), toy_plan.write(tmp_path / "b.plan")
    assert first.read_bytes() == second.read_bytes()


def test_checksums_are_those_of_a_foreign_reader(path: Path) -> None:
    toy_plan.write(path)
    contents = toy_plan.contents(path)
    with Plan.open(path) as plan:
        for name, record in plan.manifest.entries.items():
            assert record.size == len(contents[name])
            assert record.sha256 == hashlib.sha256(contents[name]).hexdigest()
        for name, tensor in plan.manifest.tensors.items():
            data = contents[WEIGHTS][tensor.offset :][: tensor.nbytes]
            assert tensor.sha256 == hashlib.sha256(data).hexdigest(), name


def test_a_sealed_plan_can_be_opened_before_it_is_committed(path: Path) -> None:
    with PlanWriter(path, toy_plan.CONFIG, backends=("onnx",)) as writer:
        toy_plan.fill(writer)
        for self_test in (None, {"long": "x" * 9000}, {"passed": True}):
            sealed = writer.seal(self_test)
            assert sealed.parent == path.parent
            with Plan.open(sealed) as plan:
                assert plan.manifest.self_test == self_test
        assert path.read_bytes() == OLD
        assert writer.commit() == path
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208
    with Plan.open(path) as plan:
        assert plan.manifest.self_test == {"passed": True}


def test_mode_is_what_the_umask_leaves(path: Path) -> None:
    umask = os.umask(0o027)
    try:
        toy_plan.write(path)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o640


def test_link_is_followed(path: Path) -> None:
    link = path.with_name("link.plan")
    link.symlink_to(path)
    toy_plan.write(link)
    assert link.is_symlink()
    Plan.open(path).close()


# What cannot be written


@pytest.mark.parametrize(
    "name", ["plan.json", "weights.bin", "../x", "graphs/x.onnx", "licences/", "engines/a"]
)
def test_unknown_entries_are_refused(path: Path, name: str) -> None:
    with (
        PlanWriter(path, toy_plan.CONFIG, backends=("onnx",)) as writer,
        pytest.raises(PlanError, match="is not an entry"),
    ):
        writer.add(name, b"x")
    check_untouched(path)


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 3), np.float32), np.zeros(3), np.zeros(3, np.complex64), np.array(["a"])],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_invalid_tensors_are_refused(path: Path, array: NDArray[Any]) -> None:
    with (
        PlanWriter(path, toy_plan.CONFIG, backends=("onnx",)) as writer,
        pytest.raises(PlanError, match="tensor 'x'"),
    ):
        writer.add_tensors({"x": array})
    check_untouched(path)


def test_a_plan_that_the_reader_would_refuse_is_not_sealed(path: Path) -> None:
    with (
        PlanWriter(path, toy_plan.CONFIG, backends=("onnx",), tools={"torch": "\x1b[2J"}) as writer,
        pytest.raises(PlanError, match="control characters"),
    ):
        writer.seal()
    check_untouched(path)


@pytest.mark.parametrize("name", [name for name in toy_plan.ENTRIES if "licences" not in name])
def test_a_plan_without_required_entries_is_not_sealed(path: Path, name: str) -> None:
    with PlanWriter(path, toy_plan.CONFIG, backends=("onnx",)) as writer:
        writer.add_tensors(toy_plan.tensors())
        for other, data in toy_plan.ENTRIES.items():
            if other != name:
                writer.add(other, data)
        with pytest.raises(PlanError, match=f"entry {name} is missing"):
            writer.seal()
    check_untouched(path)


def test_calls_in_the_wrong_order(path: Path) -> None:
    with PlanWriter(path, toy_plan.CONFIG, backends=("onnx",)) as writer:
        toy_plan.fill(writer)
        with pytest.raises(ValueError, match="second time"):
            writer.add_tensors({})
        with pytest.raises(ValueError, match="second time"):
            writer.add("graphs/audio.onnx", b"x")
        with pytest.raises(ValueError, match="seal"):
            writer.commit()
        writer.seal()
        with pytest.raises(ValueError, match="too late"):
            writer.add("licences/late", b"x")
        writer.commit()
    with pytest.raises(ValueError, match="committed"):
        writer.seal()


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("", "is a folder or a device"),
        ("missing/pengi.plan", "No such file or directory"),
        ("pengi.plan/pengi.plan", "Not a directory"),
        ("fifo", "is a folder or a device"),
        (f"{'x' * 250}.plan", "File name too long"),
    ],
)
def test_targets_that_are_not_files(path: Path, target: str, says: str) -> None:
    os.mkfifo(path.with_name("fifo"))
    with pytest.raises(PlanError, match=says) as caught:
        PlanWriter(path.parent / target, toy_plan.CONFIG, backends=("onnx",))
    assert toy_plan.one_line(str(caught.value))
