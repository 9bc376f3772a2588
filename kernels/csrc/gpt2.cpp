#include "gpt2.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

namespace pengi {
namespace {

constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::int64_t kColumnsPerTask = 64;
constexpr std::int64_t kQueriesPerTask = 48;  // prefill: rows of one attention task

template <typename T>
Pages<T> pages(std::int64_t size) {
  const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(T);
  const std::size_t unit = bytes >= kHugePage ? kHugePage : 4096;
  void* data = std::aligned_alloc(unit, std::max<std::size_t>(bytes + unit - 1, 1) / unit * unit);
  if (data == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (unit == kHugePage) madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return Pages<T>(static_cast<T*>(data));
}

std::int64_t rounded_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

std::uint16_t bfloat16_of(float value) {  // to nearest, ties to even; NaN stays NaN
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// One panel of a matrix, [inputs][panel] floats, zero where there are no columns.
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
  const std::int64_t panel = kernels.panel, lanes = kernels.lanes;
  for (std::int64_t k = 0; k < inputs; ++k)
    for (std::int64_t pair = 0; pair < panel; pair += 2 * lanes)
      for (std::int64_t i = 0; i < lanes; ++i) {
        const float* first = from + k * panel + pair + i;
        *to++ = bfloat16_of(first[0]);
        *to++ = bfloat16_of(first[lanes]);
      }
}

void pack_int8(const float* from, std::int64_t inputs, std::int64_t panel, float* scales,
               std::int8_t* to) {
  std::vector<float> inverse(panel);
  for (std::int64_t c = 0; c < panel; ++c) {
    float most = 0;
    for (std::int64_t k = 0; k < inputs; ++k) most = std::max(most, std::abs(from[k * panel + c]));
    scales[c] = most / 127.0f;
    inverse[c] = most > 0 ? 127.0f / most : 0.0f;
  }
  for (std::int64_t k = 0; k < rounded_up(inputs, 2); ++k)
    for (std::int64_t c = 0; c < panel; ++c) {
      const float value = k < inputs ? from[k * panel + c] * inverse[c] : 0.0f;
      to[k / 2 * 2 * panel + 2 * c + k % 2] = static_cast<std::int8_t>(std::nearbyint(value));
    }
}

}  // namespace

void FreePages::operator()(void* data) const { std::free(data); }

Gpt2Cache::Gpt2Cache(const Gpt2Shape& shape, std::int64_t layers, const Kernels& kernels,
                     std::int64_t slots, std::int64_t width, std::int64_t prefix_rows,
                     std::int64_t new_tokens)
    : slots(slots), width(width), prefix_rows(prefix_rows), new_tokens(new_tokens) {
  const std::int64_t dimension = shape.width / shape.heads;
  keys_per_head_ = rounded_up(prefix_rows, kernels.panel) * dimension;
  values_per_head_ = rounded_up(dimension, kernels.panel) * prefix_rows;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    keys_.push_back(pages<float>(slots * shape.heads * keys_per_head_));
    values_.push_back(pages<float>(slots * shape.heads * values_per_head_));
    new_keys_.push_back(pages<float>(slots * width * new_tokens * shape.width));
    new_values_.push_back(pages<float>(slots * width * new_tokens * shape.width));
  }
  ancestry_.resize(slots * width * new_tokens);
}

Gpt2::Gpt2(const Gpt2Shape& shape, Storage storage, const Kernels& kernels, int threads)
    : shape_(shape), storage_(storage), kernels_(kernels), pool_(threads) {}

void Gpt2::set_head(Norm norm, PackedMatrix table) {
  norm_ = std::move(norm);
  head_ = std::move(table);
}

PackedMatrix Gpt2::pack(const Matrix& m) {
  const std::int64_t panel = kernels_.panel, panels = (m.outputs + panel - 1) / panel;
  const std::int64_t size = storage_ == Storage::fp32 ? 4 : storage_ == Storage::bf16 ? 2 : 1;
  const std::int64_t inputs = storage_ == Storage::int8 ? rounded_up(m.inputs, 2) : m.inputs;
  PackedMatrix packed{m.inputs, m.outputs, pages<unsigned char>(panels * panel * inputs * size),
                      {}, {}};
  if (storage_ == Storage::int8) packed.scales.resize(panels * panel);
  if (m.bias != nullptr) {
    packed.bias.assign(m.bias, m.bias + m.outputs);
    packed.bias.resize(panels * panel);
  }
  const ThreadPool::Busy busy(pool_);
  std::vector<std::vector<float>> scratch(pool_.threads());
  for (auto& each : scratch) each.resize(m.inputs * panel);
  pool_.run(panels, [&](std::int64_t index, int thread) {
    float* from = scratch[thread].data();
    read_panel(m, index * panel, panel, from);
    unsigned char* to = packed.weights.get() + index * panel * inputs * size;
    if (storage_ == Storage::fp32)
      std::memcpy(to, from, panel * inputs * size);
    else if (storage_ == Storage::bf16)
      pack_bf16(from, inputs, kernels_, reinterpret_cast<std::uint16_t*>(to));
    else
      pack_int8(from, m.inputs, panel, packed.scales.data() + index * panel,
                reinterpret_cast<std::int8_t*>(to));
  });
  return packed;
}

std::unique_ptr<Gpt2Cache> Gpt2::new_cache(std::int64_t slots, std::int64_t width,
                                           std::int64_t prefix_rows,
                                           std::int64_t new_tokens) const {
  return std::make_unique<Gpt2Cache>(shape_, static_cast<std::int64_t>(layers_.size()), kernels_,
                                     slots, width, prefix_rows, new_tokens);
}

void Gpt2::reserve(std::int64_t rows, std::int64_t scores) {
  const std::int64_t width = shape_.width;
  const auto grow = [](auto& buffer, std::int64_t size) {
    if (static_cast<std::int64_t>(buffer.size()) < size) buffer.resize(size);
  };
  grow(buffers_.x, rows * width);
  grow(buffers_.normed, rows * width);
  grow(buffers_.qkv, rows * 3 * width);
  grow(buffers_.attention, rows * width);
  grow(buffers_.hidden, rows * 4 * width);
  if (storage_ == Storage::int8) {
    grow(buffers_.x16, rows * rounded_up(4 * width, 2));
    grow(buffers_.x_scales, rows);
  }
  buffers_.scores.resize(pool_.threads());
  for (auto& each : buffers_.scores) grow(each, scores);
}

void Gpt2::norm(const Norm& norm, const float* x, std::int64_t rows, float* y) {
  const std::int64_t width = shape_.width;
  for (std::int64_t row = 0; row < rows; ++row)
    kernels_.norm(x + row * width, width, norm.weight.data(), norm.bias.data(), y + row * width);
}

void Gpt2::product(const PackedMatrix& m, const float* x, std::int64_t rows, float* y,
                   const float* residual, bool gelu) {
  Product p{};
  p.storage = storage_;
  p.rows = rows;
  p.inputs = m.inputs;
  p.outputs = m.outputs;
  p.weights = m.weights.get();
  p.scales = m.scales.data();
  p.bias = m.bias.empty() ? nullptr : m.bias.data();
  p.x = x;
  p.residual = residual;
  p.y = y;
  p.gelu = gelu;
  if (storage_ == Storage::int8) {
    const std::int64_t even = rounded_up(m.inputs, 2);
    for (std::int64_t row = 0; row < rows; ++row)
      buffers_.x_scales[row] = kernels_.quantize(x + row * m.inputs, m.inputs,
                                                 buffers_.x16.data() + row * even);
    p.x16 = buffers_.x16.data();
    p.x_scales = buffers_.x_scales.data();
  }
  const std::int64_t panels = (m.outputs + kernels_.panel - 1) / kernels_.panel;
  const std::int64_t per_task = std::max<std::int64_t>(kColumnsPerTask / kernels_.panel, 1);
  pool_.run((panels + per_task - 1) / per_task, [&](std::int64_t task, int) {
    kernels_.product(p, task * per_task, std::min((task + 1) * per_task, panels));
  });
}

void Gpt2::run_layers(Gpt2Cache& cache, const std::vector<Clip>& clips, std::int64_t rows,
                      bool prefill) {
  Buffers& b = buffers_;
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    norm(layer.norm_1, b.x.data(), rows, b.normed.data());
    product(layer.qkv, b.normed.data(), rows, b.qkv.data());
    attend(cache, index, clips, prefill);
    product(layer.projection, b.attention.data(), rows, b.x.data(), b.x.data());
    norm(layer.norm_2, b.x.data(), rows, b.normed.data());
    product(layer.up, b.normed.data(), rows, b.hidden.data(), nullptr, true);
    product(layer.down, b.hidden.data(), rows, b.x.data(), b.x.data());
  }
}

