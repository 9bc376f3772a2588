"""A model family in one file and one registration: an audio encoder, and no decoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pengi_rt.config.checked import Checked, Within
from pengi_rt.config.family import FamilySpec
from pengi_rt.plan.graph import FLOAT32, GraphRules, Value
from pengi_rt.plan.manifest import WEIGHTS, TensorRecord
from pengi_rt.plan.writer import PlanWriter

FAMILY = FamilySpec(
    name="toy",
    config="toy_family:ToyConfig",
    graphs={"audio": "toy_family:audio_graph"},
    summary="toy_family:summary",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyConfig(Checked):
    """The whole toy model."""

    family: Literal["toy"] = "toy"
    name: str = "little toy"
    sample_rate: Annotated[int, Within(1000, 48_000)] = 8000
    clip_samples: Annotated[int, Within(1, 100_000)] = 4000
    hop_length: Annotated[int, Within(1, 1000)] = 100
    width: Annotated[int, Within(1, 64)] = 6

    @property
    def clip_seconds(self) -> float:
        return self.clip_samples / self.sample_rate

    @property
    def d_proj(self) -> int:
        return self.width


def audio_graph(config: ToyConfig) -> GraphRules:
    return GraphRules(
        takes=[Value("wave", FLOAT32, (None, config.clip_samples))],
        gives=[Value("joint_embedding", FLOAT32, (None, config.width))],
        operators=frozenset({"MatMul", "ReduceL2", "Div"}),
        layers=1,
    )


def summary(config: ToyConfig) -> dict[str, str]:
    return {"model": f"a toy of width {config.width}"}


def projection(config: ToyConfig) -> NDArray[np.float32]:
    shape = (config.clip_samples, config.width)
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def embedded(windows: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the graph computes."""
    vectors = windows @ matrix
    return cast("NDArray[np.float32]", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def write_plan(path: Path, *, graphs: bool = True) -> Path:
    config = ToyConfig()
    with PlanWriter(path, config, backends=("onnx", "toy") if graphs else ("toy",)) as writer:
        records = writer.add_tensors({"projection": projection(config)})
        if graphs:
            writer.add("graphs/audio.onnx", _onnx(config, records["projection"]))
        writer.seal()
        return writer.commit()


def _onnx(config: ToyConfig, record: TensorRecord) -> bytes:
    def value(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["wave", "projection"], ["vectors"]),
            helper.make_node("ReduceL2", ["vectors", "axis"], ["lengths"]),
            helper.make_node("Div", ["vectors", "lengths"], ["joint_embedding"]),
        ],
        "toy",
        [value("wave", "batch", config.clip_samples)],
        [value("joint_embedding", "batch", config.width)],
        [_stored("projection", record), helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    opset = [helper.make_opsetid("", 18)]
    data: bytes = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return data


def _stored(name: str, record: TensorRecord) -> TensorProto:
    """A tensor that refers to its data in the plan's weights."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=record.shape)
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": WEIGHTS, "offset": str(record.offset), "length": str(record.nbytes)}
    for key, text in place.items():
        tensor.external_data.add(key=key, value=text)
    return tensor
