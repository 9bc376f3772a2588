// The two passes of a log-sum-exp over one row of logits, vectorized.
#pragma once

#include <cstdint>

namespace pengi {

constexpr std::int64_t kBlock = 512;  // logits that share one entry of `maxima`

// Number of blocks in a row of `size` logits; the last one may be shorter.
constexpr std::int64_t block_count(std::int64_t size) { return (size + kBlock - 1) / kBlock; }

// Writes the maximum of each block to `maxima` and returns that of the row. Skips NaN.
float block_maxima(const float* logits, std::int64_t size, float* maxima);

// Sum of exp((logits - max) / temperature) in double; `max` is the row's maximum and finite. The
// relative error is below 1e-14; NaN if a logit is NaN.
double sum_exp(const float* logits, std::int64_t size, double max, double temperature);

}  // namespace pengi
