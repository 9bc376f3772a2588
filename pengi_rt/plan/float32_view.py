"""A plan's weights as float32, whatever they are stored as: exact, and where they are read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pengi_rt.errors import PlanError
from pengi_rt.plan.manifest import scale_name
from pengi_rt.plan.reader import Plan

F32 = NDArray[np.float32]


class Widened:
    """One tensor of an open plan. It is indexed like an array, and widens what is asked for."""

    def __init__(self, plan: Plan, name: str) -> None:
        """Over the mapped tensor ``name``.

        Raises:
            PlanError: there is none, or it is of a type that no weight is stored as.
        """
        self._stored = plan.tensor(name)
        self._scale: NDArray[np.float32] | None = None
        dtype = plan.manifest.tensors[name].dtype
        self._bits = dtype == "bfloat16"
        if dtype == "int8" and scale_name(name) in plan.tensors:
            self._scale = np.broadcast_to(plan.tensor(scale_name(name)), self._stored.shape)
        elif dtype not in ("float32", "float16", "bfloat16"):
            raise PlanError(
                f"{plan.path}: tensor {name} is {dtype}, its config wants float32; export it again"
            )

    def __getitem__(self, index: Any) -> F32:
        """What NumPy's indexing gives, in float32; of a float32 tensor perhaps a view."""
        part = self._stored[index]
        wide: F32
        if self._scale is not None:
            wide = part * self._scale[index]
        elif self._bits:  # a bfloat16 is the upper half of a float32
            wide = (part.astype(np.uint32) << 16).view(np.float32)
        else:
            wide = np.asarray(part, np.float32)
        return wide