void Gpt2::attend(Gpt2Cache& cache, std::size_t layer, const std::vector<Clip>& clips,
                  bool prefill) {
  const std::int64_t width = shape_.width, heads = shape_.heads, size = width / heads;
  const std::int64_t panel = kernels_.panel;
  const auto attention_of = [&](const Clip& clip, std::int64_t head) {
    const std::int64_t place = clip.slot * heads + head;
    Attention a{};
    a.head_dim = size;
    a.q = buffers_.qkv.data() + clip.first_row * 3 * width + head * size;
    a.q_stride = 3 * width;
    a.keys = cache.keys_[layer].get() + place * cache.keys_per_head_;
    a.values = cache.values_[layer].get() + place * cache.values_per_head_;
    a.prefix = clip.prefix;
    a.capacity = cache.prefix_rows;
    a.causal = prefill;
    a.out = buffers_.attention.data() + clip.first_row * width + head * size;
    a.out_stride = width;
    return a;
  };
  const std::int64_t tasks = static_cast<std::int64_t>(clips.size()) * heads;
  if (prefill) {
    pool_.run(tasks, [&](std::int64_t task, int thread) {
      const Clip& clip = clips[task / heads];
      const std::int64_t head = task % heads;
      Attention a = attention_of(clip, head);
      float* keys = const_cast<float*>(a.keys);
      float* values = const_cast<float*>(a.values);
      for (std::int64_t t = 0; t < clip.rows; ++t) {
        const float* k = a.q + t * a.q_stride + width;
        const float* v = k + width;
        float* key = keys + t / panel * panel * size + t % panel;
        for (std::int64_t i = 0; i < size; ++i) {
          key[i * panel] = k[i];
          values[i / panel * panel * a.capacity + t * panel + i % panel] = v[i];
        }
      }
      a.scores = buffers_.scores[thread].data();
      const float* q = a.q;
      float* out = a.out;
      for (a.first_row = 0; a.first_row < clip.rows; a.first_row += kQueriesPerTask) {
        a.rows = std::min(kQueriesPerTask, clip.rows - a.first_row);
        a.q = q + a.first_row * a.q_stride;
        a.out = out + a.first_row * a.out_stride;
        kernels_.attend(a);
      }
    });
    return;
  }
  pool_.run(tasks, [&](std::int64_t task, int thread) {
    const Clip& clip = clips[task / heads];
    const std::int64_t head = task % heads;
    Attention a = attention_of(clip, head);
    const std::int64_t place = clip.slot * cache.width * cache.new_tokens;
    float* keys = cache.new_keys_[layer].get() + place * width + head * size;
    float* values = cache.new_values_[layer].get() + place * width + head * size;
    for (std::int64_t row = 0; row < clip.rows; ++row) {
      const std::int64_t to = (row * cache.new_tokens + clip.generated) * width;
      std::copy_n(a.q + row * a.q_stride + width, size, keys + to);
      std::copy_n(a.q + row * a.q_stride + 2 * width, size, values + to);
    }
    a.rows = clip.rows;
    a.new_keys = keys;
    a.new_values = values;
    a.new_tokens = cache.new_tokens;
    a.width = width;
    a.ancestry = cache.ancestry_.data() + place;
    a.generated = clip.generated + 1;
    a.scores = buffers_.scores[thread].data();
    kernels_.attend(a);
  });
}

