"""The CPU backend: ONNX Runtime over the plan's graphs, weights read from the mapped plan.

The decoder keeps one key/value buffer a layer, ``[clips * W, H, S, D]``. A clip's prefix is written
to its slot 0 once and read there by all its rows; what row ``j`` generates goes to slot ``j``, and
later rows find their history through ``ancestry`` ``[clips, W, S]`` instead of moving keys and
values about. (ONNX Runtime calls that table ``cache_indirection``; the graph is in
``export/decoder_graph.py``.)
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime as ort

from pengi_rt.backends.failures import explained
from pengi_rt.backends.protocol import F32, I64, Cache, Encoded
from pengi_rt.backends.registry import RunOptions
from pengi_rt.config.model import ModelConfig
from pengi_rt.errors import BackendError, PlanError
from pengi_rt.kernels.beam_step_cpu import update_ancestry
from pengi_rt.plan.float32_view import Widened
from pengi_rt.plan.graph import Value, check_graph, contract
from pengi_rt.plan.manifest import WEIGHTS
from pengi_rt.plan.reader import Plan
from pengi_rt.system.memory import return_freed_memory
from pengi_rt.system.quote import one_line
from pengi_rt.system.threads import checked_threads

PROVIDER = "CPUExecutionProvider"
F32_TYPE = np.dtype(np.float32)


class OnnxBackend:
    """Runs a plan on the CPU, in float32 whatever its weights are stored as.

    Sessions are made on first use and share only the file.
    """

    name = "onnx"

    def __init__(self, plan: Plan, *, threads: int | None = None) -> None:
        """Over an open ``plan``, with ``threads`` (default: what the process may use).

        Raises:
            UsageError: ``threads`` is below 1.
        """
        self.plan = plan
        self.config: ModelConfig = plan.config
        self.threads = checked_threads(threads)
        # Sessions read from it until they are gone, whoever closes the plan meanwhile.
        self._weights = plan.weights
        self._graphs: dict[str, bytes] = {}

    def encode_audio(self, wave: F32) -> Encoded:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        return self._encoded("audio", wave)

    def encode_text(self, ids: I64) -> Encoded:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        return self._encoded("text", ids)

    def embed_tokens(self, ids: I64) -> F32:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        return self._token_table[ids]

    def prefill(
        self, prefix: F32, lengths: I64, *, width: int, max_new_tokens: int
    ) -> tuple[Cache, F32]:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        decoder = self._decoder
        clips, longest, _ = prefix.shape
        with self._explained("decoder"):
            cache = _Cache(self.config, lengths, width, longest + max_new_tokens)
            # Whatever stands in the padding, its keys and values must be numbers: attention gives
            # them weight 0, and 0 * NaN is NaN.
            real = np.arange(longest)[:, None] < lengths[:, None, None]
            embeddings = np.where(real, prefix + self._position_table[:longest], np.float32(0))
            outputs = decoder.run(None, _prefill_feeds(self.config, embeddings, lengths))
            logits, *new = self._checked("decoder", outputs, (clips, longest))
            for buffer, prefix_part in zip(cache.buffers, new, strict=True):
                buffer.reshape(clips, width, *buffer.shape[1:])[:, 0, :, :longest] = prefix_part
            cache.bind(decoder)
        return cache, logits

    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        assert isinstance(cache, _Cache)
        cache.follow(parents)
        np.add(
            self._token_table[tokens],
            self._position_table[cache.positions],
            out=cache.embeddings[:, 0],
        )
        with self._explained("decoder"):
            return cache.run(self._decoder)

    def close(self) -> None:
        """Drop the sessions and their packed weights; the plan stays the caller's."""
        for session in ("_audio", "_text", "_decoder"):
            self.__dict__.pop(session, None)

    @cached_property
    def _token_table(self) -> Widened:
        return Widened(self.plan, "decoder.wte.weight")

    @cached_property
    def _position_table(self) -> Widened:
        return Widened(self.plan, "decoder.wpe.weight")

    @cached_property
    def _audio(self) -> ort.InferenceSession:
        return self._session("audio")

    @cached_property
    def _text(self) -> ort.InferenceSession:
        return self._session("text")

    @cached_property
    def _decoder(self) -> ort.InferenceSession:
        return self._session("decoder")

    def _session(self, graph: str) -> ort.InferenceSession:
        data = self._graph(graph)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what it has to say comes with what it raises
        # Spinning makes a step 8 % faster on cores of one's own (24.8 to 22.9 ms) and several times
        # slower on shared ones, where it takes them from whoever has work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Int8 weights are widened once, as those of other types. Without this they would go to an
        # operator that rounds what they are multiplied by as well.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        # A graph's weights are in the plan. One that names a file of its own finds no folder.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", "/dev/null/none"
        )
        options.add_external_initializers_from_files_in_memory(
            [WEIGHTS], [self._weights], [len(self._weights)]
        )
        with self._explained(graph):
            session = ort.InferenceSession(data, options, providers=[PROVIDER])
        if session.get_providers() != [PROVIDER]:
            raise BackendError(f"ONNX Runtime gave {session.get_providers()} for {PROVIDER}")
        # The session has packed what it multiplies by; the file's pages would only count twice.
        self.plan.release_pages()
        return_freed_memory()
        return session

    def check_graphs(self) -> None:
        """Check all three graphs, which is cheap, before the first question comes.

        Raises:
            PlanError: one of them is not what a graph of this config's is.
        """
        for graph in self.plan.manifest.graphs:
            self._graph(graph)

    def _graph(self, graph: str) -> bytes:
        """The plan's graph, which holds nothing but what an exporter of ours writes."""
        if graph not in self._graphs:
            data = self.plan.graph(graph)
            try:
                check_graph(data, graph, self.config, len(self._weights))
            except ValueError as error:
                raise PlanError(f"{self._name(graph)} {error}; export it again") from None
            self._graphs[graph] = data
        return self._graphs[graph]

    def _encoded(self, graph: str, batch: F32 | I64) -> Encoded:
        session: ort.InferenceSession = getattr(self, f"_{graph}")
        (taken,), _ = contract(graph, self.config)
        with self._explained(graph):
            outputs = session.run(None, {taken.name: batch})
        embedding, *prefix = self._checked(graph, outputs, batch.shape)
        return Encoded(embedding, *(prefix or [np.empty((len(batch), 0, 0), np.float32)]))

    def _checked(self, graph: str, outputs: Sequence[Any], sizes: Sequence[int]) -> list[F32]:
        """What a graph gave, if it is what it says; ``sizes`` are those left open, in order."""
        _, gives = contract(graph, self.config)
        for value, array in zip(gives, outputs, strict=True):
            shape = _sized(value, sizes)
            if not isinstance(array, np.ndarray) or (array.dtype, array.shape) != (F32_TYPE, shape):
                raise PlanError(
                    f"{self._name(graph)} gave {getattr(array, 'dtype', '')} "
                    f"{list(getattr(array, 'shape', ()))} for {value.name}, not float32 "
                    f"{list(shape)}; export it again"
                )
        return list(outputs)

    def _name(self, graph: str) -> str:
        return f"{one_line(str(self.plan.path), 1000)}: its {graph} graph"

    def _explained(self, graph: str) -> AbstractContextManager[None]:
        return explained(self._name(graph), its_graph=True)


