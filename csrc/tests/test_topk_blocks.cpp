#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "check.h"
#include "core/executor.h"
#include "kernels/topk_blocks.h"

namespace {

template <typename Weight>
std::vector<int64_t> expected(const std::vector<Weight>& w, const std::vector<int64_t>* costs,
                              int64_t limit) {
  std::vector<int64_t> order(w.size());
  std::iota(order.begin(), order.end(), 0);
  const auto key = [&](int64_t i) {
    return costs ? double(w[i]) / double((*costs)[i]) : double(w[i]);
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return key(a) > key(b); });
  std::vector<int64_t> kept;
  int64_t spent = 0;
  for (const int64_t i : order) {
    spent += costs ? (*costs)[i] : 1;
    if (spent > limit) break;
    kept.push_back(i);
  }
  return kept;
}

template <typename Weight>
std::vector<int64_t> run(const std::vector<Weight>& w, const std::vector<int64_t>* costs,
                         int64_t limit, int64_t groups = 1) {
  peel::TopkBlocks<Weight> args;
  args.num_groups = groups;
  args.n = static_cast<int64_t>(w.size()) / groups;
  args.weights = w.data();
  args.weight_stride = args.n;
  args.k = limit;
  std::vector<int64_t> budgets(groups, limit);
  if (costs) {
    args.costs = costs->data();
    args.budget_bytes = budgets.data();
  }
  std::vector<int64_t> out(groups * (costs ? args.n : limit), -7);
  args.indices = out.data();
  CHECK(peel::topk_blocks(args) == -1);
  return out;
}

template <typename Weight>
void agrees_with_a_sort(std::mt19937_64& random, int64_t n) {
  std::vector<Weight> w(n);
  std::vector<int64_t> costs(n);
  for (int64_t i = 0; i < n; ++i) {
    // Few distinct values, so that ties abound; both zeros among them.
    w[i] = static_cast<Weight>(static_cast<int>(random() % 7) - 3) / 2 * (random() % 2 ? 1 : -1);
    costs[i] = 1 + static_cast<int64_t>(random() % 4);
  }
  for (const int64_t k : {int64_t{0}, n / 3, std::max<int64_t>(n - 1, 0), n}) {
    CHECK(run(w, nullptr, k) == expected(w, nullptr, k));
  }
  const int64_t all = std::accumulate(costs.begin(), costs.end(), int64_t{0});
  for (const int64_t budget : {int64_t{0}, int64_t{1}, all / 2, all - 1, all, all + 5}) {
    if (budget < 0) continue;
    std::vector<int64_t> want = expected(w, &costs, budget);
    want.resize(n, -1);
    CHECK(run(w, &costs, budget) == want);
  }
}

void refuses_nan() {
  std::vector<float> w(30, 1.0f);
  w[25] = std::nanf("");
  peel::TopkBlocks<float> args;
  args.num_groups = 3;
  args.n = 10;
  args.weights = w.data();
  args.weight_stride = 10;
  args.k = 2;
  std::vector<int64_t> out(6);
  args.indices = out.data();
  CHECK(peel::topk_blocks(args) == 25);
}

void huge_costs_do_not_overflow() {
  const std::vector<float> w{3, 2, 1};
  const std::vector<int64_t> costs{INT64_MAX, INT64_MAX, INT64_MAX};
  const std::vector<int64_t> kept = run(w, &costs, INT64_MAX);
  CHECK(kept == (std::vector<int64_t>{0, -1, -1}));
}

void infinities_are_ordered() {
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(run(std::vector<float>{0, -inf, inf, inf}, nullptr, 4) ==
        (std::vector<int64_t>{2, 3, 0, 1}));
}

// Large inputs of every shape that a sample could misjudge, against a full sort.
void selects_among_many(std::mt19937_64& random) {
  const float inf = std::numeric_limits<float>::infinity();
  std::normal_distribution<float> normal;
  const auto filled = [&](int64_t n, auto&& value) {
    std::vector<float> w(n);
    for (int64_t i = 0; i < n; ++i) w[i] = value(i);
    return w;
  };
  for (const int64_t n : {4096, 10000, 262144, 262144 + 5}) {
    const std::vector<std::vector<float>> shapes{
        filled(n, [&](int64_t) { return normal(random); }),
        filled(n, [&](int64_t i) { return static_cast<float>(i); }),
        filled(n, [&](int64_t i) { return -static_cast<float>(i / 3); }),
        filled(n, [&](int64_t) { return 0.25f; }),
        filled(n, [&](int64_t) { return random() % 2 ? 0.0f : -0.0f; }),
        filled(n, [&](int64_t) { return static_cast<float>(random() % 5); }),
        filled(n,
               [&](int64_t i) { return i % 100 == 7  ? inf
                                       : i % 10 == 3 ? -inf
                                                     : normal(random); }),
        // All large values where a regular sample would hardly look.
        filled(n, [&](int64_t i) { return i > n - n / 100 ? 1 + normal(random) : -9; }),
    };
    for (const std::vector<float>& w : shapes) {
      const std::vector<int64_t> order = expected(w, nullptr, n);
      for (const int64_t k : {int64_t{1}, n / 1000, n / 10, n - 1, n}) {
        const std::vector<int64_t> want(order.begin(), order.begin() + k);
        std::vector<int64_t> ascending = want;
        std::sort(ascending.begin(), ascending.end());
        for (const int threads : {1, 3}) {
          peel::set_num_threads(threads);
          peel::TopkBlocks<float> args;
          args.num_groups = 1;
          args.n = n;
          args.weights = w.data();
          args.weight_stride = n;
          args.k = k;
          std::vector<int64_t> got(k);
          args.indices = got.data();
          CHECK(peel::topk_blocks(args) == -1);
          CHECK(got == want);
          args.sorted = false;
          CHECK(peel::topk_blocks(args) == -1);
          CHECK(got == ascending);
        }
      }
    }
    std::vector<float> w = shapes[0];
    w[n - 1] = std::nanf("");
    w[n / 2] = std::nanf("");
    for (const int64_t k : {int64_t{0}, n / 10, n}) {
      peel::TopkBlocks<float> args;
      args.num_groups = 1;
      args.n = n;
      args.weights = w.data();
      args.weight_stride = n;
      args.k = k;
      std::vector<int64_t> got(k + 1);
      args.indices = got.data();
      CHECK(peel::topk_blocks(args) == n / 2);
    }
  }
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  for (const int threads : {1, 3}) {
    peel::set_num_threads(threads);
    for (const int64_t n : {0, 1, 2, 3, 7, 8, 9, 64, 1000}) {
      agrees_with_a_sort<float>(random, n);
      agrees_with_a_sort<double>(random, n);
    }
  }
  refuses_nan();
  huge_costs_do_not_overflow();
  infinities_are_ordered();
  selects_among_many(random);
}
