#include "core/executor.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

namespace peel {
namespace {

constexpr int kMaxThreads = 1024;

// PEEL_NUM_THREADS, or 0 where it is not set.
int num_threads_asked_for() {
  const char* text = std::getenv("PEEL_NUM_THREADS");
  if (text == nullptr || *text == '\0') return 0;
  char* end = nullptr;
  errno = 0;
  const long count = std::strtol(text, &end, 10);
  if (errno != 0 || *end != '\0' || count < 1 || count > kMaxThreads) {
    throw std::invalid_argument("PEEL_NUM_THREADS is '" + std::string(text) +
                                "', expected an integer between 1 and 1024");
  }
  return static_cast<int>(count);
}

int num_processors() {
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

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waking a thread takes tens of microseconds, as long as a small call takes; one that stays awake a
// little between calls need not be woken. Long enough for the caller to end its own range, too: one
// that ends much later would find the others asleep at every second call. Not where threads
// outnumber processors: there it would keep others from running.
constexpr std::chrono::microseconds kSpin{200};

template <typename Condition>
void spin_while(Condition&& waiting) {
  static const int processors = num_processors();
  if (num_threads() > processors) return;
  const auto end = std::chrono::steady_clock::now() + kSpin;
  while (waiting() && std::chrono::steady_clock::now() < end) {
    for (int i = 0; i < 16 && waiting(); ++i) pause();
  }
}

#if defined(_WIN32)
// Whoever unloads a library holds a lock that a thread needs to end, so workers cannot be waited
// for then: the code they run stays for as long as the process.
void keep_loaded() {
  HMODULE module;
  ::GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                       reinterpret_cast<LPCWSTR>(&keep_loaded), &module);
}
#else
void keep_loaded() {}
#endif

// Ranges are cut before anything runs and handed out in order; which thread takes which is of no
// matter. The caller takes them like the workers, so a worker that is slow to wake up, or could not
// be started, costs nothing but its help.
class Pool {
 public:
  // Ends the workers, for good: from now on callers run every range themselves. Where a call is
  // running, its workers stay.
  void stop() {
    const std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock()) return;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    std::vector<std::thread>().swap(threads_);
  }

  // Runs every range; false when another caller holds the pool.
  bool run(int64_t count, int ranges, RangeFunction function, void* context) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock()) return false;
    grow(ranges - 1);
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = Job{count, ranges, function, context};
    next_ = 0;
    pending_ = ranges;
    failure_ = nullptr;
    jobs_.fetch_add(1, std::memory_order_relaxed);
    for (int i = 1; i < ranges; ++i) wake_.notify_one();
    while (next_ < ranges) run_next(lock);
    if (pending_ > 0) {
      lock.unlock();
      spin_while([this] { return pending_ > 0; });
      lock.lock();
    }
    done_.wait(lock, [this] { return pending_ == 0; });
    const std::exception_ptr failure = failure_;
    failure_ = nullptr;
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

  // Takes the next range and runs it unlocked.
  void run_next(std::unique_lock<std::mutex>& lock) {
    const int range = next_++;
    const Job job = job_;
    lock.unlock();
    const std::exception_ptr failure = run_range(job, range);
    lock.lock();
    if (failure && (!failure_ || range < failed_range_)) {
      failure_ = failure;
      failed_range_ = range;
    }
    if (--pending_ == 0) done_.notify_one();
  }

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
    if (stopping_) return;
    if (threads_.empty()) keep_loaded();
    while (static_cast<int>(threads_.size()) < workers) {
      try {
        threads_.emplace_back([this] { work(); });
      } catch (const std::system_error&) {
        return;  // no more threads to be had: those there are will do
      }
    }
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      const uint64_t seen = jobs_.load(std::memory_order_relaxed);
      if (!stopping_ && next_ >= job_.ranges) {
        lock.unlock();
        spin_while([&] { return jobs_.load(std::memory_order_relaxed) == seen; });
        lock.lock();
      }
      wake_.wait(lock, [this] { return stopping_ || next_ < job_.ranges; });
      if (stopping_) return;
      run_next(lock);
    }
  }

  std::mutex owner_;  // held by the one caller whose job runs; guards threads_
  std::vector<std::thread> threads_;
  std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  std::condition_variable done_;
  Job job_;
  int next_ = 0;
  std::atomic<int> pending_{0};    // changed under the mutex only, like
  std::atomic<uint64_t> jobs_{0};  // how many there were
  bool stopping_ = false;          // written with owner_ held, too
  std::exception_ptr failure_;
  int failed_range_ = 0;
};

std::atomic<Pool*> g_pool{nullptr};

#if defined(__unix__) || defined(__APPLE__)
// A forked child has none of the parent's workers and may hold its locks in any state, so it
// forgets the pool (leaking one) and starts afresh.
void forget_pool() {
  g_pool.store(nullptr);
  t_inside = false;
}

// As the library is loaded, so that no fork can come between the first pool and this.
[[maybe_unused]] const int g_registered = pthread_atfork(nullptr, nullptr, forget_pool);
#endif

// Never destroyed, for other static objects may compute as they are destroyed; the memory comes and
// goes with the library.
alignas(Pool) unsigned char g_first_pool[sizeof(Pool)];

struct Library {
  Library() {
    Pool* none = nullptr;
    g_pool.compare_exchange_strong(none, new (g_first_pool) Pool);
  }
#if !defined(_WIN32)
  // As it is unloaded or the process exits: no worker may outlive the code it runs.
  ~Library() {
    if (Pool* const existing = g_pool.load(std::memory_order_acquire)) existing->stop();
  }
#endif
};
[[maybe_unused]] const Library g_library;

// The first, or that of a forked child.
Pool& pool() {
  Pool* existing = g_pool.load(std::memory_order_acquire);
  if (existing) return *existing;
  Pool* fresh = new Pool;
  if (g_pool.compare_exchange_strong(existing, fresh)) return *fresh;
  delete fresh;
  return *existing;
}

}  // namespace

int num_threads() {
  int count = g_num_threads.load(std::memory_order_relaxed);
  if (count > 0) return count;
  const int asked_for = num_threads_asked_for();
  const int fallback = asked_for > 0 ? asked_for : num_processors();
  // Another thread may have set a number in between: that one counts.
  return g_num_threads.compare_exchange_strong(count, fallback) ? fallback : count;
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
  grain = std::max<int64_t>(grain, 1);
  const int64_t most = std::max<int64_t>(count / grain, 1);
  const int ranges = static_cast<int>(std::min<int64_t>(num_threads(), most));
  if (ranges <= 1 || t_inside || !pool().run(count, ranges, function, context)) {
    function(context, 0, count);
  }
}

}  // namespace peel
