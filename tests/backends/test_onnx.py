"""The ONNX Runtime backend against the PyTorch one, on the tiny model.

Tolerance: 1e-4 absolute on values of order 1 to 10 (embeddings, prefixes, logits). Both compute in
float32 and sum in a different order, which costs about 1e-6; a wrong parent, position or pad is off
by 0.1.
"""

from collections.abc import Callable
from pathlib import Path

import hostile_plan
import numpy as np
import onnxruntime as ort
import pytest
import toy_plan
from lock_step import prefilled
from onnx import ModelProto, TensorProto, helper, load_model, load_model_from_string, numpy_helper

import pengi_rt
from pengi_rt.backends.onnx import OnnxBackend, OnnxCache
from pengi_rt.backends.torch import TorchBackend
from pengi_rt.config.pengi import pengi_config
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.errors import BackendError, PlanError, UsageError
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan.manifest import WEIGHTS
from pengi_rt.plan.reader import Plan

ATOL = 1e-4


@pytest.fixture(scope="module")
def onnx(tiny_plan: Path) -> OnnxBackend:
    return OnnxBackend(Plan.open(tiny_plan), threads=1)


@pytest.fixture(scope="module")
def torch(tiny_model: Pengi) -> TorchBackend:
    return TorchBackend(tiny_model)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_encoders_equal_pytorch(onnx: OnnxBackend, torch: TorchBackend, batch: int) -> None:
    generator = np.random.default_rng(batch)
    wave = generator.uniform(-1, 1, (batch, onnx.config.clip_samples)).astype(np.float32)
    ids = generator.integers(0, 500, (batch, 7))
    ids[:, 0], ids[:, -1] = (
        pengi_config(onnx.config).text.bos_id,
        pengi_config(onnx.config).text.eos_id,
    )
    for ours, theirs in (
        (onnx.encoders.encode_audio(wave), torch.encoders.encode_audio(wave)),
        (onnx.encoders.encode_text(ids), torch.encoders.encode_text(ids)),
    ):
        np.testing.assert_allclose(ours.embedding, theirs.embedding, atol=ATOL)
        np.testing.assert_allclose(ours.prefix, theirs.prefix, atol=ATOL)


@pytest.mark.parametrize("lengths", [[16], [1], [16, 5, 9], [3, 3]])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_steps_equal_pytorch_for_any_parents(
    onnx: OnnxBackend, torch: TorchBackend, lengths: list[int], width: int
) -> None:
    generator = np.random.default_rng(width)
    clips, longest, steps = len(lengths), max(lengths), 6
    decoder = pengi_config(onnx.config).decoder
    prefix = generator.normal(size=(clips, longest, decoder.n_embd)).astype(np.float32)
    for clip, length in enumerate(lengths):
        prefix[clip, length:] = np.nan  # padding is never read
    runs = [
        prefilled(backend, prefix, lengths, width=width, new_tokens=steps)
        for backend in (onnx, torch)
    ]
    np.testing.assert_allclose(runs[0].first, runs[1].first, atol=ATOL)
    parents = np.zeros(clips * width, np.int64)
    for _ in range(steps):
        tokens = generator.integers(0, decoder.vocab_size, clips * width)
        ours, theirs = (run.step(tokens, parents) for run in runs)
        np.testing.assert_allclose(ours, theirs, atol=ATOL)
        parents = generator.integers(0, width, clips * width)


def test_a_prefix_is_stored_once_per_clip(onnx: OnnxBackend) -> None:
    """Slots from 1 on hold no prefix: poisoning them changes nothing."""
    config = pengi_config(onnx.config).decoder
    prefix = np.random.default_rng(0).normal(size=(2, 10, config.n_embd)).astype(np.float32)
    logits = []
    for poison in (False, True):
        run = prefilled(onnx, prefix, width=3, new_tokens=2)
        assert isinstance(run.cache, OnnxCache)
        for buffer in run.cache.buffers:
            slots = buffer.reshape(2, 3, *buffer.shape[1:])
            slots[:, 1:, :, :10] = np.nan if poison else 0.0
        logits.append(run.step(np.arange(6)).copy())
    np.testing.assert_array_equal(logits[0], logits[1])


