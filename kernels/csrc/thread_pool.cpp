#include "thread_pool.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pengi {
namespace {

constexpr int kPauses = 64;  // about 2 us between yields

void wait_a_moment() {
  for (int i = 0; i < kPauses; ++i) {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }
  std::this_thread::yield();
}

std::uint32_t loop_of(std::uint64_t ticket) { return static_cast<std::uint32_t>(ticket >> 32); }

}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int thread = 1; thread < threads; ++thread)
    workers_.emplace_back([this, thread] { work(thread); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

ThreadPool::Busy::Busy(ThreadPool& pool) : pool_(pool) {
  {
    const std::lock_guard<std::mutex> lock(pool_.mutex_);
    pool_.busy_ = true;
  }
  pool_.wake_.notify_all();
}

ThreadPool::Busy::~Busy() { pool_.busy_ = false; }

void ThreadPool::run_tasks(std::int64_t tasks, Function function, const void* context) {
  if (workers_.empty() || tasks < 2) {
    for (std::int64_t task = 0; task < tasks; ++task) function(context, task, 0);
    return;
  }
  const std::uint32_t loop = loop_of(ticket_.load(std::memory_order_relaxed)) + 1;
  function_.store(function, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  unfinished_.store(static_cast<std::uint32_t>(tasks), std::memory_order_relaxed);
  ticket_.store(std::uint64_t{loop} << 32 | static_cast<std::uint64_t>(tasks),
                std::memory_order_release);
  take_tasks(0, loop);
  while (unfinished_.load(std::memory_order_acquire) != 0) wait_a_moment();
}

void ThreadPool::work(int thread) {
  std::uint32_t done = 0;
  while (true) {
    const std::uint32_t loop = loop_of(ticket_.load(std::memory_order_acquire));
    if (loop != done) {
      take_tasks(thread, loop);
      done = loop;
    } else if (busy_.load(std::memory_order_relaxed)) {
      wait_a_moment();
    } else {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || busy_; });
    }
    if (stop_) return;
  }
}

void ThreadPool::take_tasks(int thread, std::uint32_t loop) {
  std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (loop_of(ticket) == loop && static_cast<std::uint32_t>(ticket) != 0) {
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
    const std::int64_t task = static_cast<std::uint32_t>(ticket) - 1;
    function_.load(std::memory_order_relaxed)(context_.load(std::memory_order_relaxed), task,
                                              thread);
    unfinished_.fetch_sub(1, std::memory_order_acq_rel);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

}  // namespace pengi