void Gpt2::head(const float* x, std::int64_t rows, float* logits) {
  norm(norm_, x, rows, buffers_.normed.data());
  product(head_, buffers_.normed.data(), rows, logits);
}

void Gpt2::prefill(Gpt2Cache& cache, const std::vector<std::int64_t>& slots,
                   const std::vector<std::int64_t>& lengths, const float* rows,
                   float* logits) {
  std::vector<Clip> clips;
  std::int64_t total = 0, longest = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    clips.push_back({slots[i], total, lengths[i], lengths[i], 0});
    total += lengths[i];
    longest = std::max(longest, lengths[i]);
  }
  const ThreadPool::Busy busy(pool_);
  reserve(total, kQueriesPerTask * score_stride(kernels_, longest, 0));
  std::copy_n(rows, total * shape_.width, buffers_.x.data());
  run_layers(cache, clips, total, true);
  for (std::size_t i = 0; i < clips.size(); ++i) {
    const float* last = buffers_.x.data() + (clips[i].first_row + lengths[i] - 1) * shape_.width;
    std::copy_n(last, shape_.width, buffers_.hidden.data() + i * shape_.width);
  }
  head(buffers_.hidden.data(), static_cast<std::int64_t>(clips.size()), logits);
}

void Gpt2::step(Gpt2Cache& cache, const float* rows, const std::int64_t* parents,
                const std::int64_t* lengths, const std::int64_t* generated, float* logits) {
  const std::int64_t width = shape_.width, beams = cache.width, tokens = cache.new_tokens;
  std::vector<Clip> clips;
  std::int64_t total = 0, longest = 0;
  std::vector<std::int32_t> old(beams * tokens);
  for (std::int64_t slot = 0; slot < cache.slots; ++slot) {
    if (lengths[slot] == 0) continue;
    clips.push_back({slot, total, beams, lengths[slot], generated[slot]});
    total += beams;
    longest = std::max(longest, lengths[slot]);
    std::int32_t* table = cache.ancestry_.data() + slot * beams * tokens;
    std::copy_n(table, beams * tokens, old.begin());
    for (std::int64_t row = 0; row < beams; ++row) {
      std::copy_n(old.begin() + parents[slot * beams + row] * tokens, generated[slot],
                  table + row * tokens);
      table[row * tokens + generated[slot]] = static_cast<std::int32_t>(row);
    }
  }
  const ThreadPool::Busy busy(pool_);
  reserve(total, beams * score_stride(kernels_, longest, tokens));
  for (const Clip& clip : clips)
    std::copy_n(rows + clip.slot * beams * width, beams * width,
                buffers_.x.data() + clip.first_row * width);
  run_layers(cache, clips, total, false);
  if (static_cast<std::int64_t>(clips.size()) == cache.slots) {
    head(buffers_.x.data(), total, logits);
    return;
  }
  // ...
  std::vector<float> used(total * shape_.vocab);
  head(buffers_.x.data(), total, used.data());
  for (const Clip& clip : clips)
    std::copy_n(used.data() + clip.first_row * shape_.vocab, beams * shape_.vocab,
                logits + clip.slot * beams * shape_.vocab);
}

}  // namespace pengi
