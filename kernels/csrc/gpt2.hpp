// GPT-2 on the CPU: prefill and decode steps over slots that clips enter and leave. The interface is
// that of pengi_rt/backends/protocol.py's Decoder; embeddings are added outside.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "gpt2_kernels.hpp"
#include "thread_pool.hpp"

namespace pengi {

struct FreePages {
  void operator()(void* data) const;
};

// Uninitialized memory that starts at a huge page where the system has those.
template <typename T>
using Pages = std::unique_ptr<T[], FreePages>;

// A weight matrix in the order in which products read it: panels of `Kernels::panel` columns, each
// [inputs][panel], the last one padded with zeros. bf16 interleaves neighbouring vectors; int8 puts
// two inputs of a column side by side, and scales each column to a largest magnitude of 127.
struct PackedMatrix {
  std::int64_t inputs, outputs;
  Pages<unsigned char> weights;
  std::vector<float> scales;  // int8: [panels * panel]
  std::vector<float> bias;    // [panels * panel]; or empty
};

struct Norm {
  std::vector<float> weight, bias;
};

struct Layer {
  Norm norm_1;
  PackedMatrix qkv, projection;
  Norm norm_2;
  PackedMatrix up, down;
};

struct Gpt2Shape {
  std::int64_t width, heads, vocab;
};

// Row-major [inputs, outputs], or [outputs, inputs] if `transposed`; `bias` may be null.
struct Matrix {
  const float* weights;
  const float* bias;
  std::int64_t inputs, outputs;
  bool transposed;
};

// Keys and values. A clip's prefix is stored once for all rows of its slot; generated positions
// stay where they were written, and `ancestry` tells each row who holds its history.
class Gpt2Cache {
 public:
  Gpt2Cache(const Gpt2Shape& shape, std::int64_t layers, const Kernels& kernels, std::int64_t slots,
            std::int64_t width, std::int64_t prefix_rows, std::int64_t new_tokens);

  const std::int64_t slots, width, prefix_rows, new_tokens;

 private:
  friend class Gpt2;

  std::int64_t position_panels_, dimension_panels_;
  std::int64_t keys_per_head_, values_per_head_;  // floats
  std::vector<Pages<float>> keys_, values_;          // per layer, [slots][heads][...]
  std::vector<Pages<float>> new_keys_, new_values_;  // per layer, [slots][width][new_tokens][C]
  std::vector<std::int32_t> ancestry_;               // [slots][width][new_tokens]
};

class Gpt2 {
 public:
  Gpt2(const Gpt2Shape& shape, Storage storage, const Kernels& kernels, int threads);

  // Packs a copy.
  PackedMatrix pack(const Matrix& matrix);
  void add_layer(Layer layer) { layers_.push_back(std::move(layer)); }
  void set_head(Norm norm, PackedMatrix table);

  std::unique_ptr<Gpt2Cache> new_cache(std::int64_t slots, std::int64_t width,
                                       std::int64_t prefix_rows, std::int64_t new_tokens) const;

  // Puts clips into slots. `rows` holds each clip's prefix one after the other, [sum of lengths, C],
  // positions added. Writes logits [clips, V] of each clip's last row.
  void prefill(Gpt2Cache& cache, const std::vector<std::int64_t>& slots,
               const std::vector<std::int64_t>& lengths, const float* rows, float* logits);

  // Extends every row of the slots whose length is not 0. `rows` [slots, width, C] are the tokens'
  // embeddings, positions added; parents are [slots, width], lengths and generated [slots].
  void step(Gpt2Cache& cache, const float* rows, const std::int64_t* parents,
            const std::int64_t* lengths, const std::int64_t* generated, float* logits);

  const Gpt2Shape& shape() const { return shape_; }
  const Kernels& kernels() const { return kernels_; }

 private:
  struct Clip {
    std::int64_t slot, first_row, rows, prefix, generated;
  };
  struct Buffers {
    std::vector<float> x, normed, qkv, attention, hidden, x_scales;
    std::vector<std::int16_t> x16;
    std::vector<std::vector<float>> scores;  // per thread
  };

  void reserve(std::int64_t rows, std::int64_t scores);
  void run_layers(Gpt2Cache& cache, const std::vector<Clip>& clips, std::int64_t rows, bool prefill);
  void attend(Gpt2Cache& cache, std::size_t layer, const std::vector<Clip>& clips, bool prefill);
  void product(const PackedMatrix& matrix, const float* x, std::int64_t rows, float* y,
               const float* residual = nullptr, bool gelu = false);
  void norm(const Norm& norm, const float* x, std::int64_t rows, float* y);
  void head(const float* x, std::int64_t rows, float* logits);

  Gpt2Shape shape_;
  Storage storage_;
  const Kernels& kernels_;
  ThreadPool pool_;
  std::vector<Layer> layers_;
  Norm norm_;
  PackedMatrix head_;
  Buffers buffers_;
};

}  // namespace pengi
