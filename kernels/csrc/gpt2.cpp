#include "gpt2.hpp"

#include <algorithm>

namespace pengi {
namespace {

void grow(std::vector<float>& buffer, std::int64_t size) {
  if (static_cast<std::int64_t>(buffer.size()) < size) buffer.resize(size);
}

}  // namespace

Gpt2Cache::Gpt2Cache(const Gpt2Shape& shape, std::int64_t layers, std::int64_t panel,
                     std::int64_t slots, std::int64_t width, std::int64_t prefix_rows,
                     std::int64_t new_tokens)
    : slots(slots),
      width(width),
      prefix_rows(prefix_rows),
      new_tokens(new_tokens),
      ancestry(slots * width * new_tokens) {
  const std::int64_t dimension = shape.width / shape.heads;
  keys_per_head = rounded_up(prefix_rows, panel) * dimension;
  values_per_head = rounded_up(dimension, panel) * prefix_rows;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    keys.push_back(pages<float>(slots * shape.heads * keys_per_head));
    values.push_back(pages<float>(slots * shape.heads * values_per_head));
    new_keys.push_back(pages<float>(slots * width * new_tokens * shape.width));
    new_values.push_back(pages<float>(slots * width * new_tokens * shape.width));
  }
}

Gpt2::Gpt2(const Gpt2Shape& shape, Storage storage, const Kernels& kernels, int threads)
    : shape_(shape), storage_(storage), kernels_(kernels), pool_(threads) {}

void Gpt2::set_head(Norm norm, Linear head) {
  norm_ = std::move(norm);
  head_ = std::make_unique<Linear>(std::move(head));
}

std::unique_ptr<Gpt2Cache> Gpt2::new_cache(std::int64_t slots, std::int64_t width,
                                           std::int64_t prefix_rows,
                                           std::int64_t new_tokens) const {
  return std::make_unique<Gpt2Cache>(shape_, static_cast<std::int64_t>(layers_.size()),
                                     kernels_.panel, slots, width, prefix_rows, new_tokens);
}

void Gpt2::prefill(Gpt2Cache& cache, const std::vector<std::int64_t>& slots,
                   const std::vector<std::int64_t>& lengths, const float* rows, float* logits) {
  const ThreadPool::Busy busy(pool_);
  std::vector<Clip> clips;
  std::int64_t total = 0, longest = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    clips.push_back({slots[i], total, lengths[i], lengths[i], 0});
    total += lengths[i];
    longest = std::max(longest, lengths[i]);
  }
  reserve(total, kQueriesAtATime * score_stride(kernels_, longest, 0));
  std::copy_n(rows, total * shape_.width, x_.begin());
  run_layers(cache, clips, total, true);
  float* last = hidden_.data();
  for (std::size_t i = 0; i < clips.size(); ++i)
    std::copy_n(x_.begin() + (clips[i].first_row + lengths[i] - 1) * shape_.width, shape_.width,
                last + i * shape_.width);
  const auto count = static_cast<std::int64_t>(clips.size());
  norm(norm_, last, count, normed_.data());
  apply(*head_, normed_.data(), count, logits);
}

void Gpt2::step(Gpt2Cache& cache, const float* rows, const std::int64_t* parents,
                const std::int64_t* lengths, const std::int64_t* generated, float* logits) {
  const ThreadPool::Busy busy(pool_);
  const std::int64_t width = shape_.width, beams = cache.width, tokens = cache.new_tokens;
  std::vector<Clip> clips;
  std::vector<std::int32_t> old(beams * tokens);
  std::int64_t total = 0, longest = 0;
  for (std::int64_t slot = 0; slot < cache.slots; ++slot) {
    if (lengths[slot] == 0) continue;
    clips.push_back({slot, total, beams, lengths[slot], generated[slot]});
    total += beams;
    longest = std::max(longest, lengths[slot]);
  }
  reserve(total, beams * score_stride(kernels_, longest, tokens));  // before the cache changes
  for (const Clip& clip : clips) {
    std::copy_n(rows + clip.slot * beams * width, beams * width,
                x_.begin() + clip.first_row * width);
    std::int32_t* table = cache.ancestry.data() + clip.slot * beams * tokens;
    std::copy_n(table, beams * tokens, old.begin());
    for (std::int64_t row = 0; row < beams; ++row, table += tokens) {
      std::copy_n(old.begin() + parents[clip.slot * beams + row] * tokens, clip.generated, table);
      table[clip.generated] = static_cast<std::int32_t>(row);
    }
  }
  run_layers(cache, clips, total, false);
  norm(norm_, x_.data(), total, normed_.data());
  // Slots in use may have free ones between them, so the logits move apart, the last first.
  apply(*head_, normed_.data(), total, logits);
  const std::int64_t size = beams * shape_.vocab;
  for (auto clip = clips.rbegin(); clip != clips.rend(); ++clip) {
    const float* from = logits + clip->first_row * shape_.vocab;
    if (from != logits + clip->slot * size) std::copy_n(from, size, logits + clip->slot * size);
  }
}

void Gpt2::reserve(std::int64_t rows, std::int64_t scores) {
  const std::int64_t width = shape_.width;
  grow(x_, rows * width);
  grow(normed_, rows * width);
  grow(qkv_, rows * 3 * width);
  grow(attention_, rows * width);
  grow(hidden_, rows * 4 * width);
  scores_.resize(pool_.threads());
  for (std::vector<float>& each : scores_) grow(each, scores);
}

void Gpt2::run_layers(Gpt2Cache& cache, const std::vector<Clip>& clips, std::int64_t rows,
                      bool prefill) {
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    norm(layer.norm_1, x_.data(), rows, normed_.data());
    apply(layer.qkv, normed_.data(), rows, qkv_.data());
    attend(cache, index, clips, prefill);
    apply(layer.projection, attention_.data(), rows, x_.data(), x_.data());
    norm(layer.norm_2, x_.data(), rows, normed_.data());
    apply(layer.up, normed_.data(), rows, hidden_.data(), nullptr, true);
    apply(layer.down, hidden_.data(), rows, x_.data(), x_.data());
  }
}

void Gpt2::norm(const Norm& norm, const float* x, std::int64_t rows, float* y) {
  const std::int64_t width = shape_.width;
  for_rows(rows, pool_, [&](std::int64_t row, int) {
    kernels_.norm(x + row * width, width, norm.weight.data(), norm.bias.data(), y + row * width);
  });
}

void Gpt2::apply(const Linear& linear, const float* x, std::int64_t rows, float* y,
                 const float* residual, bool gelu) {
  linear.apply(x, rows, residual, gelu, y, rounded_, pool_);
}

}  // namespace pengi
