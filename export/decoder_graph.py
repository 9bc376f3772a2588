"""The decoder's ONNX graph: GPT-2's prefill and step in one graph, so weights are packed once.

Both share the matrix products. Only each layer's attention is inside an ``If`` on ``is_step``,
whose two branches use ONNX Runtime contrib operators:

* prefill: causal ``MultiHeadAttention`` over each row's own positions. Rows may be padded on the
  right, since no position attends to a later one.
* step: ``DecoderMaskedMultiHeadAttention`` over a key/value buffer that is updated in place. Row
  ``r`` of clip ``b`` reads position ``s`` from slot ``ancestry[b, r, s]`` of its clip, so the
  prefix is stored once per clip (slot 0) and beams are never reordered.

Inputs:

* ``embeddings`` [R, n, C] float32: token plus position embeddings, gathered by the caller
* ``last`` [R, 1] int64: the position whose logits are returned
* ``is_step`` [] bool: False for a prefill, True for a step (n = 1)
* ``past_length`` [1] int32: positions already in the buffer, including padding
* ``beam_width`` [1] int32: W, rows per clip; R = clips * W
* ``ancestry`` [clips, W, S] int32: the slot that each row reads each position from
* ``mask`` [R, past + 1] int32: 0 at the gap after a shorter prefix
* ``key_i``, ``value_i`` [R, H, S, D] float32: the buffers (not read by a prefill)

Outputs are ``logits`` [R, V], and ``new_key_i`` and ``new_value_i``: [R, H, n, D] after a prefill;
after a step the updated buffers, which the caller binds to the memory of the inputs.
"""

from typing import Any

import onnx
from onnx import TensorProto, helper

from pengi_rt.config.parts import DecoderConfig

OPSET = 20
IR_VERSION = 10
EPSILON = 1e-5  # GPT-2's LayerNorm


def decoder_graph(config: DecoderConfig) -> onnx.ModelProto:
    """Build the graph described above, with its weights as inputs named as in the state dict.

    :func:`pengi_rt.export.weight_table.bind` turns them into initializers that point into the plan.
    """
    return _Builder(config).model()


