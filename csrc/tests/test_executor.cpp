#if !defined(_WIN32)
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "core/executor.h"
#include "core/out_of_range.h"

namespace {

void every_item_runs_once(int64_t count, int64_t grain) {
  std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
  peel::parallel_for(count, grain, [&](int64_t begin, int64_t end) {
    CHECK(begin < end);
    for (int64_t i = begin; i < end; ++i) seen[static_cast<size_t>(i)]++;
  });
  for (const auto& times : seen) CHECK(times == 1);
}

void ranges_are_as_promised(int threads, int64_t count, int64_t grain) {
  std::mutex mutex;
  std::vector<std::pair<int64_t, int64_t>> ranges;
  peel::parallel_for(count, grain, [&](int64_t begin, int64_t end) {
    const std::lock_guard<std::mutex> lock(mutex);
    ranges.emplace_back(begin, end);
  });
  std::sort(ranges.begin(), ranges.end());
  CHECK(static_cast<int64_t>(ranges.size()) ==
        std::min<int64_t>(threads, std::max<int64_t>(count / grain, 1)));
  int64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    CHECK(begin == at);
    CHECK(end - begin >= grain || ranges.size() == 1);
    at = end;
  }
  CHECK(at == count);
}

void exceptions_reach_the_caller(int threads) {
  CHECK_THROWS(peel::parallel_for(100, 1, [](int64_t, int64_t end) {
    if (end == 100) throw std::runtime_error("last range");
  }));
  // All ranges run, and whichever throws first, that of the lowest arrives.
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::atomic<int> ran{0};
    std::string told;
    try {
      peel::parallel_for(100, 1, [&](int64_t begin, int64_t) {
        ran++;
        throw std::runtime_error(std::to_string(begin));
      });
    } catch (const std::runtime_error& error) {
      told = error.what();
    }
    CHECK(ran == threads);
    CHECK(told == "0");
  }
  every_item_runs_once(100, 1);
}

void nested_calls_run() {
  std::atomic<int64_t> total{0};
  peel::parallel_for(8, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      peel::parallel_for(10, 1, [&](int64_t b, int64_t e) { total += e - b; });
    }
  });
  CHECK(total == 80);
}

void callers_may_race() {
  std::atomic<int64_t> total{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t) {
    callers.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        peel::parallel_for(50, 1, [&](int64_t b, int64_t e) { total += e - b; });
      }
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK(total == 4 * 200 * 50);
}

void the_number_of_threads_may_change_meanwhile(int threads) {
  std::atomic<bool> stop{false};
  std::thread changer([&] {
    for (int i = 0; !stop; ++i) peel::set_num_threads(1 + i % 7);
  });
  std::vector<std::thread> callers;
  for (int t = 0; t < 3; ++t) {
    callers.emplace_back([] {
      for (int i = 0; i < 300; ++i) every_item_runs_once(1 + i % 40, 1 + i % 3);
    });
  }
  for (auto& caller : callers) caller.join();
  stop = true;
  changer.join();
  peel::set_num_threads(threads);
}

// ThreadSanitizer cannot follow a fork of a process with threads, and qemu's user mode sometimes
// fails at it.
#if !defined(__SANITIZE_THREAD__) && !defined(PEEL_EMULATED) && !defined(_WIN32)
#define PEEL_FORKS 1
bool child_succeeds(pid_t child) {
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

pid_t fork_and_run() {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // a hang must fail, not block
    every_item_runs_once(100, 1);
    every_item_runs_once(100, 1);
    _exit(0);
  }
  CHECK(child > 0);
  return child;
}

void a_forked_child_runs() {
  every_item_runs_once(100, 1);  // the parent has workers now
  CHECK(child_succeeds(fork_and_run()));
  every_item_runs_once(100, 1);
}

