"""The kernels of a decode step in the middle of an answer, and the same work in PyTorch."""

from functools import partial
from typing import Any, cast

import torch
from gpu_case import Case, Rival, Setting, Work, in_float64, size
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.kernels.add_norm import Norm, Stream, add_norm
from pengi_rt.kernels.beam_attention import Segments, beam_attention
from pengi_rt.kernels.beam_history import BeamHistory
from pengi_rt.kernels.beam_step import beam_step
from pengi_rt.kernels.embed_rows import Embeddings
from pengi_rt.kernels.lm_head import Head, lm_head
from pengi_rt.kernels.small_linear import linear_partials, norm_gelu_linear, norm_qkv
from pengi_rt.kernels.small_linear_launch import KeyValueCache, Linear, splits
from pengi_rt.kernels.top_tokens import TopTokens, top_tokens
from pengi_rt.kernels.vocab_tiles import VocabTiles, vocab_tiles_reference
from pengi_rt.models.stored_weights import quantize

NO_STOP = -1


def make_linear(setting: Setting, depth: int, columns: int) -> Linear:
    weight = setting.single(depth, columns, scale=depth**-0.5)
    bias = setting.single(columns)
    if setting.kind != "int8":
        return Linear(weight.to(setting.dtype), bias)
    values, scale = quantize(weight, dim=0)
    return Linear(values, bias, scale)


def make_stream(setting: Setting) -> Stream:
    """A stream as an MLP's projection leaves it."""
    C = setting.config.decoder.n_embd
    weight = torch.empty(4 * C, C, dtype=stored(setting), device="meta")
    due = setting.single(splits(setting.rows, weight), setting.rows, C, scale=0.3)
    residual, bias = setting.single(setting.rows, C), setting.single(C)
    return Stream(residual, bias, due, torch.empty_like(residual))


def make_norm(setting: Setting) -> Norm:
    C = setting.config.decoder.n_embd
    return Norm(setting.single(C), setting.single(C))


def stored(setting: Setting) -> torch.dtype:
    """The dtype that weights are stored in."""
    return torch.int8 if setting.kind == "int8" else setting.dtype


def summed(stream: Stream) -> tuple[Tensor, Tensor]:
    """The stream, and the output of PyTorch's last layer, which must still be added to it."""
    assert stream.partials is not None
    assert stream.bias is not None
    return stream.residual, stream.partials.sum(0) + stream.bias


def product(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor) -> Tensor:
    """``x`` times a weight [K, N] in its dtype, or in int8."""
    if scale is None:
        return torch.addmm(bias.to(x.dtype), x, weight)
    return (x @ weight.to(x.dtype)) * scale.to(x.dtype) + bias.to(x.dtype)


def normed(residual: Tensor, due: Tensor, gain: Tensor, offset: Tensor, like: Tensor) -> Tensor:
    """The normalized sum, in the dtype of ``like``."""
    x = residual + due
    return F.layer_norm(x, x.shape[-1:], gain, offset).to(like.dtype)


def add(setting: Setting) -> Work:
    C = setting.config.decoder.n_embd
    stream, norm, out = make_stream(setting), make_norm(setting), setting.unwritten(setting.rows, C)
    rival = Rival(normed, (*summed(stream), norm.weight, norm.bias, out.clone()))
    return Work(
        kernel=lambda: add_norm(stream, norm, out),
        result=lambda: out,
        exact=lambda: in_float64(rival),
        rivals={"torch": rival},
        nbytes=size(*stream, out),
        flop=0.0,
    )


def torch_norm_qkv(
    residual: Tensor,
    due: Tensor,
    gain: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    keys: Tensor,
    values: Tensor,
    slot: Tensor,
) -> Tensor:
    y = product(normed(residual, due, gain, offset, keys), weight, scale, bias)
    _, k, v = y.chunk(3, dim=1)
    clips, beams, heads, _, width = keys.shape
    keys.index_copy_(3, slot, k.view(clips, beams, heads, 1, width))
    values.index_copy_(3, slot, v.view(clips, beams, heads, 1, width))
    return y


