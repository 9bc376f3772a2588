#include "packed_linear.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace pengi {
namespace {

constexpr std::int64_t kColumnsPerTask = 64;

std::int64_t item_size(Storage storage) {
  return storage == Storage::fp32 ? 4 : storage == Storage::bf16 ? 2 : 1;
}

std::uint16_t bfloat16_of(float value) {  // to the nearest, ties to even; NaN stays NaN
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Columns from `first` on, [inputs][panel], zero where the matrix has no more.
void read_panel(const Matrix& m, std::int64_t first, std::int64_t panel, float* to) {
  const std::int64_t columns = std::min(panel, m.outputs - first);
  std::fill_n(to, m.inputs * panel, 0.0f);
  for (std::int64_t k = 0; k < m.inputs; ++k) {
    if (!m.transposed) {
      std::copy_n(m.weights + k * m.outputs + first, columns, to + k * panel);
      continue;
    }
    for (std::int64_t c = 0; c < columns; ++c)
      to[k * panel + c] = m.weights[(first + c) * m.inputs + k];
  }
}

void pack_bf16(const float* from, std::int64_t inputs, const Kernels& kernels, std::uint16_t* to) {
  for (std::int64_t k = 0; k < inputs; ++k)
    for (std::int64_t pair = 0; pair < kernels.panel; pair += 2 * kernels.lanes)
      for (std::int64_t i = 0; i < kernels.lanes; ++i) {
        const float* first = from + k * kernels.panel + pair + i;
        *to++ = bfloat16_of(first[0]);
        *to++ = bfloat16_of(first[kernels.lanes]);
      }
}

// A column with a value that is not finite becomes NaN times zero.
void pack_int8(const float* from, std::int64_t inputs, std::int64_t panel, float* scales,
               std::int8_t* to) {
  std::fill_n(scales, panel, 0.0f);
  for (std::int64_t k = 0; k < inputs; ++k)
    for (std::int64_t c = 0; c < panel; ++c) {
      const float size = std::abs(from[k * panel + c]);
      const float poison = size - size;  // NaN if it is not finite
      scales[c] = std::max(scales[c], size) + poison + (scales[c] - scales[c]);
    }
  for (std::int64_t c = 0; c < panel; ++c) scales[c] /= 127.0f;
  for (std::int64_t k = 0; k < rounded_up(inputs, 2); ++k)
    for (std::int64_t c = 0; c < panel; ++c) {
      // A subnormal scale is too coarse to bring the largest value to 127.
      const bool real = k < inputs && scales[c] >= std::numeric_limits<float>::min();
      const float value = real ? from[k * panel + c] / scales[c] : 0.0f;
      to[k / 2 * 2 * panel + 2 * c + k % 2] = static_cast<std::int8_t>(std::nearbyint(value));
    }
}

}  // namespace

Linear::Linear(const Kernels& kernels, Storage storage, const Matrix& m, ThreadPool& pool)
    : kernels_(&kernels), storage_(storage), inputs_(m.inputs), outputs_(m.outputs) {
  const std::int64_t panel = kernels.panel;
  panels_ = (outputs_ + panel - 1) / panel;
  const std::int64_t rows = storage == Storage::int8 ? rounded_up(inputs_, 2) : inputs_;
  panel_bytes_ = panel * rows * item_size(storage);
  weights_ = pages<unsigned char>(panels_ * panel_bytes_);
  if (storage == Storage::int8) scales_.resize(panels_ * panel);
  if (m.bias != nullptr) {
    bias_.assign(m.bias, m.bias + outputs_);
    bias_.resize(panels_ * panel);
  }
  const ThreadPool::Busy busy(pool);
  std::vector<std::vector<float>> scratch(pool.threads(), std::vector<float>(inputs_ * panel));
  pool.run(panels_, [&](std::int64_t index, int thread) {
    pack_panel(m, index, scratch[thread].data());
  });
}

void Linear::pack_panel(const Matrix& m, std::int64_t index, float* scratch) {
  const std::int64_t panel = kernels_->panel;
  unsigned char* to = weights_.get() + index * panel_bytes_;
  if (storage_ == Storage::fp32) {
    read_panel(m, index * panel, panel, reinterpret_cast<float*>(to));
    return;
  }
  read_panel(m, index * panel, panel, scratch);
  if (storage_ == Storage::bf16)
    pack_bf16(scratch, inputs_, *kernels_, reinterpret_cast<std::uint16_t*>(to));
  else
    pack_int8(scratch, inputs_, panel, scales_.data() + index * panel,
              reinterpret_cast<std::int8_t*>(to));
}

void Linear::apply(const float* x, std::int64_t rows, const float* residual, bool gelu, float* y,
                   Rounded& scratch, ThreadPool& pool) const {
  Product p{};
  p.storage = storage_;
  p.rows = rows;
  p.inputs = inputs_;
  p.outputs = outputs_;
  p.weights = weights_.get();
  p.scales = scales_.data();
  p.bias = bias_.empty() ? nullptr : bias_.data();
  p.x = x;
  p.residual = residual;
  p.y = y;
  p.gelu = gelu;
  if (storage_ == Storage::int8) {
    const std::int64_t even = rounded_up(inputs_, 2);
    if (static_cast<std::int64_t>(scratch.values.size()) < rows * even)
      scratch.values.resize(rows * even);
    if (static_cast<std::int64_t>(scratch.scales.size()) < rows) scratch.scales.resize(rows);
    for_rows(rows, pool, [&](std::int64_t row, int) {
      scratch.scales[row] =
          kernels_->quantize(x + row * inputs_, inputs_, scratch.values.data() + row * even);
    });
    p.x16 = scratch.values.data();
    p.x_scales = scratch.scales.data();
  }
  const std::int64_t per_task = std::max<std::int64_t>(kColumnsPerTask / kernels_->panel, 1);
  pool.run((panels_ + per_task - 1) / per_task, [&](std::int64_t task, int) {
    kernels_->product(p, task * per_task, std::min((task + 1) * per_task, panels_));
  });
}

}  // namespace pengi
