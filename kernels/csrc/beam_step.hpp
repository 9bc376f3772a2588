// One step of Pengi's beam search. The rule, with its source: kernels/beam_step_cpu.py.
#pragma once

#include <cstdint>
#include <vector>

namespace pengi {

struct BeamOptions {
  std::int64_t beam_size;  // K, beams kept per clip
  double temperature;      // divides the logits; at least the smallest normal float
  std::int64_t stop_id;    // finishes a beam; an id outside the vocabulary never does
  std::int64_t pad_id;     // continues a finished beam
};

// B clips of W beams; W is 1 in the first step and K afterwards.
struct BeamInputs {
  std::int64_t clips, beams, vocab;
  const float* logits;          // [B, W, V]; rows of finished beams are not read
  const double* scores;         // [B, W], sum of the log-probabilities
  const std::int32_t* lengths;  // [B, W], tokens up to and including the stop token
  const bool* finished;         // [B, W]
};

// [B, K] each, best average first.
struct BeamOutputs {
  std::vector<std::int64_t> sources;  // the beam of the same clip that is continued
  std::vector<std::int64_t> tokens;
  std::vector<double> averages;  // mean log-probability, the ranking
  std::vector<double> scores;
  std::vector<std::int32_t> lengths;
  std::vector<unsigned char> finished;
};

// Throws std::invalid_argument: options out of range, a row with NaN or without a finite maximum
// (named), fewer candidates than beams.
BeamOutputs beam_step(const BeamInputs& in, const BeamOptions& options);

// Makes row j of each clip in `ancestry` [B, W, S] continue row sources[j] (`sources` is [B, W]),
// which wrote `position` last: new[j] = old[sources[j]], then new[j][position] = sources[j].
// Throws std::invalid_argument, before writing anything: a source or position out of range.
void update_ancestry(std::int32_t* ancestry, const std::int64_t* sources, std::int64_t clips,
                     std::int64_t beams, std::int64_t capacity, std::int64_t position);

}  // namespace pengi
