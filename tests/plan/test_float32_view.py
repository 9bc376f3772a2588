"""Weights of every stored type come out as the float32 numbers that they store."""

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
import toy_plan

from pengi_rt.errors import PlanError
from pengi_rt.plan.float32_view import Float32View, float32_view
from pengi_rt.plan.reader import Plan
from pengi_rt.plan.writer import PlanWriter

RANDOM = np.random.default_rng(3)
FLOATS = RANDOM.standard_normal((256, 8)).astype(np.float32)
FLOATS[0] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 6e4, -1e-6]
INT8 = RANDOM.integers(-127, 128, (256, 8)).astype(np.int8)
ROWS = RANDOM.uniform(1e-3, 1, (256, 1)).astype(np.float32)
COLUMNS = RANDOM.uniform(1e-3, 1, (1, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """A bf16 plan without graphs, and tensors of the other types in it."""
    path = tmp_path_factory.mktemp("plan") / "types.plan"
    bfloat16 = FLOATS.astype(ml_dtypes.bfloat16)
    tensors = {
        "decoder.wte.weight": bfloat16,
        "decoder.wpe.weight": bfloat16[:96],
        "fp32": FLOATS,
        "fp16": FLOATS.astype(np.float16),
        "bf16": bfloat16,
        "rows": INT8,
        "rows.scale": ROWS,
        "columns": INT8,
        "columns.scale": COLUMNS,
        "bare": INT8,
        "ids": np.arange(8),
    }
    with PlanWriter(path, toy_plan.CONFIG, backends=("torch",), weights="bf16") as writer:
        writer.add_tensors(tensors)
        toy_plan.add_entries(writer, graphs=False)
        writer.seal()
        writer.commit()
    with Plan.open(path) as opened:
        yield opened


EXPECTED = {
    "fp32": FLOATS,
    "fp16": FLOATS.astype(np.float16).astype(np.float32),
    "bf16": FLOATS.astype(ml_dtypes.bfloat16).astype(np.float32),
    "rows": INT8.astype(np.float32) * ROWS,
    "columns": INT8.astype(np.float32) * COLUMNS,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_of_every_type(plan: Plan, name: str) -> None:
    whole = EXPECTED[name]
    weight = float32_view(plan, name)
    assert isinstance(weight, Float32View) == (name != "fp32")
    for index in (..., slice(5), np.array([0, 255, 7, 7]), np.zeros((2, 0), np.int64)):
        found = weight[index]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, whole[index])


def test_bfloat16_tensors_are_returned_as_bits(plan: Plan) -> None:
    bits = plan.tensor("bf16")
    assert bits.dtype == np.uint16
    assert not bits.flags.writeable
    np.testing.assert_array_equal(bits.view(ml_dtypes.bfloat16)[1:], EXPECTED["bf16"][1:])


@pytest.mark.parametrize(("name", "kind"), [("bare", "int8"), ("ids", "int64")])
def test_tensors_that_are_not_weights_are_refused(plan: Plan, name: str, kind: str) -> None:
    with pytest.raises(
        PlanError, match=rf"tensor {name} is {kind}, but the config needs float32; exp"
    ):
        float32_view(plan, name)
    with pytest.raises(PlanError, match="no tensor 'nothing'"):
        float32_view(plan, "nothing")
