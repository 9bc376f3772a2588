// Memory for large arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace pengi {

struct FreePages {
  void operator()(void* data) const;
};

// Uninitialized memory that starts at a page, a huge one where the system has those.
template <typename T>
using Pages = std::unique_ptr<T[], FreePages>;

// Throws std::bad_alloc.
void* allocate_pages(std::size_t bytes);

template <typename T>
Pages<T> pages(std::int64_t size) {
  return Pages<T>(static_cast<T*>(allocate_pages(static_cast<std::size_t>(size) * sizeof(T))));
}

}  // namespace pengi