def test_embeds_tokens_from_the_plan(onnx: OnnxBackend, tiny_model: Pengi) -> None:
    table = tiny_model.state_dict()["decoder.wte.weight"].numpy()
    np.testing.assert_array_equal(
        require_decoder(onnx).embed_tokens(np.array([3, 0, 511])), table[[3, 0, 511]]
    )


def test_float16_tables_are_widened_before_they_are_added(half_plan: Path) -> None:
    """Token and position are exact in float32; their sum would not be exact in float16."""
    with Plan.open(half_plan) as plan:
        backend = OnnxBackend(plan, threads=1)
        tokens, positions = (plan.tensor(f"decoder.{name}.weight") for name in ("wte", "wpe"))
        assert tokens.dtype == positions.dtype == np.float16
        embedded = require_decoder(backend).embed_tokens(np.array([3, 0, 511]))
        assert embedded.dtype == np.float32
        np.testing.assert_array_equal(embedded, tokens[[3, 0, 511]])
        prefix = np.zeros((1, 4, pengi_config(backend.config).decoder.n_embd), np.float32)
        run = prefilled(backend, prefix)
        assert isinstance(run.cache, OnnxCache)
        run.step([7])
        total = tokens[7].astype(np.float32) + positions[4].astype(np.float32)
        np.testing.assert_array_equal(run.cache.embeddings[0, 0], total)
        assert np.any(total != (tokens[7] + positions[4]))
        backend.close()


@pytest.mark.parametrize("graph", ["audio", "text", "decoder"])
def test_widening_is_done_once_when_the_session_is_made(
    graph: str, half_plan: Path, tmp_path: Path
) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    with Plan.open(half_plan) as plan:
        stored = plan.graph(graph)
        weights = plan.weights
        options.add_external_initializers_from_files_in_memory([WEIGHTS], [weights], [len(weights)])
        ort.InferenceSession(stored, options, providers=["CPUExecutionProvider"])
        weights.release()
    optimized = load_model(tmp_path / "optimized.onnx")
    assert halves(load_model_from_string(stored)), "the weights are stored as float16"
    assert not halves(optimized)
    assert not any(".float16" in name for node in optimized.graph.node for name in node.input)


def halves(model: ModelProto) -> list[str]:
    return [t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16]


def test_refuses_threads_below_one(onnx: OnnxBackend) -> None:
    with pytest.raises(UsageError, match=r"threads must be a whole number of at least 1, got 0"):
        OnnxBackend(onnx.plan, threads=0)


