// A linear layer whose weights are packed for products with a few rows.
// The operation, with its reference: kernels/packed_linear.py.
#pragma once

#include <cstdint>
#include <vector>

#include "gpt2_kernels.hpp"
#include "pages.hpp"
#include "thread_pool.hpp"

namespace pengi {

inline std::int64_t rounded_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// Weights are [inputs, outputs], or [outputs, inputs] if `transposed`; `bias` may be null.
struct Matrix {
  const float* weights;
  const float* bias;
  std::int64_t inputs, outputs;
  bool transposed;
};

class Linear {
 public:
  // Packs a copy: panels of `kernels.panel` columns, each [inputs][panel], the last one padded with
  // zeros. bf16 interleaves neighboring vectors. int8 puts two inputs of a column side by side,
  // and scales each column so that its largest magnitude is 127.
  Linear(const Kernels& kernels, Storage storage, const Matrix& matrix, ThreadPool& pool);

  // Rows rounded to 16 bits, for int8 weights.
  struct Rounded {
    std::vector<std::int16_t> values;
    std::vector<float> scales;
  };

  // y = x W + bias for x [rows, inputs]; then GELU (tanh) if `gelu`; then + `residual` [rows,
  // outputs] unless it is null. `y` may be `residual`.
  void apply(const float* x, std::int64_t rows, const float* residual, bool gelu, float* y,
             Rounded& scratch, ThreadPool& pool) const;

  std::int64_t inputs() const { return inputs_; }
  std::int64_t outputs() const { return outputs_; }

 private:
  void pack_panel(const Matrix& matrix, std::int64_t panel, float* scratch);

  const Kernels* kernels_;
  Storage storage_;
  std::int64_t inputs_, outputs_, panels_, panel_bytes_;
  Pages<unsigned char> weights_;
  std::vector<float> scales_, bias_;  // padded to whole panels; empty if there are none
};

// Calls body(row, thread) for every row: in parallel if there are many.
template <typename Body>
void for_rows(std::int64_t rows, ThreadPool& pool, const Body& body) {
  constexpr std::int64_t kFew = 8;  // their work is shorter than a loop of the pool
  if (rows > kFew) return pool.run(rows, body);
  for (std::int64_t row = 0; row < rows; ++row) body(row, 0);
}

}  // namespace pengi
