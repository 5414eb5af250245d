#include "core/executor.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace peel {
namespace {

constexpr int kMaxThreads = 1024;

int default_num_threads() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    const int count = CPU_COUNT(&set);
    if (count > 0) return std::min(count, kMaxThreads);
  }
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count == 0 ? 1 : static_cast<int>(std::min<unsigned>(count, kMaxThreads));
}

std::atomic<int> g_num_threads{0};
thread_local bool t_inside = false;

class Pool {
 public:
  ~Pool() { stop(); }

  // Runs range r of `ranges` for every r; false when another caller holds the pool.
  bool run(int64_t count, int ranges, RangeFunction function, void* context) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock()) return false;
    grow(ranges - 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = Job{count, ranges, function, context};
      next_ = 1;
      pending_ = ranges - 1;
      failure_ = nullptr;
    }
    wake_.notify_all();
    std::exception_ptr own = run_range(job_, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
    const std::exception_ptr failure = own ? own : failure_;
    lock.unlock();
    if (failure) std::rethrow_exception(failure);
    return true;
  }

 private:
  struct Job {
    int64_t count = 0;
    int ranges = 0;
    RangeFunction function = nullptr;
    void* context = nullptr;
  };

  static std::exception_ptr run_range(const Job& job, int range) {
    const int64_t each = job.count / job.ranges;
    const int64_t extra = job.count % job.ranges;
    const int64_t begin = range * each + std::min<int64_t>(range, extra);
    const int64_t end = begin + each + (range < extra ? 1 : 0);
    t_inside = true;
    std::exception_ptr failure;
    try {
      job.function(job.context, begin, end);
    } catch (...) {
      failure = std::current_exception();
    }
    t_inside = false;
    return failure;
  }

  void grow(int workers) {
    while (static_cast<int>(threads_.size()) < workers) {
      threads_.emplace_back([this] { work(); });
    }
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || next_ < job_.ranges; });
      if (stopping_) return;
      const int range = next_++;
      const Job job = job_;
      lock.unlock();
      const std::exception_ptr failure = run_range(job, range);
      lock.lock();
      if (failure && !failure_) failure_ = failure;
      if (--pending_ == 0) done_.notify_one();
    }
  }

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  std::mutex owner_;  // held by the one caller whose job runs
  std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> threads_;
  Job job_;
  int next_ = 0;
  int pending_ = 0;
  bool stopping_ = false;
  std::exception_ptr failure_;
};

std::atomic<Pool*> g_pool{nullptr};

// A forked child has none of the parent's workers and may hold its locks in any state, so it
// forgets the pool (leaking one) and starts afresh.
void forget_pool() {
  g_pool.store(nullptr);
  t_inside = false;
}

// Never destroyed: workers may outlive static destruction, and the process's end takes them.
Pool& pool() {
  Pool* existing = g_pool.load(std::memory_order_acquire);
  if (existing) return *existing;
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  (void)registered;
#endif
  Pool* fresh = new Pool;
  if (g_pool.compare_exchange_strong(existing, fresh)) return *fresh;
  delete fresh;
  return *existing;
}

}  // namespace

int num_threads() {
  const int count = g_num_threads.load(std::memory_order_relaxed);
  if (count > 0) return count;
  static const int fallback = default_num_threads();
  return fallback;
}

void set_num_threads(int count) {
  if (count < 1 || count > kMaxThreads) {
    throw std::invalid_argument("num_threads must be between 1 and 1024, got " +
                                std::to_string(count));
  }
  g_num_threads.store(count, std::memory_order_relaxed);
}

void parallel_for(int64_t count, int64_t grain, RangeFunction function, void* context) {
  if (count <= 0) return;
  const int64_t most = (count + std::max<int64_t>(grain, 1) - 1) / std::max<int64_t>(grain, 1);
  const int ranges = static_cast<int>(std::min<int64_t>(num_threads(), most));
  if (ranges <= 1 || t_inside || !pool().run(count, ranges, function, context)) {
    function(context, 0, count);
  }
}

}  // namespace peel