def qkv(setting: Setting) -> Work:
    config, t = setting.config.decoder, setting.steps // 2
    C, H = config.n_embd, config.n_head
    stream, norm, layer = make_stream(setting), make_norm(setting), make_linear(setting, C, 3 * C)
    slots = (setting.batch, setting.beams, H, setting.steps, C // H)
    keys, values = setting.unwritten(*slots), setting.unwritten(*slots)
    position = torch.full((setting.batch,), t, dtype=torch.int32, device=setting.device)
    out, scratch = setting.unwritten(setting.rows, C), setting.unwritten(setting.rows, C)
    slot = torch.tensor([t], device=setting.device)
    caches = torch.zeros_like(keys), torch.zeros_like(values)
    rival = Rival(torch_norm_qkv, (*summed(stream), norm.weight, norm.bias, *layer, *caches, slot))

    def result() -> Tensor:
        appended = [x[:, :, :, t].reshape(setting.rows, C) for x in (keys, values)]
        return torch.cat([out, *appended], dim=1)

    return Work(
        kernel=lambda: norm_qkv(
            stream, norm, layer, KeyValueCache(keys, values, position), out=out, normed=scratch
        ),
        result=result,
        exact=lambda: in_float64(rival),
        rivals={"torch": rival},
        nbytes=size(*layer, *stream[:3], stream.out) + 3 * size(out),
        flop=2.0 * setting.rows * layer.weight.numel(),
    )


def torch_norm_gelu(
    residual: Tensor,
    due: Tensor,
    gain: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    like: Tensor,
) -> Tensor:
    y = product(normed(residual, due, gain, offset, like), weight, scale, bias)
    return F.gelu(y, approximate="tanh")


def gelu(setting: Setting) -> Work:
    C = setting.config.decoder.n_embd
    stream, norm, layer = make_stream(setting), make_norm(setting), make_linear(setting, C, 4 * C)
    out, scratch = setting.unwritten(setting.rows, 4 * C), setting.unwritten(setting.rows, C)
    rival = Rival(torch_norm_gelu, (*summed(stream), norm.weight, norm.bias, *layer, out))
    return Work(
        kernel=lambda: norm_gelu_linear(stream, norm, layer, out=out, normed=scratch),
        result=lambda: out,
        exact=lambda: in_float64(rival),
        rivals={"torch": rival},
        nbytes=size(*layer, *stream[:3], stream.out, out),
        flop=2.0 * setting.rows * layer.weight.numel(),
    )


def partials(times: int, setting: Setting) -> Work:
    """A projection from ``times`` the width to the width."""
    C = setting.config.decoder.n_embd
    layer = make_linear(setting, times * C, C)
    x = setting.random(setting.rows, times * C)
    count = splits(setting.rows, layer.weight)
    out = setting.unwritten(count, setting.rows, C, dtype=torch.float32)
    rival = Rival(product, (x, layer.weight, layer.scale, layer.bias))
    return Work(
        kernel=lambda: linear_partials(x, layer, out=out),
        result=lambda: out.sum(0) + layer.bias,
        exact=lambda: in_float64(rival),
        rivals={"torch": rival},
        nbytes=size(*layer, x, out),
        flop=2.0 * setting.rows * layer.weight.numel(),
    )


def torch_gathered(
    q: Tensor,
    prefix_keys: Tensor,
    prefix_values: Tensor,
    keys: Tensor,
    values: Tensor,
    ancestry: Tensor,
) -> Tensor:
    """Gather histories through the ancestry table, and repeat prefixes for every beam."""
    clips, beams, heads, _, width = keys.shape
    t = ancestry.shape[2]
    index = ancestry[:, :, None, :, None].expand(-1, -1, heads, -1, width)

    def whole(prefix: Tensor, own: Tensor) -> Tensor:
        known = own[:, :, :, :t].gather(1, index)
        repeated = prefix[:, None].expand(-1, beams, -1, -1, -1)
        return torch.cat([repeated, known, own[:, :, :, t : t + 1]], dim=3).flatten(0, 1)

    k, v = whole(prefix_keys, keys), whole(prefix_values, values)
    y = F.scaled_dot_product_attention(q.view(clips * beams, heads, 1, width), k, v)
    return y.flatten(1)


def torch_attention(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention over caches that hold every row's whole history, as if reordering were free."""
    rows, heads, _, width = keys.shape
    y = F.scaled_dot_product_attention(q.view(rows, heads, 1, width), keys, values)
    return y.flatten(1)


def attention(setting: Setting) -> Work:
    config, t = setting.config.decoder, setting.steps // 2
    B, W, H, D = setting.batch, setting.beams, config.n_head, config.n_embd // config.n_head
    P, T = setting.config.prefix_length, setting.steps
    whole = torch.int32
    ancestry = torch.randint(W, (T + 1, B, W, T), dtype=whole, device=setting.device)
    prefix = setting.random(B, H, P, D), setting.random(B, H, P, D)
    own = setting.random(B, W, H, T, D), setting.random(B, W, H, T, D)
    lengths = torch.full((B,), P, dtype=whole, device=setting.device)
    position = torch.full((B,), t, dtype=whole, device=setting.device)
    segments = Segments(*prefix, lengths, *own, ancestry, position)
    q, out = setting.random(B * W, H * D), setting.unwritten(B * W, H * D)
    gathered = Rival(torch_gathered, (q, *prefix, *own, ancestry[t, :, :, :t].long()))
    ready = [setting.random(B * W, H, P + t + 1, D) for _ in "kv"]
    return Work(
        kernel=lambda: beam_attention(q, segments, out=out),
        result=lambda: out,
        exact=lambda: in_float64(gathered),
        rivals={"gather, sdpa": gathered, "sdpa alone": Rival(torch_attention, (q, *ready))},
        nbytes=size(*prefix, q, out) + size(*own) * (t + 1) / T + size(ancestry) * t / T / (T + 1),
        flop=4.0 * B * W * H * D * (P + t + 1),
    )


def torch_head(
    residual: Tensor,
    due: Tensor,
    gain: Tensor,
    offset: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    like: Tensor,
) -> Tensor:
    x = normed(residual, due, gain, offset, like)
    if scale is None:
        return x @ weight.T
    return (x @ weight.to(x.dtype).T) * scale.to(x.dtype)


def head(setting: Setting) -> Work:
    config = setting.config.decoder
    V, C, R = config.vocab_size, config.n_embd, setting.rows
    stream, norm = make_stream(setting), make_norm(setting)
    values = setting.single(V, C, scale=C**-0.5)
    int8 = setting.kind == "int8"
    layer = Head(*quantize(values, dim=1)) if int8 else Head(values.to(setting.dtype))
    temperature = torch.ones(1, dtype=torch.float64, device=setting.device)
    tiles = VocabTiles.empty(R, V, setting.beams, setting.device)
    scratch = setting.unwritten(R, C)
    rival = Rival(torch_head, (*summed(stream), norm.weight, norm.bias, *layer, scratch.clone()))

    def launch(logits: Tensor | None = None) -> None:
        lm_head(stream, norm, layer, temperature, hidden=scratch, out=tiles, logits=logits)

    def result() -> Tensor:
        kept = [x.clone() for x in tiles]
        launch(logits := setting.unwritten(R, V, dtype=torch.float32))
        assert all(map(torch.equal, kept, tiles)), "the tiles depend on whether logits are kept"
        expected = vocab_tiles_reference(
            logits, temperature, VocabTiles.empty(R, V, setting.beams, setting.device)
        )
        assert torch.equal(tiles.candidates, expected.candidates)
        return logits

    return Work(
        kernel=launch,
        result=result,
        exact=lambda: in_float64(rival),
        rivals={"torch, to logits": rival},
        nbytes=size(*layer, *stream[:3], stream.out, *tiles),
        flop=2.0 * R * layer.weight.numel(),
    )


def torch_top_tokens(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    best = logits.log_softmax(dim=-1).topk(count)
    return best.values, best.indices


def top(setting: Setting) -> Work:
    V, R, W = setting.config.decoder.vocab_size, setting.rows, setting.beams
    temperature = torch.ones(1, dtype=torch.float64, device=setting.device)
    logits = setting.single(R, V, scale=3)
    empty = VocabTiles.empty(R, V, W, setting.device)
    tiles = vocab_tiles_reference(logits, temperature, empty)
    out = TopTokens.empty(R, W, setting.device)
    rival = Rival(torch_top_tokens, (logits, W))
    return Work(
        kernel=lambda: top_tokens(tiles, temperature, V, out),
        result=lambda: out.log_probs,
        exact=lambda: in_float64(rival),
        rivals={"torch, from logits": rival},
        nbytes=size(*tiles, *out),
        flop=0.0,
    )


def torch_beams(
    log_probs: Tensor,
    candidates: Tensor,
    scores: Tensor,
    lengths: Tensor,
    finished: Tensor,
    ancestry: Tensor,
    table: Tensor,
    place: Tensor,
) -> tuple[Tensor, ...]:
    """From every beam's best tokens to the next beams, without looking at ties."""
    offered = torch.where(finished[..., None], 0.0, log_probs)
    count = lengths + ~finished
    best = ((scores[..., None] + offered) / count[..., None]).flatten(1).topk(scores.shape[1])
    source = best.indices // log_probs.shape[2]
    token = candidates.flatten(1).gather(1, best.indices)
    count = count.gather(1, source)
    over = finished.gather(1, source) | (token == NO_STOP)
    known = ancestry.gather(1, source[..., None].expand_as(ancestry))
    residual = table[token].float() + place.float()
    return best.values, source, token, best.values * count, count, over, known, residual


def step(setting: Setting) -> Work:
    config, device = setting.config.decoder, setting.device
    B, W, T, C = setting.batch, setting.beams, setting.steps, config.n_embd
    t = T // 2
    history = BeamHistory.empty(T, B, W, device)
    for buffer in history:
        buffer.zero_()
    history.scores[t].copy_(-torch.rand(B, W, device=device) * 20)
    history.lengths[t] = t
    history.ancestry.copy_(torch.randint(W, history.ancestry.shape, device=device))
    log_probs = -torch.rand(B * W, W, device=device, dtype=torch.float64).sort(dim=1).values * 5
    # All different, so that no beam offers a token twice.
    tokens = torch.arange(B * W * W, device=device).view(B * W, W) % config.vocab_size
    ends = torch.tensor([NO_STOP, 0], dtype=torch.int32, device=device)
    table = setting.random(config.vocab_size, C)
    places, lengths = setting.random(config.n_positions, C), torch.full_like(history.done, 8)
    residual = setting.unwritten(B * W, C, dtype=torch.float32)
    best = TopTokens(log_probs, tokens.int())
    embeddings = Embeddings(table, places, lengths)
    known = history.ancestry[t, ..., :t].clone()
    before = (history.scores[t].clone(), history.lengths[t].clone(), history.finished[t].bool())
    offers = (log_probs.view(B, W, W), tokens.view(B, W, W))
    rival = Rival(torch_beams, (*offers, *before, known, table, places[8 + t + 1]))
    return Work(
        kernel=lambda: beam_step(best, history, ends, embeddings, residual),
        result=lambda: history.averages[t + 1],
        exact=lambda: in_float64(rival),
        rivals={"torch, from candidates": rival},
        nbytes=size(*best, residual) + size(history.ancestry) * 2 / (T + 1) + B * W * C * 2,
        flop=0.0,
        before=lambda: history.position.fill_(t),
    )


def step_cases() -> tuple[Case, ...]:
    """In the order of a step; ``add_norm`` runs apart with more than 8 rows only."""
    both = ("fp16", "int8")
    return (
        Case("add_norm", add),
        Case("small_linear norm, QKV, append", qkv, both),
        Case("beam_attention", attention),
        Case("small_linear attention projection", cast("Any", partial(partials, 1)), both),
        Case("small_linear norm, GELU", gelu, both),
        Case("small_linear MLP projection", cast("Any", partial(partials, 4)), both),
        Case("lm_head", head, both),
        Case("top_tokens", top),
        Case("beam_step", step),
    )