class _Builder:
    """Collects nodes; each method returns the name of its result."""

    def __init__(self, config: DecoderConfig) -> None:
        self.config = config
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, tuple[int, ...]] = {}
        self.outputs: list[onnx.ValueInfoProto] = []

    def model(self) -> onnx.ModelProto:
        x = "embeddings"
        for layer in range(self.config.n_layer):
            x = self._block(x, layer)
        last = self._node("GatherND", [x, "last"], batch_dims=1)
        hidden = self._norm(last, "decoder.ln_f")
        table = self._weight("decoder.wte.weight", (self.config.vocab_size, self.config.n_embd))
        logits = self._node("Gemm", [hidden, table], output="logits", transB=1)
        graph = helper.make_graph(
            self.nodes,
            "decoder",
            self._inputs(),
            [_float(logits, ["R", self.config.vocab_size]), *self.outputs],
        )
        graph.input.extend(_float(name, shape) for name, shape in self.weights.items())
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        info = helper.make_tensor_value_info
        return [
            _float("embeddings", ["R", "n", self.config.n_embd]),
            info("last", TensorProto.INT64, ["R", 1]),
            info("is_step", TensorProto.BOOL, []),
            info("past_length", TensorProto.INT32, [1]),
            info("beam_width", TensorProto.INT32, [1]),
            info("ancestry", TensorProto.INT32, ["clips", "W", "S"]),
            info("mask", TensorProto.INT32, ["R", "T"]),
            *(
                _float(f"{kind}_{layer}", ["R", self.config.n_head, "S", self.config.head_dim])
                for layer in range(self.config.n_layer)
                for kind in ("key", "value")
            ),
        ]

    def _block(self, x: str, layer: int) -> str:
        width = self.config.n_embd
        prefix = f"decoder.h.{layer}"
        qkv = self._linear(
            self._norm(x, f"{prefix}.ln_1"), f"{prefix}.attn.c_attn", width, 3 * width
        )
        attention = self._attention(qkv, layer)
        x = self._node("Add", [x, self._linear(attention, f"{prefix}.attn.c_proj", width, width)])
        hidden = self._linear(
            self._norm(x, f"{prefix}.ln_2"), f"{prefix}.mlp.c_fc", width, 4 * width
        )
        hidden = self._node("Gelu", [hidden], approximate="tanh")
        return self._node(
            "Add", [x, self._linear(hidden, f"{prefix}.mlp.c_proj", 4 * width, width)]
        )

    def _attention(self, qkv: str, layer: int) -> str:
        q, k, v = (f"{name}_{layer}" for name in ("q", "k", "v"))
        self.nodes.append(helper.make_node("Split", [qkv], [q, k, v], axis=-1, num_outputs=3))
        keys, values = f"new_key_{layer}", f"new_value_{layer}"
        attention = f"attention_{layer}"
        self.nodes.append(
            helper.make_node(
                "If",
                ["is_step"],
                [attention, keys, values],
                then_branch=self._step_branch(q, k, v, layer),
                else_branch=self._prefill_branch(q, k, v, layer),
            )
        )
        shape = ["R", self.config.n_head, "length", self.config.head_dim]
        self.outputs += [_float(keys, shape), _float(values, shape)]
        return attention

    def _step_branch(self, q: str, k: str, v: str, layer: int) -> onnx.GraphProto:
        names = [f"step_{part}_{layer}" for part in ("attention", "key", "value")]
        buffers = [f"key_{layer}", f"value_{layer}"]
        node = helper.make_node(
            "DecoderMaskedMultiHeadAttention",
            [q, k, v, "mask", "", *buffers, "past_length", "beam_width", "ancestry"],
            names,
            domain="com.microsoft",
            num_heads=self.config.n_head,
            past_present_share_buffer=1,
        )
        return self._branch("step", [node], names)

    def _prefill_branch(self, q: str, k: str, v: str, layer: int) -> onnx.GraphProto:
        names = [f"prefill_{part}_{layer}" for part in ("attention", "key", "value")]
        nodes = [
            helper.make_node(
                "MultiHeadAttention",
                [q, k, v],
                [names[0]],
                domain="com.microsoft",
                num_heads=self.config.n_head,
                unidirectional=1,
            )
        ]
        split = f"prefill_heads_{layer}"
        dims = helper.make_tensor(
            split, TensorProto.INT64, [4], [0, 0, self.config.n_head, self.config.head_dim]
        )
        nodes.append(helper.make_node("Constant", [], [split], value=dims))
        for source, name in ((k, names[1]), (v, names[2])):
            nodes.append(helper.make_node("Reshape", [source, split], [f"{name}_split"]))
            nodes.append(
                helper.make_node("Transpose", [f"{name}_split"], [name], perm=[0, 2, 1, 3])
            )
        return self._branch("prefill", nodes, names)

    def _branch(
        self, name: str, nodes: list[onnx.NodeProto], outputs: list[str]
    ) -> onnx.GraphProto:
        shape = ["R", self.config.n_head, "length", self.config.head_dim]
        values = [_float(outputs[0], ["R", "n", self.config.n_embd])]
        values += [_float(output, shape) for output in outputs[1:]]
        return helper.make_graph(nodes, name, [], values)

    def _norm(self, x: str, name: str) -> str:
        width = (self.config.n_embd,)
        parameters = [self._weight(f"{name}.{part}", width) for part in ("weight", "bias")]
        return self._node("LayerNormalization", [x, *parameters], axis=-1, epsilon=EPSILON)

    def _linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        """GPT-2's Conv1D: the weight is stored [inputs, outputs]."""
        product = self._node("MatMul", [x, self._weight(f"{name}.weight", (inputs, outputs))])
        return self._node("Add", [product, self._weight(f"{name}.bias", (outputs,))])

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        self.weights[name] = shape
        return name

    def _node(self, op: str, inputs: list[str], *, output: str = "", **attributes: Any) -> str:
        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output


def _float(name: str, shape: list[Any] | tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
