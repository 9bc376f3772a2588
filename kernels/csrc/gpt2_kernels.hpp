// What one instruction set does for GPT-2: products with packed weights, norms, attention.
//
// gpt2_kernels.inc implements it once, in vectors of the compiler; a file per instruction set
// (gpt2_avx2.cpp, ...) compiles it with that set's flags.
#pragma once

#include <cstdint>

namespace pengi {

enum class Storage { fp32, bf16, int8 };

// y = x W, then (in this order) + bias, GELU, + residual. Weights lie in panels of
// `Kernels::panel` columns (see packed_linear.hpp).
struct Product {
  Storage storage;
  std::int64_t rows, inputs, outputs;
  const void* weights;
  const float* scales;        // int8: per output; padded to whole panels
  const float* bias;          // per output, padded to whole panels; or null
  const float* x;             // fp32, bf16: [rows, inputs]
  const std::int16_t* x16;    // int8: [rows, inputs, padded to even]
  const float* x_scales;      // int8: per row
  const float* residual;      // [rows, outputs] or null
  float* y;                   // [rows, outputs]
  bool gelu;                  // the tanh approximation
};

// Attention of one head, of rows that share a prefix. Row j sees `prefix` positions (with `causal`,
// those up to its own, first_row + j) and `generated` later ones, each held by one of the rows.
struct Attention {
  std::int64_t rows, head_dim;
  const float* q;         // row j at j * q_stride
  std::int64_t q_stride;
  const float* keys;      // [panels of positions][head_dim][panel]
  const float* values;    // [panels of head_dim][capacity][panel]
  std::int64_t prefix, capacity;
  bool causal;
  std::int64_t first_row;
  const float* new_keys;  // row j, position t at (j * new_tokens + t) * width
  const float* new_values;
  std::int64_t new_tokens, width;
  const std::int32_t* ancestry;  // [rows, new_tokens]: the row that holds each position
  std::int64_t generated;
  float* scores;          // scratch: rows * score_stride(prefix, generated)
  float* out;             // row j at j * out_stride
  std::int64_t out_stride;
};

struct Kernels {
  const char* name;
  std::int64_t lanes, panel;  // columns of a vector, of a panel
  // Columns [first * panel, last * panel) of a product.
  void (*product)(const Product&, std::int64_t first, std::int64_t last);
  void (*attend)(const Attention&);
  // y = (x - mean) / sqrt(variance + 1e-5) * weight + bias
  void (*norm)(const float* x, std::int64_t width, const float* weight, const float* bias,
               float* y);
  // Rounds x to 16 bits, largest magnitude to 32 767; returns the scale.
  float (*quantize)(const float* x, std::int64_t width, std::int16_t* y);
};

// Floats between the score rows of `attend`.
inline std::int64_t score_stride(const Kernels& kernels, std::int64_t prefix,
                                 std::int64_t generated) {
  const std::int64_t panels = (prefix + kernels.panel - 1) / kernels.panel;
  return panels * kernels.panel + (generated + 15) / 16 * 16;
}

}  // namespace pengi