def test_a_graph_opens_no_file_of_its_own(
    tiny_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile graph names one of the user's files as a weight, openly or inside a branch."""
    secret = np.arange(4, dtype=np.float32)
    (tmp_path / "secret.bin").write_bytes(secret.tobytes())
    monkeypatch.chdir(tmp_path)
    for hidden in (False, True):
        graph = _reads("secret.bin", hidden=hidden).SerializeToString()
        with Plan.open(tiny_plan) as plan:
            monkeypatch.setattr(plan, "graph", lambda _name, graph=graph: graph)
            backend = OnnxBackend(plan, threads=1)
            with pytest.raises(PlanError, match="its audio graph does not run"):
                backend.encoders.encode_audio(np.zeros((1, 4), np.float32))
            backend.close()


def _reads(location: str, *, hidden: bool) -> ModelProto:
    """A graph that adds the floats in ``location`` to wave twice."""
    tensor = TensorProto(
        name="stolen", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    value_info = helper.make_tensor_value_info
    wave = value_info("wave", TensorProto.FLOAT, ["B", 4])
    outputs = [value_info(name, TensorProto.FLOAT, ["B", 4]) for name in ("embedding", "prefix")]
    adds = [helper.make_node("Add", ["wave", "stolen"], [output.name]) for output in outputs]
    if not hidden:
        graph = helper.make_graph(adds, "g", [wave], outputs, initializer=[tensor])
    else:
        branch = helper.make_graph(adds, "b", [], outputs, initializer=[tensor])
        always = helper.make_node(
            "Constant", [], ["always"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])
        )
        choice = helper.make_node(
            "If", ["always"], ["embedding", "prefix"], then_branch=branch, else_branch=branch
        )
        graph = helper.make_graph([always, choice], "g", [wave], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("asked", "given"), [("audio", "text"), ("text", "decoder"), ("decoder", "audio")]
)
def test_a_swapped_graph_is_refused(
    asked: str, given: str, tiny_plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Plan.open(tiny_plan) as plan:
        graph = plan.graph(given)
        monkeypatch.setattr(plan, "graph", lambda _name: graph)
        backend = OnnxBackend(plan, threads=1)
        with pytest.raises(PlanError, match=f"its {asked} graph takes"):
            _ = backend.graphs[asked].session
        backend.close()


def appended(name: str, operator: str, *sizes: int) -> Callable[[ModelProto], None]:
    """Append an operator, with ``sizes`` as its constant, to an output."""

    def edit(model: ModelProto) -> None:
        node = next(node for node in model.graph.node if name in node.output)
        node.output[list(node.output).index(name)] = "before"
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
        model.graph.node.append(helper.make_node(operator, ["before", "sizes"], [name]))

    return edit


def squared(model: ModelProto) -> None:
    """Multiply the keys by themselves: a prefill has as many rows as columns, a step does not."""
    node = next(node for node in model.graph.node if "new_key_0" in node.output)
    node.output[1] = "before"
    model.graph.node.append(helper.make_node("MatMul", ["before", "before"], ["new_key_0"]))


@pytest.mark.parametrize(
    ("graph", "edit", "error", "says"),
    [
        (
            "audio",
            appended("prefix", "Reshape", -1),
            PlanError,
            "gave float32 [512] for prefix, not",
        ),
        ("audio", appended("prefix", "Reshape", 3, 7), PlanError, "does not run: "),
        ("text", appended("prefix", "Reshape", 1, 64, 8), PlanError, "gave float32 [1, 64, 8] for"),
        ("text", appended("prefix", "Gather", 1 << 40), PlanError, "does not run: "),
        ("text", appended("prefix", "Expand", 1 << 20, 1 << 20, 1, 1, 1), BackendError, "memory"),
        ("text", appended("prefix", "Expand", 1 << 62, 1 << 62, 1, 1, 1), PlanError, "not run: "),
        ("decoder", squared, PlanError, "does not run: "),
    ],
)
def test_a_graphs_outputs_are_checked(
    graph: str,
    edit: Callable[[ModelProto], None],
    error: type[Exception],
    says: str,
    tiny_plan: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The graph passes every check until it runs; the one line includes ONNX Runtime's message."""
    path = hostile_plan.with_graph(tiny_plan, tmp_path / "hostile.plan", graph, edit)
    with pengi_rt.load(path, threads=1) as engine:
        clip = np.full(engine.config.clip_samples, 0.1, np.float32)
        with pytest.raises(error) as caught:
            engine.generate((clip, pengi_config(engine.config).mel.sample_rate), max_new_tokens=2)
    assert f"{path}: its {graph} graph" in str(caught.value)
    assert says in str(caught.value)
    assert toy_plan.one_line(str(caught.value))
    assert capfd.readouterr() == ("", "")


def test_a_failing_step_is_a_one_line_error(onnx: OnnxBackend) -> None:
    """With bound outputs, ONNX Runtime raises a plain RuntimeError."""
    prefix = np.zeros((1, 4, pengi_config(onnx.config).decoder.n_embd), np.float32)
    run = prefilled(onnx, prefix, new_tokens=2)
    assert isinstance(run.cache, OnnxCache)
    run.cache.mask = np.ones((3, 9), np.int32)
    with pytest.raises(PlanError, match=r"its decoder graph does not run: .*; export it again$"):
        run.step([1])


def test_load_refuses_a_hostile_graph(tiny_plan: Path, tmp_path: Path) -> None:
    """Loading refuses it before any request, even for graphs that no request would use."""
    for graph in ("audio", "text", "decoder"):
        path = hostile_plan.with_graph(
            tiny_plan, tmp_path / "hostile.plan", graph, lambda model: model.graph.output.pop()
        )
        with pytest.raises(PlanError, match=f"its {graph} graph takes .*; export it again$"):
            pengi_rt.load(path)
