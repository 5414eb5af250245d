// Against the CPU kernel: the same blocks in the same order.
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "check.h"
#include "device_memory.h"

namespace {

using namespace peel;

template <typename Weight>
struct Problem {
  int64_t groups = 1, n = 0;
  std::vector<Weight> weights;  // rows n + 3 apart
  std::vector<int64_t> costs;   // of one group, or rows n apart
  std::vector<int64_t> budgets;
  int64_t k = 0;

  int64_t weight_stride() const { return n + 3; }
  TopkBlocks<Weight> args(const Weight* w, const int64_t* c, const int64_t* b, bool sorted,
                          int64_t* out) const {
    TopkBlocks<Weight> args;
    args.num_groups = groups;
    args.n = n;
    args.weights = w;
    args.weight_stride = weight_stride();
    args.k = k;
    if (!budgets.empty()) {
      args.costs = c;
      args.cost_stride = static_cast<int64_t>(costs.size()) > n ? n : 0;
      args.budget_bytes = b;
    }
    args.sorted = sorted;
    args.indices = out;
    return args;
  }
};

template <typename Weight>
void equals_the_cpu(const Problem<Weight>& problem) {
  const int64_t width = problem.budgets.empty() ? problem.k : problem.n;
  DeviceArray<Weight> weights(problem.weights);
  DeviceArray<int64_t> costs(problem.costs), budgets(problem.budgets);
  for (const bool sorted : {true, false}) {
    std::vector<int64_t> want(static_cast<size_t>(problem.groups * width) + 1, -7);
    CHECK(peel::topk_blocks(problem.args(problem.weights.data(), problem.costs.data(),
                                         problem.budgets.data(), sorted, want.data())) == -1);
    want.pop_back();
    DeviceArray<int64_t> got(problem.groups * width, -9);
    const auto args =
        problem.args(weights.data(), costs.data(), budgets.data(), sorted, got.data());
    const auto offenders =
        run_on_device(cuda::topk_blocks_workspace(args),
                      [&](const cuda::Launch& launch) { cuda::topk_blocks(args, launch); });
    CHECK(offenders == kNoOffenders);
    CHECK(got.read() == want);
  }
}

template <typename Weight, typename Value>
Problem<Weight> filled(int64_t groups, int64_t n, Value&& value) {
  Problem<Weight> problem;
  problem.groups = groups;
  problem.n = n;
  for (int64_t i = 0; i < groups * (n + 3); ++i) {
    problem.weights.push_back(static_cast<Weight>(value(i)));
  }
  return problem;
}

// Few distinct values, so that ties abound; both zeros and both infinities among them.
template <typename Weight>
double few_values(std::mt19937_64& random) {
  const double values[] = {-1.5, -0.5, -0.0, 0.0, 0.5, 1, 1.5, INFINITY, -INFINITY};
  return values[random() % 9];
}

template <typename Weight>
void with_ties(std::mt19937_64& random, int64_t groups, int64_t n) {
  auto problem = filled<Weight>(groups, n, [&](int64_t) { return few_values<Weight>(random); });
  for (const int64_t k : {int64_t{0}, int64_t{1}, n / 3, n - 1, n}) {
    if (k < 0 || k > n) continue;
    problem.k = k;
    equals_the_cpu(problem);
  }
  for (const int64_t cost_rows : {int64_t{1}, groups}) {
    problem.costs.clear();
    for (int64_t i = 0; i < cost_rows * n; ++i) {
      problem.costs.push_back(1 + static_cast<int64_t>(random() % 4));
    }
    const int64_t all =
        std::accumulate(problem.costs.begin(), problem.costs.begin() + n, int64_t{0});
    for (const int64_t budget : {int64_t{0}, int64_t{1}, all / 2, all - 1, all, INT64_MAX}) {
      problem.budgets.clear();
      for (int64_t g = 0; g < groups; ++g)
        problem.budgets.push_back(std::max(budget - g, int64_t{0}));
      equals_the_cpu(problem);
    }
  }
}

template <typename Weight>
void with_shapes(std::mt19937_64& random, int64_t groups, int64_t n) {
  std::normal_distribution<double> normal;
  const std::vector<Problem<Weight>> problems{
      filled<Weight>(groups, n, [&](int64_t) { return normal(random); }),
      filled<Weight>(groups, n, [&](int64_t i) { return -static_cast<double>(i / 3); }),
      filled<Weight>(groups, n, [&](int64_t) { return 0.25; }),
      filled<Weight>(groups, n,
                     [&](int64_t i) { return i % 100 == 7 ? INFINITY : 1e-40 * double(i); }),
  };
  for (Problem<Weight> problem : problems) {
    for (const int64_t k : {n / 1000, n / 10, n - 1}) {
      problem.k = k;
      equals_the_cpu(problem);
    }
    // Sums of costs pass 2^32.
    for (int64_t i = 0; i < n; ++i) {
      problem.costs.push_back(static_cast<int64_t>(random() % (int64_t{1} << 31)) + 1);
    }
    for (const int64_t budget : {n << 26, n << 29, n << 32}) {
      problem.budgets.assign(static_cast<size_t>(groups), budget);
      equals_the_cpu(problem);
    }
  }
}

// Costs that no 64-bit sum holds.
void with_huge_costs(int64_t n) {
  auto problem = filled<float>(2, n, [](int64_t i) { return i % 5; });
  problem.costs.assign(static_cast<size_t>(n), INT64_MAX);
  problem.budgets = {INT64_MAX, INT64_MAX - 1};
  equals_the_cpu(problem);
  for (int64_t i = 0; i < n; i += 2) problem.costs[static_cast<size_t>(i)] = INT64_MAX / n;
  equals_the_cpu(problem);
}

// So many that the groups are sorted one after another.
void with_many_selected(std::mt19937_64& random) {
  auto problem = filled<float>(2, 70'000, [&](int64_t) { return random() % 50'000; });
  problem.k = 66'000;
  equals_the_cpu(problem);
}

