"""A backend in one file and one registration: NumPy, for the toy family's plans."""

import numpy as np
import toy_family

from pengi_rt.backends.protocol import F32, I64, Backend, Encoded
from pengi_rt.config.backend import BackendSpec, RunOptions
from pengi_rt.plan.reader import Plan

BACKEND = BackendSpec(
    name="toy",
    devices=("abacus",),
    precisions=("fp32",),
    packages=("numpy",),
    open="toy_backend:open_plan",
)


class ToyBackend:
    name = "toy"
    precision = "fp32"
    decoder = None
    device_search = None

    def __init__(self, plan: Plan, options: RunOptions) -> None:
        self.config = plan.config
        self.options = options
        self.encoders = self
        self._matrix = plan.tensor("projection")

    def encode_audio(self, windows: F32) -> Encoded:
        none = np.empty((len(windows), 0, 0), np.float32)
        return Encoded(toy_family.embedded(windows, self._matrix), none)

    def encode_text(self, ids: I64) -> Encoded:
        raise NotImplementedError("the toy family has no text encoder")

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def open_plan(plan: Plan, options: RunOptions) -> Backend:
    return ToyBackend(plan, options)
