"""What a plan returns outlives it; what nobody references is unmapped, however it was dropped."""

import errno
import gc
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
import toy_plan

from pengi_rt.errors import PlanError
from pengi_rt.plan.manifest import WEIGHTS
from pengi_rt.plan.reader import Plan


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return toy_plan.write(tmp_path / "toy.plan")


def test_views_outlive_the_plan(path: Path) -> None:
    plan = Plan.open(path)
    table, weights = plan.tensor("decoder.wte.weight"), plan.weights
    plan.close()
    plan.close()
    del plan
    gc.collect()
    np.testing.assert_array_equal(table, toy_plan.tensors()["decoder.wte.weight"])
    assert bytes(weights[:4]) == table.tobytes()[:4]


USE_AFTER_CLOSE = """
import hashlib, sys
from pengi_rt.plan.reader import Plan
with Plan.open(sys.argv[1]) as plan:
    view = plan.{view}
plan.close()
del plan
print(view.nbytes, hashlib.sha256(view).hexdigest())
"""


@pytest.mark.parametrize("view", ["tensor('decoder.wte.weight')", "weights"])
def test_use_after_close_does_not_crash(path: Path, view: str) -> None:
    # In a separate process: a failure here is a segmentation fault.
    done = subprocess.run(
        [sys.executable, "-P", "-c", USE_AFTER_CLOSE.format(view=view), path],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    expected = toy_plan.contents(path)[WEIGHTS]
    if view != "weights":
        expected = toy_plan.tensors()["decoder.wte.weight"].tobytes()
    assert done.stdout.split() == [str(len(expected)), hashlib.sha256(expected).hexdigest()]


@pytest.mark.parametrize(
    "view",
    [
        lambda plan: plan.tensor("ids"),
        lambda plan: plan.tensor("ids")[1:],
        lambda plan: plan.weights,
    ],
    ids=["tensor", "part of a tensor", "weights"],
)
def test_mapping_goes_with_the_last_view(path: Path, view: Callable[[Plan], object]) -> None:
    with Plan.open(path) as plan:
        held = view(plan)
    assert str(path) in Path("/proc/self/maps").read_text()
    del held, plan
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_closed_plan_says_so(path: Path) -> None:
    plan = Plan.open(path)
    plan.close()
    for use in (lambda: plan.weights, lambda: plan.graph("audio"), plan.release_pages):
        with pytest.raises(PlanError, match="the plan is closed"):
            use()


def test_nothing_stays_mapped_or_open(path: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - of a folder that changes

    before = open_files()
    for _ in range(20):
        Plan.open(path).close()
    assert open_files() == before
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_deleted_or_replaced_file_stays_readable(path: Path) -> None:
    with Plan.open(path) as plan:
        path.with_suffix(".new").write_bytes(b"another file")
        path.with_suffix(".new").replace(path)
        path.unlink()
        np.testing.assert_array_equal(
            plan.tensor("decoder.wte.weight"), toy_plan.tensors()["decoder.wte.weight"]
        )


@pytest.mark.parametrize("verdicts", [0, 1, 8, 20])
def test_examine_left_early_keeps_nothing_mapped(path: Path, verdicts: int) -> None:
    examining = Plan.examine(path)
    for _ in range(verdicts):
        next(examining)
    assert isinstance(examining, Generator)
    examining.close()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_examine_that_fails_keeps_nothing_mapped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("pengi_rt.plan.reader._sha256", fail)
    with pytest.raises(PlanError, match="Input/output error") as caught:
        list(Plan.examine(path))
    # The traceback references the frames, and so the file, which is closed all the same.
    assert str(path) not in Path("/proc/self/maps").read_text()
    del caught
