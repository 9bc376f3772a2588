#include "thread_pool.hpp"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

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

struct ThreadPool::State {
  void work(int thread);
  void take_tasks(int thread, std::uint32_t loop);
  void join();

  const pid_t process = getpid();
  std::vector<std::thread> workers;
  // The loop's number in the upper half, the tasks that nobody has taken yet in the lower: a worker
  // that comes late cannot take a task of another loop.
  std::atomic<std::uint64_t> ticket{0};
  std::atomic<std::uint32_t> unfinished{0};
  std::atomic<Function> function{nullptr};
  std::atomic<const void*> context{nullptr};
  std::atomic<bool> busy{false};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
};

ThreadPool::ThreadPool(int threads)
    : threads_(threads < 1 ? 1 : threads), state_(std::make_unique<State>()) {
  State* state = state_.get();
  try {
    for (int thread = 1; thread < threads_; ++thread)
      state->workers.emplace_back([state, thread] { state->work(thread); });
  } catch (...) {  // the system starts no more threads
    state->join();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() != state_->process) {
    state_.release();  // a forked child has no workers to join, and nobody to wake
    return;
  }
  state_->join();
}

void ThreadPool::State::join() {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    stop = true;
  }
  wake.notify_all();
  for (std::thread& worker : workers) worker.join();
}

ThreadPool::Busy::Busy(ThreadPool& pool) : pool_(pool) {
  {
    const std::lock_guard<std::mutex> lock(pool_.state_->mutex);
    pool_.state_->busy = true;
  }
  pool_.state_->wake.notify_all();
}

ThreadPool::Busy::~Busy() { pool_.state_->busy = false; }

void ThreadPool::run_tasks(std::int64_t tasks, Function function, const void* context) {
  if (threads_ == 1 || tasks < 2) {
    for (std::int64_t task = 0; task < tasks; ++task) function(context, task, 0);
    return;
  }
  State& state = *state_;
  const std::uint32_t loop = loop_of(state.ticket.load(std::memory_order_relaxed)) + 1;
  state.function.store(function, std::memory_order_relaxed);
  state.context.store(context, std::memory_order_relaxed);
  state.unfinished.store(static_cast<std::uint32_t>(tasks), std::memory_order_relaxed);
  state.ticket.store(std::uint64_t{loop} << 32 | static_cast<std::uint64_t>(tasks),
                     std::memory_order_release);
  state.take_tasks(0, loop);
  while (state.unfinished.load(std::memory_order_acquire) != 0) wait_a_moment();
}

void ThreadPool::State::work(int thread) {
  std::uint32_t done = 0;
  while (!stop) {
    const std::uint32_t loop = loop_of(ticket.load(std::memory_order_acquire));
    if (loop != done) {
      take_tasks(thread, loop);
      done = loop;
    } else if (busy.load(std::memory_order_relaxed)) {
      wait_a_moment();
    } else {
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, [this] { return stop || busy; });
    }
  }
}

void ThreadPool::State::take_tasks(int thread, std::uint32_t loop) {
  std::uint64_t seen = ticket.load(std::memory_order_acquire);
  while (loop_of(seen) == loop && static_cast<std::uint32_t>(seen) != 0) {
    if (!ticket.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) continue;
    const std::int64_t task = static_cast<std::uint32_t>(seen) - 1;
    const Function body = function.load(std::memory_order_relaxed);
    body(context.load(std::memory_order_relaxed), task, thread);
    unfinished.fetch_sub(1, std::memory_order_acq_rel);
    seen = ticket.load(std::memory_order_acquire);
  }
}

}  // namespace pengi
