"""The contents of a Pengi plan: the rules of its three graphs, and its embedding tables."""

from collections.abc import Iterator, Mapping

from pengi_rt.config.family import Table
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.plan.graph import BOOL, FLOAT32, INT32, INT64, GraphRules, Value
from pengi_rt.system.quote import one_line

ENCODER_OPERATORS = frozenset([
    "Add", "ArgMax", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear",
    "Div", "Equal", "Expand", "Gather", "GatherElements", "Gelu", "Gemm", "Identity",
    "LayerNormalization", "LessOrEqual", "Log", "MatMul", "Mod", "Mul", "Pad", "Range",
    "ReduceL2", "ReduceMean", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax",
    "Squeeze", "Tanh", "Transpose", "Unsqueeze", "Where",
])  # fmt: skip
DECODER_OPERATORS = frozenset([
    "Add", "Cast", "DequantizeLinear", "GatherND", "Gelu", "Gemm", "If", "LayerNormalization",
    "MatMul", "Split",
])  # fmt: skip


def audio_graph(config: PengiConfig) -> GraphRules:
    """The audio graph: windows to embeddings and prefixes."""
    wave = Value("wave", FLOAT32, (None, config.clip_samples))
    gives = _encoded(config, (None, config.d_proj), config.audio_mapper.prefix_length)
    return _encoder(config, wave, gives)


def text_graph(config: PengiConfig) -> GraphRules:
    """The text graph: prompts to embeddings and prefixes."""
    text, width = config.text, config.decoder.n_embd
    length = text.max_length if text.kind == "token_embedding" else None
    vectors = (None, config.d_proj) if text.kind == "clip" else (None, length, width)
    rows = None if text.kind == "decoder" else config.text_mapper.prefix_length
    return _encoder(config, Value("ids", INT64, (None, length)), _encoded(config, vectors, rows))


def decoder_graph(config: PengiConfig) -> GraphRules:
    """The decoder graph: prefixes, or one more token, to logits; keys and values in buffers."""
    return GraphRules(
        takes=list(_decoder_inputs(config)),
        gives=list(_decoder_outputs(config)),
        operators=DECODER_OPERATORS,
        layers=_layers(config),
        table_samples=config.mel.n_fft,
        heads=config.decoder.n_head,
    )


def parts(config: PengiConfig) -> Mapping[str, tuple[str, ...]]:
    """The parts that the graphs are: only CLIP's tower gives a text one embedding."""
    text = ("prompt", "text") if config.text.kind == "clip" else ("prompt",)
    return {"audio": ("audio",), "text": text, "decoder": ("decoder",)}


def tables(config: PengiConfig) -> Mapping[str, Table]:
    """The decoder's embeddings of tokens and of positions."""
    decoder = config.decoder
    tokens, positions = (decoder.vocab_size, decoder.n_embd), (decoder.n_positions, decoder.n_embd)
    return {
        "tokens": Table("decoder.wte.weight", tokens, int8=True),
        "positions": Table("decoder.wpe.weight", positions, int8=False),
    }


def summary(config: PengiConfig) -> Mapping[str, str]:
    """The lines that ``inspect`` prints about the model."""
    decoder, generation = config.decoder, config.generation
    return {
        "model": f"{config.clip_seconds:g} s clips at {config.sample_rate} Hz, prefix "
        f"{config.audio_mapper.prefix_length} audio + "
        f"{config.prompt_rows(config.text.max_length)} text, "
        f"text {config.text.kind}, decoder {decoder.n_layer} layers of {decoder.n_embd}, "
        f"{decoder.vocab_size} tokens, {decoder.n_positions} positions",
        "defaults": f"prompt {one_line(repr(generation.prompt))}, beam size "
        f"{generation.beam_size}, {generation.max_new_tokens} new tokens, temperature "
        f"{generation.temperature:g}",
    }


def _encoder(config: PengiConfig, taken: Value, gives: list[Value]) -> GraphRules:
    return GraphRules(
        takes=[taken],
        gives=gives,
        operators=ENCODER_OPERATORS,
        layers=_layers(config),
        table_samples=config.mel.n_fft,
    )


def _encoded(config: PengiConfig, vectors: tuple[int | None, ...], rows: int | None) -> list[Value]:
    prefix = (None, rows, config.decoder.n_embd)
    return [Value("joint_embedding", FLOAT32, vectors), Value("prefix", FLOAT32, prefix)]


def _layers(config: PengiConfig) -> int:
    mappers = config.audio_mapper.num_layers + config.text_mapper.num_layers
    return sum(config.htsat.depths) + mappers + config.text.num_layers + config.decoder.n_layer


def _decoder_inputs(config: PengiConfig) -> Iterator[Value]:
    decoder = config.decoder
    yield Value("embeddings", FLOAT32, (None, None, decoder.n_embd))
    yield Value("last", INT64, (None, 1))
    yield Value("is_step", BOOL, ())
    yield Value("past_length", INT32, (1,))
    yield Value("beam_width", INT32, (1,))
    yield Value("ancestry", INT32, (None, None, None))
    yield Value("mask", INT32, (None, None))
    yield from _buffers(config, "")


def _decoder_outputs(config: PengiConfig) -> Iterator[Value]:
    yield Value("logits", FLOAT32, (None, config.decoder.vocab_size))
    yield from _buffers(config, "new_")


def _buffers(config: PengiConfig, before: str) -> Iterator[Value]:
    decoder = config.decoder
    shape = (None, decoder.n_head, None, decoder.head_dim)
    for layer in range(decoder.n_layer):
        for kind in ("key", "value"):
            yield Value(f"{before}{kind}_{layer}", FLOAT32, shape)
