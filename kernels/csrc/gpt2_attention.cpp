// Where a layer's keys and values lie, and who attends to them.
#include <algorithm>

#include "gpt2.hpp"

namespace pengi {

void Gpt2::attend(Gpt2Cache& cache, std::size_t layer, const std::vector<Clip>& clips,
                  bool prefill) {
  const std::int64_t heads = shape_.heads;
  pool_.run(static_cast<std::int64_t>(clips.size()) * heads, [&](std::int64_t task, int thread) {
    const Clip& clip = clips[task / heads];
    if (prefill)
      attend_prefix(cache, layer, clip, task % heads, thread);
    else
      attend_step(cache, layer, clip, task % heads, thread);
  });
}

Attention Gpt2::attention(Gpt2Cache& cache, std::size_t layer, const Clip& clip, std::int64_t head,
                          int thread) {
  const std::int64_t width = shape_.width, place = clip.slot * shape_.heads + head;
  Attention a{};
  a.head_dim = width / shape_.heads;
  a.q = qkv_.data() + clip.first_row * 3 * width + head * a.head_dim;
  a.q_stride = 3 * width;
  a.keys = cache.keys[layer].get() + place * cache.keys_per_head;
  a.values = cache.values[layer].get() + place * cache.values_per_head;
  a.prefix = clip.prefix;
  a.capacity = cache.prefix_rows;
  a.scores = scores_[thread].data();
  a.out = attention_.data() + clip.first_row * width + head * a.head_dim;
  a.out_stride = width;
  return a;
}

// Stores a head's keys and values of a whole prefix, then attends causally.
void Gpt2::attend_prefix(Gpt2Cache& cache, std::size_t layer, const Clip& clip, std::int64_t head,
                         int thread) {
  Attention a = attention(cache, layer, clip, head, thread);
  const std::int64_t width = shape_.width, panel = kernels_.panel;
  float* keys = const_cast<float*>(a.keys);
  float* values = const_cast<float*>(a.values);
  for (std::int64_t t = 0; t < clip.rows; ++t) {
    const float* key = a.q + t * a.q_stride + width;
    const float* value = key + width;
    float* column = keys + t / panel * panel * a.head_dim + t % panel;
    for (std::int64_t i = 0; i < a.head_dim; ++i) {
      column[i * panel] = key[i];
      values[(i / panel * a.capacity + t) * panel + i % panel] = value[i];
    }
  }
  a.causal = true;
  for (; a.first_row < clip.rows; a.first_row += kQueriesAtATime) {
    a.rows = std::min(kQueriesAtATime, clip.rows - a.first_row);
    kernels_.attend(a);
    a.q += a.rows * a.q_stride;
    a.out += a.rows * a.out_stride;
  }
}

// Stores a head's keys and values of one more position, then attends to prefix and history.
void Gpt2::attend_step(Gpt2Cache& cache, std::size_t layer, const Clip& clip, std::int64_t head,
                       int thread) {
  Attention a = attention(cache, layer, clip, head, thread);
  const std::int64_t width = shape_.width, place = clip.slot * cache.width * cache.new_tokens;
  float* keys = cache.new_keys[layer].get() + place * width + head * a.head_dim;
  float* values = cache.new_values[layer].get() + place * width + head * a.head_dim;
  for (std::int64_t row = 0; row < clip.rows; ++row) {
    const float* key = a.q + row * a.q_stride + width;
    const std::int64_t to = (row * cache.new_tokens + clip.generated) * width;
    std::copy_n(key, a.head_dim, keys + to);
    std::copy_n(key + width, a.head_dim, values + to);
  }
  a.rows = clip.rows;
  a.new_keys = keys;
  a.new_values = values;
  a.new_tokens = cache.new_tokens;
  a.width = width;
  a.ancestry = cache.ancestry.data() + place;
  a.generated = clip.generated + 1;
  kernels_.attend(a);
}

}  // namespace pengi
