"""The fast CPU backend: our own GPT-2 (``kernels/csrc/gpt2.cpp``) after ONNX Runtime's encoders.

The decoder's weights are packed when the plan is opened, in the precision of the arithmetic; the
plan's own are not kept in memory. A clip's prefix is stored once for all its rows, and rows find
their history through a table of ancestors, so keys and values never move.
"""

import os

import numpy as np

import pengi_rt._core as core
from pengi_rt.backends.onnx import Graph, OnnxEncoders
from pengi_rt.backends.protocol import F32, I64, Cache
from pengi_rt.config.backend import RunOptions
from pengi_rt.config.family import FamilyConfig, generative, tables_of
from pengi_rt.config.parts import DecoderConfig
from pengi_rt.errors import BackendError
from pengi_rt.kernels.packed_linear import instruction_sets
from pengi_rt.plan.float32_view import embedding_tables, float32_view
from pengi_rt.plan.reader import Plan
from pengi_rt.system.memory import return_freed_memory
from pengi_rt.system.threads import checked_threads

DECODER = "decoder"
"""The decoder's graph, which is not run, and the prefix of its tensors."""


class NativeBackend:
    """Runs a plan on the CPU: the decoder in float32, bfloat16 or int8, the encoders in float32."""

    name = "native"
    device_search = None

    def __init__(
        self,
        plan: Plan,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        instructions: str = "",
    ) -> None:
        """Pack the decoder's weights.

        Args:
            plan: an open plan.
            precision: of the decoder's weights; see :mod:`pengi_rt.kernels.packed_linear`.
            threads: by default the number that the process may use.
            instructions: one of :func:`pengi_rt.kernels.packed_linear.instruction_sets`; by default
                the one that PENGI_RT_ISA names, or the best.

        Raises:
            UsageError: ``threads`` is below 1.
            BackendError: this CPU does not have these instructions.
            PlanError: the plan lacks a tensor of the decoder.
        """
        self.plan = plan
        self.config: FamilyConfig = plan.config
        self.precision = precision
        self.threads = checked_threads(threads)
        graphs = plan.manifest.graphs
        self.graphs = {name: Graph(plan, name, self.threads) for name in graphs if name != DECODER}
        self.encoders = OnnxEncoders(self.graphs)
        self.decoder: NativeDecoder | None = None
        if DECODER in graphs:
            model = packed_decoder(plan, precision, self.threads, instructions)
            self.decoder = NativeDecoder(plan, model)

    def close(self) -> None:
        """Drop the packed weights; the caller still owns the plan."""
        for graph in self.graphs.values():
            graph.close()
        self.decoder = None


def open_plan(plan: Plan, options: RunOptions) -> NativeBackend:
    """The backend; all graphs that it runs are checked before the first request, which is cheap.

    Raises:
        UsageError: ``threads`` is below 1.
        PlanError: a graph does not fit the model in the config, or a tensor is missing.
    """
    backend = NativeBackend(plan, precision=options.precision, threads=options.threads)
    for graph in backend.graphs.values():
        graph.check()
    return backend


class NativeDecoder:
    """GPT-2, as :class:`pengi_rt.backends.protocol.Decoder`. Embeddings are gathered here."""

    def __init__(self, plan: Plan, model: core.Gpt2) -> None:
        self.config: DecoderConfig = generative(plan.config).decoder
        self._model = model
        self._tokens, self._positions = embedding_tables(plan)

    def embed_tokens(self, ids: I64) -> F32:
        return self._tokens[ids]

    def new_cache(self, **sizes: int) -> Cache:
        return NativeCache(self.config, self._model, **sizes)

    def prefill(self, cache: Cache, slots: I64, prefix: F32, lengths: I64) -> F32:
        assert isinstance(cache, NativeCache)
        cache.admit(slots, lengths)
        rows = [
            clip[:length] + self._positions[:length]
            for clip, length in zip(prefix, lengths, strict=True)
        ]
        return self._model.prefill(
            cache.buffers, slots.tolist(), lengths.tolist(), np.concatenate(rows)
        )

    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        assert isinstance(cache, NativeCache)
        cache.check_room()
        positions = np.repeat(cache.lengths + cache.generated, cache.width)
        rows = self._tokens[tokens.reshape(-1)] + self._positions[positions]
        parents = np.ascontiguousarray(parents, np.int64)
        state = (cache.lengths, cache.generated)
        self._model.step(cache.buffers, rows, parents, *state, cache.logits)
        cache.advance()
        return cache.logits.reshape(cache.slots, cache.width, -1)


class NativeCache(Cache):
    """Keys, values and ancestors in native memory, and the logits of the last step."""

    def __init__(self, config: DecoderConfig, model: core.Gpt2, **sizes: int) -> None:
        super().__init__(**sizes)
        self.buffers = model.new_cache(**sizes)
        self.logits = np.empty((self.slots * self.width, config.vocab_size), np.float32)


def packed_decoder(plan: Plan, precision: str, threads: int, instructions: str) -> core.Gpt2:
    """The decoder of a plan, packed layer by layer.

    Raises:
        BackendError: this CPU does not have these instructions, or starts no more threads.
        PlanError: the plan lacks a tensor of the decoder.
    """
    config = generative(plan.config).decoder
    model = _empty_model(config, precision, threads, instructions)

    def pair(name: str) -> tuple[F32, F32]:
        weight, bias = (f"{DECODER}.{name}.{part}" for part in ("weight", "bias"))
        return float32_view(plan, weight)[...], float32_view(plan, bias)[...]

    for layer in range(config.n_layer):
        model.add_layer(
            norm_1=pair(f"h.{layer}.ln_1"),
            qkv=pair(f"h.{layer}.attn.c_attn"),
            projection=pair(f"h.{layer}.attn.c_proj"),
            norm_2=pair(f"h.{layer}.ln_2"),
            up=pair(f"h.{layer}.mlp.c_fc"),
            down=pair(f"h.{layer}.mlp.c_proj"),
        )
    tokens = tables_of(plan.config)["tokens"].tensor
    model.set_head(pair("ln_f"), float32_view(plan, tokens)[...])
    plan.release_pages()
    return_freed_memory()
    return model


def _empty_model(
    config: DecoderConfig, precision: str, threads: int, instructions: str
) -> core.Gpt2:
    try:
        return core.Gpt2(
            width=config.n_embd,
            heads=config.n_head,
            vocab=config.vocab_size,
            precision=precision,
            instructions=instructions or os.environ.get("PENGI_RT_ISA", ""),
            threads=threads,
        )
    except ValueError as error:
        known = ", ".join(instruction_sets())
        raise BackendError(f"{error}: set PENGI_RT_ISA to one of {known}, or unset it") from None
    except RuntimeError as error:  # std::system_error
        raise BackendError(f"{threads} threads cannot be started here: {error}") from None
