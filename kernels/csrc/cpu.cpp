#include "cpu.hpp"

#include <stdexcept>

namespace pengi {

namespace generic { extern const Kernels kKernels; }
#if defined(__x86_64__)
namespace avx2 { extern const Kernels kKernels; }
namespace avx512 { extern const Kernels kKernels; }
namespace avx512vnni { extern const Kernels kKernels; }
#endif

namespace {

struct Entry {
  const Kernels* kernels;
  bool available;
};

std::vector<Entry> entries() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  return {{&avx512vnni::kKernels, vnni},
          {&avx512::kKernels, avx512},
          {&avx2::kKernels, avx2},
          {&generic::kKernels, true}};
#else
  return {{&generic::kKernels, true}};
#endif
}

}  // namespace

const Kernels& kernels_for(const std::string& name) {
  for (const Entry& entry : entries()) {
    if (!name.empty() && name != entry.kernels->name) continue;
    if (entry.available) return *entry.kernels;
    if (!name.empty()) throw std::invalid_argument("this CPU does not have " + name);
  }
  throw std::invalid_argument("there is no instruction set '" + name + "'");
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Entry& entry : entries())
    if (entry.available) names.emplace_back(entry.kernels->name);
  return names;
}

}  // namespace pengi
