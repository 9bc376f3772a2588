"""The fast CPU backend: our own GPT-2 (``kernels/csrc/gpt2.cpp``), ONNX Runtime's encoders."""

from collections.abc import Callable

import numpy as np

import pengi_rt._core as core
from pengi_rt.backends.onnx import Graph, OnnxEncoders
from pengi_rt.backends.protocol import F32, I64, Cache
from pengi_rt.backends.registry import RunOptions
from pengi_rt.config.model import DecoderConfig, ModelConfig
from pengi_rt.plan.float32_view import Float32View, float32_view
from pengi_rt.plan.reader import Plan
from pengi_rt.system.memory import return_freed_memory
from pengi_rt.system.threads import checked_threads


class NativeBackend:
    """Runs a plan on the CPU."""

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
        self.plan = plan
        self.config: ModelConfig = plan.config
        self.precision = precision
        self.threads = checked_threads(threads)
        encoders = [name for name in plan.manifest.graphs if name != "decoder"]
        self.graphs = {name: Graph(plan, name, self.threads) for name in encoders}
        self.encoders = OnnxEncoders(self.graphs)
        self.decoder = NativeDecoder(plan, precision, self.threads, instructions)

    def close(self) -> None:
        for graph in self.graphs.values():
            graph.close()
        self.decoder.close()


def open_plan(plan: Plan, options: RunOptions) -> NativeBackend:
    return NativeBackend(plan, precision=options.precision, threads=options.threads)


class NativeDecoder:
    """GPT-2, as :class:`pengi_rt.backends.protocol.Decoder`."""

    def __init__(self, plan: Plan, precision: str, threads: int, instructions: str) -> None:
        self.config = plan.config.decoder
        self._tokens: F32 | Float32View = float32_view(plan, "decoder.wte.weight")
        self._positions: F32 | Float32View = float32_view(plan, "decoder.wpe.weight")
        self._model = _packed(plan, self.config, precision, threads, instructions)
        plan.release_pages()
        return_freed_memory()

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
        logits: F32 = self._model.prefill(
            cache.buffers, slots.tolist(), lengths.tolist(), np.concatenate(rows)
        )
        return logits

    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        assert isinstance(cache, NativeCache)
        cache.check_room()
        positions = np.repeat(cache.lengths + cache.generated, cache.width)
        rows = self._tokens[tokens.reshape(-1)] + self._positions[positions]
        self._model.step(
            cache.buffers,
            rows,
            np.ascontiguousarray(parents, np.int64),
            cache.lengths,
            cache.generated,
            cache.logits,
        )
        cache.advance()
        return cache.logits.reshape(cache.slots, cache.width, -1)

    def close(self) -> None:
        del self._model


class NativeCache(Cache):
    """Keys, values and ancestry in native memory."""

    def __init__(self, config: DecoderConfig, model: core.Gpt2, **sizes: int) -> None:
        super().__init__(**sizes)
        self.buffers = model.new_cache(**sizes)
        self.logits = np.empty((self.slots * self.width, config.vocab_size), np.float32)


def _packed(
    plan: Plan, config: DecoderConfig, precision: str, threads: int, instructions: str
) -> core.Gpt2:
    model = core.Gpt2(
        width=config.n_embd,
        heads=config.n_head,
        vocab=config.vocab_size,
        precision=precision,
        instructions=instructions,
        threads=threads,
    )

    def pair(name: str) -> tuple[F32, F32]:
        weight, bias = (float32_view(plan, f"decoder.{name}.{part}") for part in ("weight", "bias"))
        return weight[...], bias[...]

    for layer in range(config.n_layer):
        model.add_layer(
            norm_1=pair(f"h.{layer}.ln_1"),
            qkv=pair(f"h.{layer}.attn.c_attn"),
            projection=pair(f"h.{layer}.attn.c_proj"),
            norm_2=pair(f"h.{layer}.ln_2"),
            up=pair(f"h.{layer}.mlp.c_fc"),
            down=pair(f"h.{layer}.mlp.c_proj"),
        )
    model.set_head(pair("ln_f"), float32_view(plan, "decoder.wte.weight")[...])
    return model
