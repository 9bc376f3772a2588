"""The CPU backend: ONNX Runtime on the plan's graphs, with weights read from the mapped plan.

The decoder keeps one key/value buffer per layer, ``[slots * W, H, S, D]``. A clip's prefix is
written to its row 0 once, where all its rows read it. New tokens of row ``j`` go to row ``j``, and
later rows find their history through ``ancestry`` ``[slots, W, S]`` instead of moving keys and
values. (ONNX Runtime calls that table ``cache_indirection``; the graph is built in
``export/decoder_graph.py``.)

A step writes to one position of the buffer, the same for all slots (``past_length`` is one number).
So a clip that enters late has a gap between its prefix and its generated tokens, which its mask
hides; see :class:`OnnxCache`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime as ort

from pengi_rt.backends.failures import failure
from pengi_rt.backends.protocol import F32, I64, Cache, Encoded
from pengi_rt.config.backend import RunOptions
from pengi_rt.config.family import FamilyConfig, generative
from pengi_rt.config.parts import DecoderConfig
from pengi_rt.errors import BackendError, PlanError
from pengi_rt.kernels.beam_step_cpu import update_ancestry
from pengi_rt.plan.float32_view import embedding_tables
from pengi_rt.plan.graph import check_graph, contract
from pengi_rt.plan.manifest import WEIGHTS
from pengi_rt.plan.reader import Plan
from pengi_rt.system.memory import return_freed_memory
from pengi_rt.system.quote import one_line
from pengi_rt.system.threads import checked_threads

PROVIDER = "CPUExecutionProvider"
F32_TYPE = np.dtype(np.float32)


class OnnxBackend:
    """Runs a plan on the CPU, in float32 for any storage of the weights."""

    name = "onnx"
    precision = "fp32"
    device_search = None

    def __init__(self, plan: Plan, *, threads: int | None = None) -> None:
        """Wrap an open ``plan``; ``threads`` defaults to the number that the process may use.

        Raises:
            UsageError: ``threads`` is below 1.
        """
        self.plan = plan
        self.config: FamilyConfig = plan.config
        self.threads = checked_threads(threads)
        self.graphs = {name: Graph(plan, name, self.threads) for name in plan.manifest.graphs}
        self.encoders = OnnxEncoders(self.graphs)
        self.decoder = None
        if "decoder" in self.graphs:
            self.decoder = OnnxDecoder(plan, self.graphs["decoder"])

    def close(self) -> None:
        """Drop the sessions and their packed weights; the caller still owns the plan."""
        for graph in self.graphs.values():
            graph.close()


def open_plan(plan: Plan, options: RunOptions) -> OnnxBackend:
    """The backend; all graphs are checked before the first request, which is cheap.

    Raises:
        UsageError: ``threads`` is below 1.
        PlanError: a graph does not fit the model in the config.
    """
    backend = OnnxBackend(plan, threads=options.threads)
    for graph in backend.graphs.values():
        graph.check()
    return backend


class Graph:
    """One of the plan's graphs. Its session is created on first use and shares only the file."""

    def __init__(self, plan: Plan, name: str, threads: int) -> None:
        self._plan, self._graph, self._threads = plan, name, threads
        self.name = f"{one_line(str(plan.path), 1000)}: its {name} graph"
        self.inputs, self._outputs = contract(name, plan.config)
        # The session reads from the file as long as it lives, even if the plan is closed earlier.
        self._weights = plan.weights

    def run(self, feeds: Mapping[str, Any], sizes: Sequence[int]) -> list[F32]:
        """Run the graph and check its outputs; ``sizes`` are the open sizes, in order.

        Raises:
            BackendError: memory ran out.
            PlanError: the graph does not run, or an output has the wrong type or shape.
        """
        session = self.session
        try:
            outputs = session.run(None, feeds)
        except Exception as error:
            raise failure(error, self.name, of_graph=True) from error
        for value, array in zip(self._outputs, outputs, strict=True):
            shape = list(value.shape)
            for size in sizes:
                if None in shape:
                    shape[shape.index(None)] = size
            got = getattr(array, "dtype", ""), list(getattr(array, "shape", ()))
            if not isinstance(array, np.ndarray) or got != (F32_TYPE, shape):
                raise PlanError(
                    f"{self.name} gave {got[0]} {got[1]} for {value.name}, not float32 {shape}; "
                    "export it again"
                )
        return list(outputs)

    def run_bound(self, binding: Any) -> None:
        """Run the graph on bound buffers. Raises like :meth:`run`."""
        session = self.session
        try:
            session.run_with_iobinding(binding)
        except Exception as error:
            raise failure(error, self.name, of_graph=True) from error

    def check(self) -> None:
        """Check that the graph is one that our exporter writes.

        Raises:
            PlanError: the graph fails the check.
        """
        _ = self._data

    def close(self) -> None:
        """Drop the session."""
        self.__dict__.pop("session", None)

    @cached_property
    def _data(self) -> bytes:
        data = self._plan.graph(self._graph)
        try:
            check_graph(data, self._graph, self._plan.config, len(self._weights))
        except ValueError as error:
            raise PlanError(f"{self.name} {error}; export it again") from None
        return data

    @cached_property
    def session(self) -> ort.InferenceSession:
        """Create the session, which packs the graph's weights."""
        data = self._data
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors are raised, so it need not log them
        # Spinning makes a step 8 % faster on idle cores (24.8 to 22.9 ms) and several times slower
        # on shared ones, where it takes time from threads that have work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Int8 weights are widened once, like those of other types. Without this, they would go to
        # an operator that also rounds the other factor.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        # A graph's weights are in the plan. A graph that names another file finds no folder.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", "/dev/null/none"
        )
        options.add_external_initializers_from_files_in_memory(
            [WEIGHTS], [self._weights], [len(self._weights)]
        )
        try:
            session = ort.InferenceSession(data, options, providers=[PROVIDER])
        except Exception as error:
            raise failure(error, self.name, of_graph=True) from error
        if session.get_providers() != [PROVIDER]:
            raise BackendError(f"ONNX Runtime gave {session.get_providers()} for {PROVIDER}")
        # The session has packed its own copy of the weights; the file's pages are not needed now.
        self._plan.release_pages()
        return_freed_memory()
        return session


