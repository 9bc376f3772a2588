// A small pool for loops of a few microseconds to milliseconds inside one decode step.
#pragma once

#include <cstdint>
#include <memory>

namespace pengi {

// Runs loops on the caller's thread and `threads - 1` workers. One thread at a time may use it.
//
// Between the loops of one call (see `Busy`) workers wait awake, because waking a thread takes
// longer than a loop; they yield, so that a process that shares the cores is not held up. After the
// call they sleep.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // While one exists, workers wait awake for the next loop.
  class Busy {
   public:
    explicit Busy(ThreadPool& pool);
    ~Busy();

   private:
    ThreadPool& pool_;
  };

  // Calls body(task, thread) for every task in [0, tasks), `thread` in [0, threads()). Tasks are
  // handed out one at a time, so a thread that is slowed down by others gets fewer.
  template <typename Body>
  void run(std::int64_t tasks, const Body& body) {
    run_tasks(tasks, [](const void* context, std::int64_t task, int thread) {
      (*static_cast<const Body*>(context))(task, thread);
    }, &body);
  }

 private:
  using Function = void (*)(const void*, std::int64_t, int);

  struct State;

  void run_tasks(std::int64_t tasks, Function function, const void* context);

  const int threads_;
  std::unique_ptr<State> state_;
};

}  // namespace pengi
