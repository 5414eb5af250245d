#include <cmath>
#include <vector>

#include "check.h"
#include "core/executor.h"
#include "kernels/update_rows.h"

namespace {

using peel::UpdateRows;
using peel::UpdateRule;

struct Problem {
  int64_t rows, dim, count;
  std::vector<float> weight, gradients, first, second;
  std::vector<int64_t> indices;

  Problem(std::mt19937_64& random, int64_t num_rows, int64_t width, int64_t num_gradients)
      : rows(num_rows),
        dim(width),
        count(num_gradients),
        weight(num_rows * width),
        gradients(num_gradients * width + 1),
        first(num_rows * width, 0.25f),
        second(num_rows * width, 0.5f) {
    std::normal_distribution<float> normal;
    for (auto& value : weight) value = normal(random);
    for (auto& value : gradients) value = normal(random);
    // Half of all gradients go to few rows.
    for (int64_t m = 0; m < count; ++m) {
      indices.push_back(static_cast<int64_t>(random() % (m % 2 ? rows : (rows + 9) / 10)));
    }
    indices.push_back(0);  // never an empty address
  }
  UpdateRows args() {
    UpdateRows args;
    args.weight = weight.data();
    args.num_embeddings = rows;
    args.dim = dim;
    args.weight_stride = dim;
    args.indices = indices.data();
    args.count = count;
    args.gradients = gradients.data();
    args.gradient_stride = dim;
    args.first = first.data();
    args.second = second.data();
    args.step_size = 0.1f;
    args.rate1 = 0.1f;
    args.rate2 = 0.01f;
    args.eps = 1e-8f;
    return args;
  }
};

void close(const std::vector<float>& got, const std::vector<double>& want) {
  CHECK(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    CHECK(std::fabs(got[i] - want[i]) <= 1e-5 * (1 + std::fabs(want[i])));
  }
}

template <UpdateRule kRule>
void follows_the_formula(std::mt19937_64& random, int64_t rows, int64_t dim, int64_t count) {
  const Problem start(random, rows, dim, count);
  std::vector<double> gradient(rows * dim), w(start.weight.begin(), start.weight.end());
  std::vector<double> first(start.first.begin(), start.first.end());
  std::vector<double> second(start.second.begin(), start.second.end());
  std::vector<bool> touched(rows);
  for (int64_t m = 0; m < count; ++m) {
    touched[start.indices[m]] = true;
    for (int64_t d = 0; d < dim; ++d) {
      gradient[start.indices[m] * dim + d] += start.gradients[m * dim + d];
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    if (!touched[i]) continue;
    const double* g = gradient.data() + i * dim;
    double square = 0;
    for (int64_t d = 0; d < dim; ++d) square += g[d] * g[d];
    if (kRule == UpdateRule::kRowwiseAdagrad) first[i] += square / double(dim);
    for (int64_t d = 0; d < dim; ++d) {
      const int64_t at = i * dim + d;
      if (kRule == UpdateRule::kRowwiseAdagrad) {
        w[at] -= 0.1 * g[d] / (std::sqrt(first[i]) + 1e-8);
      } else {
        first[at] += 0.1 * (g[d] - first[at]);
        second[at] += 0.01 * (g[d] * g[d] - second[at]);
        w[at] -= 0.1 * first[at] / (std::sqrt(second[at]) + 1e-8);
      }
    }
  }
  std::vector<float> before;
  for (const int threads : {1, 2, 5}) {
    peel::set_num_threads(threads);
    Problem now = start;
    CHECK(peel::update_rows<kRule>(now.args()) == -1);
    close(now.weight, w);
    close(now.first, first);
    close(now.second, second);
    CHECK(before.empty() || now.weight == before);
    before = now.weight;
    for (int64_t i = 0; i < rows * dim; ++i) {
      CHECK(touched[i / dim] || now.weight[i] == start.weight[i]);
    }
  }
}

void writes_nothing_when_an_index_is_bad(std::mt19937_64& random) {
  Problem problem(random, 10, 3, 600);
  for (const int64_t bad : {int64_t{-1}, int64_t{10}}) {
    problem.indices[599] = bad;
    const std::vector<float> before = problem.weight;
    CHECK(peel::update_rows<UpdateRule::kAdam>(problem.args()) == 599);
    CHECK(problem.weight == before);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  for (const int64_t dim : {1, 7, 8, 9, 64}) {
    for (const int64_t count : {0, 1, 2, 3000}) {
      follows_the_formula<UpdateRule::kRowwiseAdagrad>(random, 50, dim, count);
      follows_the_formula<UpdateRule::kAdam>(random, 50, dim, count);
    }
  }
  writes_nothing_when_an_index_is_bad(random);
}