class OnnxEncoders:
    """The audio and text graphs, as :class:`pengi_rt.backends.protocol.Encoders`."""

    def __init__(self, graphs: Mapping[str, Graph]) -> None:
        self._graphs = graphs

    def encode_audio(self, windows: F32) -> Encoded:
        return self._run("audio", windows)

    def encode_text(self, ids: I64) -> Encoded:
        return self._run("text", ids)

    def _run(self, name: str, batch: F32 | I64) -> Encoded:
        graph = self._graphs[name]
        embedding, *prefix = graph.run({graph.inputs[0].name: batch}, batch.shape)
        return Encoded(embedding, *(prefix or [np.empty((len(batch), 0, 0), np.float32)]))


class OnnxDecoder:
    """The decoder's graph, as :class:`pengi_rt.backends.protocol.Decoder`.

    Tokens and positions are embedded outside the graph.
    """

    def __init__(self, plan: Plan, graph: Graph) -> None:
        self.config = generative(plan.config).decoder
        self._graph = graph
        self._tokens, self._positions = embedding_tables(plan)

    def embed_tokens(self, ids: I64) -> F32:
        return self._tokens[ids]

    def new_cache(self, **sizes: int) -> Cache:
        session = self._graph.session
        try:
            cache = OnnxCache(self.config, **sizes)
            cache.bind(session)
        except Exception as error:
            raise failure(error, self._graph.name, of_graph=True) from error
        return cache

    def prefill(self, cache: Cache, slots: I64, prefix: F32, lengths: I64) -> F32:
        assert isinstance(cache, OnnxCache)
        clips, longest, _ = prefix.shape
        # Keys and values of the padding must not be NaN: attention gives them weight 0, but
        # 0 * NaN is NaN.
        real = np.arange(longest)[:, None] < lengths[:, None, None]
        embeddings = np.where(real, prefix + self._positions[:longest], np.float32(0))
        feeds = _prefill_feeds(self.config, embeddings, lengths)
        logits, *keys_and_values = self._graph.run(feeds, (clips, longest))
        cache.write(slots, lengths, keys_and_values)
        return logits

    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        assert isinstance(cache, OnnxCache)
        cache.make_room()
        # Every row inherits its parent's ancestry, and the parent's row for the last position. In a
        # clip's first step that is row 0, where its prefix is.
        update_ancestry(cache.ancestry, parents, cache.now - 1)
        positions = np.repeat(cache.lengths + cache.generated, cache.width)
        rows = self._tokens[tokens.reshape(-1)]
        np.add(rows, self._positions[positions], out=cache.embeddings[:, 0])
        cache.advance()
        self._graph.run_bound(cache.binding())
        return cache.logits.reshape(cache.slots, cache.width, -1)


