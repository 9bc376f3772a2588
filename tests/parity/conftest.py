"""Fixtures of the parity suite: plans made by ``run.py``, and a ledger of the comparisons."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from full_size import Engines, Ledger


@pytest.fixture(scope="session")
def parity_folder() -> Path:
    """Where ``make parity`` put the full-size checkpoints and plans."""
    folder = os.environ.get("PENGI_RT_PARITY")
    if not folder:
        pytest.skip("full-size parity is run by: make parity REFERENCE=DIR")
    return Path(folder)


@pytest.fixture(scope="session")
def engines(parity_folder: Path) -> Iterator[Engines]:
    engines = Engines(parity_folder)
    yield engines
    engines.close()


@pytest.fixture
def ledger(parity_folder: Path, request: pytest.FixtureRequest) -> Ledger:
    def write(backend: str, stage: str, difference: float, tolerance: float) -> None:
        row = {
            "test": request.node.name,
            "backend": backend,
            "stage": stage,
            "difference": float(difference),
            "tolerance": float(tolerance),
        }
        with (parity_folder / "rows.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    return write
