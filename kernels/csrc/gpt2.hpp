// GPT-2 on the CPU: prefills and decode steps over slots that clips enter and leave. The interface
// is that of Decoder in pengi_rt/backends/protocol.py, but for the embeddings, which are added by
// the caller.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "gpt2_kernels.hpp"
#include "packed_linear.hpp"
#include "pages.hpp"
#include "thread_pool.hpp"

namespace pengi {

struct Norm {
  std::vector<float> weight, bias;
};

struct Layer {
  Norm norm_1;
  Linear qkv, projection;
  Norm norm_2;
  Linear up, down;
};

struct Gpt2Shape {
  std::int64_t width, heads, vocab;
};

// Keys and values. A clip's prefix is stored once for all rows of its slot. Generated positions
// stay where they were written; `ancestry` tells each row who holds a position of its history.
struct Gpt2Cache {
  Gpt2Cache(const Gpt2Shape& shape, std::int64_t layers, std::int64_t panel, std::int64_t slots,
            std::int64_t width, std::int64_t prefix_rows, std::int64_t new_tokens);

  const std::int64_t slots, width, prefix_rows, new_tokens;
  std::int64_t keys_per_head, values_per_head;     // floats; the layout is Attention's
  std::vector<Pages<float>> keys, values;          // per layer, [slots][heads][...]
  std::vector<Pages<float>> new_keys, new_values;  // per layer, [slots][width][new_tokens][C]
  std::vector<std::int32_t> ancestry;              // [slots][width][new_tokens]
};

constexpr std::int64_t kQueriesAtATime = 48;  // of a prefix: their scores fit the caches

class Gpt2 {
 public:
  Gpt2(const Gpt2Shape& shape, Storage storage, const Kernels& kernels, int threads);

  Linear linear(const Matrix& matrix) { return {kernels_, storage_, matrix, pool_}; }
  void add_layer(Layer layer) { layers_.push_back(std::move(layer)); }
  void set_head(Norm norm, Linear head);

  std::unique_ptr<Gpt2Cache> new_cache(std::int64_t slots, std::int64_t width,
                                       std::int64_t prefix_rows, std::int64_t new_tokens) const;

  // Puts clips into slots. `rows` holds the clips' prefixes one after the other, [sum of lengths,
  // C], positions added. Writes logits [clips, V], of each clip's last row.
  void prefill(Gpt2Cache& cache, const std::vector<std::int64_t>& slots,
               const std::vector<std::int64_t>& lengths, const float* rows, float* logits);

  // Extends every row of the slots whose length is not 0. `rows` [slots, width, C] are the tokens'
  // embeddings, positions added; parents are [slots, width], lengths and generated [slots]. Writes
  // logits [slots, width, V], those of free slots undefined.
  void step(Gpt2Cache& cache, const float* rows, const std::int64_t* parents,
            const std::int64_t* lengths, const std::int64_t* generated, float* logits);

  const Gpt2Shape& shape() const { return shape_; }

 private:
  struct Clip {
    std::int64_t slot, first_row, rows, prefix, generated;
  };

  void reserve(std::int64_t rows, std::int64_t scores);
  void run_layers(Gpt2Cache& cache, const std::vector<Clip>& clips, std::int64_t rows,
                  bool prefill);
  void attend(Gpt2Cache& cache, std::size_t layer, const std::vector<Clip>& clips, bool prefill);
  Attention attention(Gpt2Cache& cache, std::size_t layer, const Clip& clip, std::int64_t head,
                      int thread);
  void attend_prefix(Gpt2Cache& cache, std::size_t layer, const Clip& clip, std::int64_t head,
                     int thread);
  void attend_step(Gpt2Cache& cache, std::size_t layer, const Clip& clip, std::int64_t head,
                   int thread);
  void norm(const Norm& norm, const float* x, std::int64_t rows, float* y);
  void apply(const Linear& linear, const float* x, std::int64_t rows, float* y,
             const float* residual = nullptr, bool gelu = false);

  Gpt2Shape shape_;
  Storage storage_;
  const Kernels& kernels_;
  ThreadPool pool_;
  std::vector<Layer> layers_;
  Norm norm_;
  std::unique_ptr<Linear> head_;

  std::vector<float> x_, normed_, qkv_, attention_, hidden_;
  Linear::Rounded rounded_;
  std::vector<std::vector<float>> scores_;  // per thread
};

}  // namespace pengi