class OnnxCache(Cache):
    """Buffers allocated once and updated in place.

    Positions ``0 .. prefix_rows - 1`` hold prefixes. All slots write their next token to position
    :attr:`now`, so a clip's generated tokens end there, and begin where :attr:`now` was when the
    clip entered. At the end of the buffer, all histories are moved back to the beginning. Clips
    that enter together never need that; if they come and go, a larger ``new_tokens`` makes it rare.
    (Doubling the buffers by default made a search of 8 clips 6 % slower: more pages.)
    """

    def __init__(self, config: DecoderConfig, **sizes: int) -> None:
        super().__init__(**sizes)
        rows = self.slots * self.width
        capacity = self.prefix_rows + self.new_tokens
        self.now = self.prefix_rows
        shape = (rows, config.n_head, capacity, config.head_dim)
        # Not zeroed: pages that are never written (prefixes of rows 1 ...) never become resident.
        self.buffers = [np.empty(shape, np.float32) for _ in range(2 * config.n_layer)]
        self.ancestry = np.zeros((self.slots, self.width, capacity), np.int32)
        self.mask = np.ones((rows, capacity), np.int32)
        self.embeddings = np.empty((rows, 1, config.n_embd), np.float32)
        self.logits = np.empty((rows, config.vocab_size), np.float32)
        self._past = np.zeros(1, np.int32)
        self._binding: Any = None

    def bind(self, decoder: ort.InferenceSession) -> None:
        """Bind all buffers that never move; arrays are shared with ONNX Runtime, not copied."""
        self._binding = decoder.io_binding()
        fixed = {
            "embeddings": self.embeddings,
            "last": np.zeros((len(self.logits), 1), np.int64),
            "is_step": np.array(True),
            "past_length": self._past,
            "beam_width": np.array([self.width], np.int32),
            "ancestry": self.ancestry,
        }
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in fixed.items()}
        outputs = {"logits": ort.OrtValue.ortvalue_from_numpy(self.logits)}
        for index, buffer in enumerate(self.buffers):
            name = f"{('key', 'value')[index % 2]}_{index // 2}"
            values[name] = outputs[f"new_{name}"] = ort.OrtValue.ortvalue_from_numpy(buffer)
        for name, value in values.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._keep = (fixed, values, outputs)

    def write(self, slots: I64, lengths: I64, keys_and_values: Sequence[F32]) -> None:
        """Add clips whose prefixes have these keys and values ``[n, H, P, D]``."""
        if not self.in_use.any():
            self.now = self.prefix_rows
        self.admit(slots, lengths)
        self.ancestry[slots] = 0
        self._hide_gaps()
        for buffer, prefix_part in zip(self.buffers, keys_and_values, strict=True):
            longest = prefix_part.shape[2]
            shared = buffer.reshape(self.slots, self.width, *buffer.shape[1:])[:, 0]
            shared[slots, :, :longest] = prefix_part
            shared[slots, :, longest : self.now] = 0  # hidden, but 0 * NaN is NaN

    def advance(self) -> None:
        super().advance()
        self._past[0] = self.now
        self.now += 1

    def binding(self) -> Any:
        """The binding for the current step."""
        mask = np.ascontiguousarray(self.mask[:, : self.now])
        self._binding.bind_cpu_input("mask", mask)
        return self._binding

    def make_room(self) -> None:
        """At the end of the buffers, move the generated tokens back to right after the prefixes."""
        self.check_room()
        if self.now < self.mask.shape[1]:
            return
        longest = int(self.generated.max())
        for table in (*self.buffers, self.ancestry):
            table[:, :, self.prefix_rows :][:, :, :longest] = table[:, :, self.now - longest :]
        self.now = self.prefix_rows + longest
        self._hide_gaps()

    def _hide_gaps(self) -> None:
        """Hide the positions between each clip's prefix and its generated tokens."""
        position = np.arange(self.mask.shape[1])
        prefix = position < self.lengths[:, None]
        generated = position >= (self.now - self.generated)[:, None]
        self.mask[:] = np.repeat(prefix | generated, self.width, axis=0)


def _prefill_feeds(config: DecoderConfig, embeddings: F32, lengths: I64) -> Mapping[str, Any]:
    """Inputs of a prefill; inputs that only a step needs get the smallest allowed shapes."""
    nothing = np.zeros((1, config.n_head, 1, config.head_dim), np.float32)
    return {
        "embeddings": embeddings,
        "last": lengths[:, None] - 1,
        "is_step": np.array(False),
        "past_length": np.zeros(1, np.int32),
        "beam_width": np.ones(1, np.int32),
        "ancestry": np.zeros((1, 1, 1), np.int32),
        "mask": np.ones((1, 1), np.int32),
        **{f"{kind}_{i}": nothing for i in range(config.n_layer) for kind in ("key", "value")},
    }
