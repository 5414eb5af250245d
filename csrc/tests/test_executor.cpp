#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <thread>
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

void exceptions_reach_the_caller() {
  CHECK_THROWS(peel::parallel_for(100, 1, [](int64_t, int64_t end) {
    if (end == 100) throw std::runtime_error("last range");
  }));
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

#if !defined(__SANITIZE_THREAD__)
void a_forked_child_runs() {
  every_item_runs_once(100, 1);  // the parent has workers now
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a hang must fail, not block
    every_item_runs_once(100, 1);
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
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
}

}  // namespace

int main() {
  for (const int threads : {1, 2, 5}) {
    peel::set_num_threads(threads);
    CHECK(peel::num_threads() == threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      for (const int64_t grain : {1, 3, 5000}) every_item_runs_once(count, grain);
    }
    exceptions_reach_the_caller();
    nested_calls_run();
    callers_may_race();
#if !defined(__SANITIZE_THREAD__)
    a_forked_child_runs();
#endif
  }
  CHECK_THROWS(peel::set_num_threads(0));
  CHECK_THROWS(peel::set_num_threads(1025));
  finds_what_is_out_of_range();
}
