"""A plan's weights as exact float32, for any storage type; widened only when read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pengi_rt.config.family import tables_of
from pengi_rt.errors import PlanError
from pengi_rt.plan.manifest import scale_name
from pengi_rt.plan.reader import Plan

F32 = NDArray[np.float32]


def float32_view(plan: Plan, name: str) -> "F32 | Float32View":
    """The tensor ``name`` of an open plan: mapped if it is stored as float32, otherwise a view.

    Raises:
        PlanError: there is no such tensor, or weights are never stored in its type.
    """
    stored: F32 = plan.tensor(name)
    return stored if stored.dtype == np.float32 else Float32View(plan, name)


def embedding_tables(plan: Plan) -> "tuple[F32 | Float32View, F32 | Float32View]":
    """The decoder's embeddings of tokens and of positions. Raises like :func:`float32_view`."""
    tables = tables_of(plan.config)
    tokens, positions = (float32_view(plan, tables[key].tensor) for key in ("tokens", "positions"))
    return tokens, positions


class Float32View:
    """A tensor stored in a narrower type. Indexing it like an array widens the indexed part."""

    def __init__(self, plan: Plan, name: str) -> None:
        """Wrap the mapped tensor ``name``.

        Raises:
            PlanError: there is no such tensor, or weights are never stored in its type.
        """
        self._stored = plan.tensor(name)
        self._scale: NDArray[np.float32] | None = None
        dtype = plan.manifest.tensors[name].dtype
        self._bits = dtype == "bfloat16"
        if dtype == "int8" and scale_name(name) in plan.tensors:
            self._scale = np.broadcast_to(plan.tensor(scale_name(name)), self._stored.shape)
        elif dtype not in ("float32", "float16", "bfloat16"):
            raise PlanError(
                f"{plan.path}: tensor {name} is {dtype}, but the config needs float32; "
                "export it again"
            )

    def __getitem__(self, index: Any) -> F32:
        """The result of NumPy's indexing, as float32."""
        part = self._stored[index]
        wide: F32
        if self._scale is not None:
            wide = part * self._scale[index]
        elif self._bits:  # a bfloat16 is the upper half of a float32
            wide = (part.astype(np.uint32) << 16).view(np.float32)
        else:
            wide = np.asarray(part, np.float32)
        return wide
