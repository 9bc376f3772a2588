"""Check that the parts of a plan fit together: tensors without gaps, nothing missing."""

from collections.abc import Iterable, Mapping

from pengi_rt.config.backend import backends
from pengi_rt.config.family import Table, family_of, tables_of
from pengi_rt.errors import PlanError
from pengi_rt.plan.manifest import (
    WEIGHTS,
    Manifest,
    TensorRecord,
    aligned,
    graph_entry,
    scale_name,
    tokenizer_entry,
)
from pengi_rt.system.quote import shown

_EXPORT_AGAIN = "export the checkpoint again"

_TABLE_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def check_layout(tensors: Iterable[TensorRecord], size: int) -> None:
    """Check that ``tensors`` fill ``size`` bytes in order, aligned and without overlaps.

    Raises:
        PlanError: the check fails.
    """
    spans: dict[int, int] = {}
    for tensor in tensors:
        if spans.setdefault(tensor.offset, tensor.nbytes) != tensor.nbytes:
            raise PlanError(f"tensors of different sizes share offset {tensor.offset} of {WEIGHTS}")
    end = 0
    for offset in sorted(spans):
        if offset != aligned(end):
            raise PlanError(f"a tensor at {offset} of {WEIGHTS} should start at {aligned(end)}")
        end = offset + spans[offset]
    if end != size:
        raise PlanError(f"{WEIGHTS} has {size} bytes, but its tensors need {end}")


def check_complete(manifest: Manifest) -> None:
    """Check that a plan holds what its family, config and backends need.

    A plan holds either the graphs of its family or none; without graphs, it names backends that
    read only the weights. The tokenizer of every network that it holds, the decoder's tables and
    the scales of an int8 plan are always there.

    Raises:
        PlanError: something is missing, or a tensor has the wrong shape or type.
    """
    family = family_of(manifest.config)
    _check_graphs(manifest, [name for name in family.graphs if name not in family.optional])
    for name in family.tokenizers:
        entry = tokenizer_entry(name)
        if name in manifest.networks and entry not in manifest.entries:
            raise PlanError(f"entry {entry} is missing, which every plan has: {_EXPORT_AGAIN}")
    for table in tables_of(manifest.config).values() if "decoder" in manifest.parts else ():
        _check_table(table, manifest.tensors, manifest.weights)
    for name, tensor in manifest.tensors.items():
        if tensor.dtype == "int8":
            _check_scale(name, manifest.tensors, needed=manifest.weights == "int8")


def _check_graphs(manifest: Manifest, needed: Iterable[str]) -> None:
    if not manifest.graphs and not manifest.backends:
        raise PlanError(f"neither graphs nor a backend that needs none: {_EXPORT_AGAIN}")
    running = [spec.name for spec in backends() if spec.needs_graphs]
    wanting = [name for name in manifest.backends if name in running]
    if not manifest.graphs and not wanting:
        return
    for entry in map(graph_entry, needed):
        if entry not in manifest.entries:
            whom = " and ".join(wanting or running)
            raise PlanError(
                f"entry {entry} is missing, which every plan for {whom} has: {_EXPORT_AGAIN}"
            )


def _check_table(table: Table, tensors: Mapping[str, TensorRecord], weights: str) -> None:
    name, stored = table.tensor, tensors.get(table.tensor)
    if stored is None:
        raise PlanError(f"tensor {name} is missing, which every plan has: {_EXPORT_AGAIN}")
    if stored.shape != table.shape:
        raise PlanError(
            f"tensor {name} has shape {shown(list(stored.shape))}, but the config needs "
            f"{list(table.shape)}: {_EXPORT_AGAIN}"
        )
    if stored.dtype != _TABLE_TYPES.get(weights, "int8" if table.int8 else "float16"):
        raise PlanError(
            f"tensor {name} is {stored.dtype} in a plan stored as {weights}: {_EXPORT_AGAIN}"
        )


def _check_scale(name: str, tensors: Mapping[str, TensorRecord], *, needed: bool) -> None:
    """Check the scale of an int8 matrix: one value per row or per column."""
    values, scale = tensors[name], tensors.get(scale_name(name))
    if scale is None:
        if needed:
            raise PlanError(f"tensor {shown(name)} is int8 without a scale: {_EXPORT_AGAIN}")
        return
    rows, columns = values.shape if len(values.shape) == 2 else (0, 0)
    if scale.dtype != "float32" or scale.shape not in ((rows, 1), (1, columns)):
        raise PlanError(
            f"tensor {shown(scale_name(name))} is {scale.dtype} {shown(list(scale.shape))}, not a "
            f"scale for {shown(list(values.shape))}: {_EXPORT_AGAIN}"
        )