void too_little_workspace_is_refused() {
  auto problem = filled<float>(1, 9'000, [](int64_t i) { return i; });
  problem.k = 10;
  DeviceArray<float> weights(problem.weights);
  DeviceArray<int64_t> out(10);
  const auto args = problem.args(weights.data(), nullptr, nullptr, true, out.data());
  run_on_device(cuda::topk_blocks_workspace(args) - 1,
                [&](const cuda::Launch& launch) { CHECK_THROWS(cuda::topk_blocks(args, launch)); });
}

void a_nan_is_reported(int64_t n) {
  auto problem = filled<float>(3, n, [](int64_t i) { return i; });
  problem.weights[static_cast<size_t>(problem.weight_stride() + n - 1)] = std::nanf("");
  problem.weights[static_cast<size_t>(2 * problem.weight_stride())] = -std::nanf("");
  problem.weights[static_cast<size_t>(n + 1)] = std::nanf("");  // between the rows: not looked at
  DeviceArray<float> weights(problem.weights);
  for (const int64_t k : {int64_t{0}, n / 2, n}) {
    problem.k = k;
    DeviceArray<int64_t> out(3 * k);
    const auto args = problem.args(weights.data(), nullptr, nullptr, true, out.data());
    auto want = kNoOffenders;
    want[cuda::kNan] = offender(2 * n - 1, 0);
    CHECK(run_on_device(cuda::topk_blocks_workspace(args), [&](const cuda::Launch& launch) {
            cuda::topk_blocks(args, launch);
          }) == want);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  for (const int64_t n : {0, 1, 2, 31, 32, 33, 65, 257, 2047, 2049}) {
    for (const int64_t groups : {0, 1, 3}) {
      with_ties<float>(random, groups, n);
      with_ties<double>(random, groups, n);
    }
  }
  with_ties<float>(random, 2, 8'195);
  with_shapes<float>(random, 2, 8'195);
  with_shapes<double>(random, 1, 8'193);
  with_many_selected(random);
  too_little_workspace_is_refused();
  for (const int64_t n : {100, 9'000}) {
    with_huge_costs(n);
    a_nan_is_reported(n);
  }
}
