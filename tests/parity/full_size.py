"""What the parity tests share: the backends, their engines, and the ledger's type."""

from pathlib import Path
from typing import Protocol

import pengi_rt
from pengi_rt.engine import Engine

BACKENDS = ("onnx", "native", "torch")


class Ledger(Protocol):
    """Records one comparison; docs/parity.md's table is made from these."""

    def __call__(self, backend: str, stage: str, difference: float, tolerance: float) -> None: ...


class Engines:
    """Engines by config and backend, one at a time: two full-size models strain a small machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: tuple[str, str, Engine] | None = None

    def get(self, config: str, backend: str) -> Engine:
        if self._open is None or self._open[:2] != (config, backend):
            self.close()
            plan = self._folder / f"{config}.plan"
            self._open = (config, backend, pengi_rt.load(plan, backend=backend))
        return self._open[2]

    def close(self) -> None:
        if self._open is not None:
            self._open[2].close()
            self._open = None