def open_plan(plan: Plan, options: RunOptions) -> OnnxBackend:
    """The backend, after a check of every graph.

    Raises:
        UsageError: ``threads`` is below 1.
        PlanError: a graph is not what the plan's config says.
    """
    backend = OnnxBackend(plan, threads=options.threads)
    backend.check_graphs()
    return backend


class _Cache:
    """Buffers of one batch of clips, allocated once and updated in place."""

    def __init__(self, config: ModelConfig, lengths: I64, width: int, capacity: int) -> None:
        clips = len(lengths)
        rows = clips * width
        decoder = config.decoder
        self.width = width
        self.position = 0
        self.start = int(lengths.max())
        self.positions = np.repeat(lengths, width) - 1
        shape = (rows, decoder.n_head, capacity, decoder.head_dim)
        # Not zeroed: pages nothing is written to (prefixes of slots 1 ...) never become resident.
        self.buffers = [np.empty(shape, np.float32) for _ in range(2 * decoder.n_layer)]
        self.ancestry = np.zeros((clips, width, capacity), np.int32)
        self.mask = _mask(lengths, width, capacity)
        self.embeddings = np.empty((rows, 1, decoder.n_embd), np.float32)
        self.past = np.zeros(1, np.int32)
        self.logits = np.empty((rows, decoder.vocab_size), np.float32)
        self._binding: Any = None

    def bind(self, decoder: ort.InferenceSession) -> None:
        """Bind all that keeps its place; arrays are shared with ONNX Runtime, not copied."""
        self._binding = decoder.io_binding()
        self._last = np.zeros((len(self.logits), 1), np.int64)
        fixed = {
            "embeddings": self.embeddings,
            "last": self._last,
            "is_step": np.array(True),
            "past_length": self.past,
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

    def follow(self, parents: I64) -> None:
        """Make every row continue its parent: it inherits the ancestry and, last, the slot."""
        written = self.start + self.position  # where the coming step writes
        # Before the first step this names slot 0 for the prefix's last position: where it is.
        update_ancestry(self.ancestry, parents.reshape(-1, self.width), written - 1)
        self.position += 1
        self.positions += 1
        self.past[0] = written

    def run(self, decoder: ort.InferenceSession) -> F32:
        """One step over the bound buffers; the returned logits are overwritten by the next."""
        mask = np.ascontiguousarray(self.mask[:, : self.past[0] + 1])
        self._binding.bind_cpu_input("mask", mask)
        decoder.run_with_iobinding(self._binding)
        return self.logits


def _sized(value: Value, sizes: Sequence[int]) -> tuple[int, ...]:
    """Its shape, the open sizes filled in."""
    given = iter(sizes)
    return tuple(next(given) if size is None else size for size in value.shape)


def _mask(lengths: I64, width: int, capacity: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """[rows, capacity]: 0 between a shorter clip's prefix and the longest prefix's end."""
    position = np.arange(capacity)
    gap = (position >= lengths[:, None]) & (position < lengths.max())
    return np.repeat(1 - gap.astype(np.int32), width, axis=0)


def _prefill_feeds(config: ModelConfig, embeddings: F32, lengths: I64) -> Mapping[str, Any]:
    """Inputs of a prefill; the step's own inputs get the smallest shapes their types allow."""
    decoder = config.decoder
    nothing = np.zeros((1, decoder.n_head, 1, decoder.head_dim), np.float32)
    return {
        "embeddings": embeddings,
        "last": lengths[:, None] - 1,
        "is_step": np.array(False),
        "past_length": np.zeros(1, np.int32),
        "beam_width": np.ones(1, np.int32),
        "ancestry": np.zeros((1, 1, 1), np.int32),
        "mask": np.ones((1, 1), np.int32),
        **{f"{kind}_{i}": nothing for i in range(decoder.n_layer) for kind in ("key", "value")},
    }
