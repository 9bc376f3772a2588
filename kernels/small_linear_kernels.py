r"""The two kernels of :mod:`pengi_rt.kernels.small_linear`.

.. math:: y = \operatorname{epilogue}\bigl(s \odot (x W) + b\bigr)

Shapes: input :math:`x` [M, K], or the layer norm of the residual stream; weights :math:`W` [K, N],
with float32 scales :math:`s` [N] if they are int8; bias :math:`b` [N]. All sums are float32, in an
order that depends on the shapes alone.
"""

import triton
import triton.language as tl

from pengi_rt.kernels.add_norm import stream_tile


@triton.jit
def epilogue_kernel(
    acc: tl.tensor,
    o_m: tl.tensor,
    o_n: tl.tensor,
    p_scale: tl.tensor,
    p_bias: tl.tensor,
    p_out: tl.tensor,
    p_keys: tl.tensor,
    p_values: tl.tensor,
    p_position: tl.tensor,
    M: tl.tensor,
    W: tl.tensor,
    T: tl.tensor,
    N: tl.constexpr,
    D: tl.constexpr,
    EPILOGUE: tl.constexpr,
) -> None:
    """Apply the epilogue to float32 sums at rows ``o_m`` and columns ``o_n``, and store them."""
    m_n = o_n < N
    mask = (o_m < M)[:, None] & m_n[None, :]
    if p_scale is not None:
        acc = acc * tl.load(p_scale + o_n, mask=m_n, other=0.0)[None, :]
    if EPILOGUE == "partials":
        i_split = tl.program_id(2)
        tl.store(p_out + (i_split * M + o_m)[:, None] * N + o_n[None, :], acc, mask=mask)
    else:
        acc += tl.load(p_bias + o_n, mask=m_n, other=0.0)[None, :]
        if EPILOGUE == "gelu":
            # x / 2 (1 + tanh(u / 2)) = x sigmoid(u), which is 0 below -80, where exp overflows.
            u = 1.5957691216057308 * (acc + 0.044715 * acc * acc * acc)
            acc = acc * tl.sigmoid(tl.maximum(u, -80.0))
        y = acc.to(p_out.dtype.element_ty)
        if EPILOGUE == "qkv":
            C: tl.constexpr = N // 3
            tl.store(p_out + o_m[:, None] * C + o_n[None, :], y, mask=mask & (o_n < C)[None, :])
            t = tl.load(p_position + o_m // W, mask=o_m < M, other=0)
            o_c = o_n % C
            o_head = (o_m * (C // D)).to(tl.int64)[:, None] + (o_c // D)[None, :]
            o_cache = (o_head * T + t[:, None]) * D + (o_c % D)[None, :]
            part = (o_n // C)[None, :]
            tl.store(p_keys + o_cache, y, mask=mask & (part == 1))
            tl.store(p_values + o_cache, y, mask=mask & (part == 2))
        else:
            tl.store(p_out + o_m[:, None] * N + o_n[None, :], y, mask=mask)


@triton.jit(do_not_specialize=["M", "eps", "W", "T"])
def few_rows_kernel(
    p_input: tl.tensor,
    p_residual: tl.tensor,
    p_stream_bias: tl.tensor,
    p_partials: tl.tensor,
    p_sum: tl.tensor,
    p_norm_weight: tl.tensor,
    p_norm_bias: tl.tensor,
    p_weight: tl.tensor,
    p_scale: tl.tensor,
    p_bias: tl.tensor,
    p_out: tl.tensor,
    p_keys: tl.tensor,
    p_values: tl.tensor,
    p_position: tl.tensor,
    M: tl.tensor,
    eps: tl.tensor,
    W: tl.tensor,
    T: tl.tensor,
    K: tl.constexpr,
    N: tl.constexpr,
    CHUNK: tl.constexpr,
    D: tl.constexpr,
    NORM: tl.constexpr,
    SPLITS: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """``BLOCK_N`` columns over ``CHUNK`` of K per program; each warp multiplies its group of K.

    With ``NORM`` a row is a single tile: GROUPS * BLOCK_K >= K = CHUNK.
    """
    i_n = tl.program_id(0)
    k_begin = 0
    k_end = K
    if CHUNK < K:
        k_begin = tl.program_id(2) * CHUNK
        k_end = tl.minimum(k_begin + CHUNK, K)
    o_m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_n = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    o_row = o_m[None, :, None]
    o_group = tl.arange(0, GROUPS)[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    acc = tl.zeros((GROUPS, BLOCK_M, BLOCK_N), tl.float32)
    for k_start in range(k_begin, k_end, GROUPS * BLOCK_K):
        o_k = k_start + o_group
        m_w = (o_k < k_end)[:, :, None] & (o_n < N)[None, None, :]
        m_x = (o_k < k_end)[:, None, :] & (o_row < M)
        w = tl.load(p_weight + o_k[:, :, None] * N + o_n[None, None, :], mask=m_w, other=0.0)
        if NORM:
            o_x = o_k[:, None, :]
            x = stream_tile(p_residual, p_stream_bias, p_partials, o_row, o_x, m_x, M, K, SPLITS)
            if SPLITS > 0:
                tl.store(p_sum + o_row * K + o_x, x, mask=m_x & (i_n == 0))
            mean = tl.sum(tl.sum(x, axis=2), axis=0) / K
            x = tl.where(m_x, x - mean[None, :, None], 0.0)
            variance = tl.sum(tl.sum(x * x, axis=2), axis=0) / K
            x = x * (1.0 / tl.sqrt(variance + eps))[None, :, None]
            x *= tl.load(p_norm_weight + o_x, mask=o_x < K, other=0.0)
            x += tl.load(p_norm_bias + o_x, mask=o_x < K, other=0.0)
            x = x.to(p_out.dtype.element_ty)
        else:
            x = tl.load(p_input + o_row * K + o_k[:, None, :], mask=m_x, other=0.0)
        if p_scale is not None:
            w = w.to(tl.float32).to(x.dtype)
        acc = tl.dot(x, w, acc)
    epilogue_kernel(
        *(tl.sum(acc, axis=0), o_m, o_n, p_scale, p_bias, p_out, p_keys, p_values, p_position),
        *(M, W, T, N, D, EPILOGUE),
    )


@triton.jit(do_not_specialize=["M", "W", "T"])
def many_rows_kernel(
    p_input: tl.tensor,
    p_weight: tl.tensor,
    p_scale: tl.tensor,
    p_bias: tl.tensor,
    p_out: tl.tensor,
    p_keys: tl.tensor,
    p_values: tl.tensor,
    p_position: tl.tensor,
    M: tl.tensor,
    W: tl.tensor,
    T: tl.tensor,
    K: tl.constexpr,
    N: tl.constexpr,
    CHUNK: tl.constexpr,
    D: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """``BLOCK_M`` rows and ``BLOCK_N`` columns over ``CHUNK`` of K per program."""
    k_begin = tl.program_id(2) * CHUNK
    k_end = tl.minimum(k_begin + CHUNK, K)
    o_m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k_start in range(k_begin, k_end, BLOCK_K):
        o_k = k_start + tl.arange(0, BLOCK_K)
        m_w = (o_k < k_end)[:, None] & (o_n < N)[None, :]
        m_x = (o_m < M)[:, None] & (o_k < k_end)[None, :]
        w = tl.load(p_weight + o_k[:, None] * N + o_n[None, :], mask=m_w, other=0.0)
        x = tl.load(p_input + o_m[:, None] * K + o_k[None, :], mask=m_x, other=0.0)
        if p_scale is not None:
            w = w.to(tl.float32).to(x.dtype)
        acc = tl.dot(x, w, acc, input_precision="ieee")
    epilogue_kernel(
        *(acc, o_m, o_n, p_scale, p_bias, p_out, p_keys, p_values, p_position),
        *(M, W, T, N, D, EPILOGUE),
    )