void a_child_forked_while_the_pool_is_busy_runs() {
  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;
  for (int t = 0; t < 2; ++t) {
    callers.emplace_back([&] {
      while (!stop) peel::parallel_for(50, 1, [](int64_t, int64_t) {});
    });
  }
  for (int i = 0; i < 20; ++i) CHECK(child_succeeds(fork_and_run()));
  stop = true;
  for (auto& caller : callers) caller.join();
  // From inside a range, too.
  std::atomic<int> good{0};
  peel::parallel_for(4, 1, [&](int64_t begin, int64_t) {
    if (begin == 0) good += child_succeeds(fork_and_run());
  });
  CHECK(good == 1);
}

// In a child, because a process reads the environment once. Under sanitizers, whose start-up the
// parent has seen to, only the variable is new.
void the_environment_sets_the_number_of_threads() {
  for (const auto& [text, expected] :
       std::vector<std::pair<const char*, int>>{{"3", 3},
                                                {"1024", 1024},
                                                {"", 0},
                                                {"0", -1},
                                                {"1025", -1},
                                                {"two", -1},
                                                {"2x", -1},
                                                {"99999999999999999999", -1}}) {
    const pid_t child = fork();
    if (child == 0) {
      setenv("PEEL_NUM_THREADS", text, 1);
      int found = -1;
      try {
        found = peel::num_threads();
      } catch (const std::invalid_argument& error) {
        if (std::string(error.what()).find(text) == std::string::npos) found = -2;
      }
      _exit(expected == 0 ? found < 1 : found != expected);
    }
    CHECK(child_succeeds(child));
  }
}

// As where the system has no thread to spare; a child, because the limit cannot be raised again.
void calls_run_without_workers() {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    const rlimit none{0, 0};
    // The superuser's processes are not limited, so he becomes nobody first.
    if (setrlimit(RLIMIT_NPROC, &none) != 0 || (getuid() == 0 && setuid(65534) != 0)) _exit(0);
    peel::set_num_threads(4);
    every_item_runs_once(100, 1);
    _exit(0);
  }
  CHECK(child_succeeds(child));
}
#endif

void finds_what_is_out_of_range() {
  std::vector<int32_t> values(3000, 5);
  CHECK(peel::first_out_of_range(values.data(), 3000, 6) == -1);
  CHECK(peel::first_out_of_range(values.data(), 0, 0) == -1);
  values[2999] = 6;
  values[2998] = -1;
  CHECK(peel::first_out_of_range(values.data(), 3000, 6) == 2998);
  CHECK(peel::first_out_of_range(values.data(), 3000, 5) == 0);
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  CHECK(peel::first_out_of_range(values.data(), 3000, most) == 2998);
  std::vector<int64_t> wide(2000, 0);
  CHECK(peel::first_out_of_range(wide.data(), 2000, 0) == 0);
  CHECK(peel::first_out_of_range(wide.data(), 2000, 1) == -1);
  for (const int64_t outside : {most, -most - 1, int64_t{-1}, int64_t{1} << 31, int64_t{7}}) {
    wide[1500] = outside;
    CHECK(peel::first_out_of_range(wide.data(), 2000, 7) == 1500);
  }
  wide[1500] = most - 1;
  CHECK(peel::first_out_of_range(wide.data(), 2000, most) == -1);
  wide[1500] = most;
  CHECK(peel::first_out_of_range(wide.data(), 2000, most) == 1500);
}

}  // namespace

int main() {
#if defined(PEEL_FORKS)
  the_environment_sets_the_number_of_threads();
  calls_run_without_workers();
#endif
  for (const int threads : {1, 2, 5}) {
    peel::set_num_threads(threads);
    CHECK(peel::num_threads() == threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      for (const int64_t grain : {1, 3, 5000}) {
        every_item_runs_once(count, grain);
        if (count > 0) ranges_are_as_promised(threads, count, grain);
      }
    }
    exceptions_reach_the_caller(threads);
    nested_calls_run();
    callers_may_race();
    the_number_of_threads_may_change_meanwhile(threads);
#if defined(PEEL_FORKS)
    a_forked_child_runs();
    a_child_forked_while_the_pool_is_busy_runs();
#endif
  }
  CHECK_THROWS(peel::set_num_threads(0));
  CHECK_THROWS(peel::set_num_threads(1025));
  finds_what_is_out_of_range();
}
