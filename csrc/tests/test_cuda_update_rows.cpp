// Against the CPU kernel: the same bits.
#include <cmath>
#include <vector>

#include "check.h"
#include "device_memory.h"

namespace {

using namespace peel;

struct Problem {
  int64_t rows, dim, count;
  int64_t weight_stride, gradient_stride;
  std::vector<float> weight, gradients, first, second;
  std::vector<int64_t> indices;
  float eps = 1e-8f;

  Problem(std::mt19937_64& random, int64_t num_rows, int64_t width, int64_t num_gradients)
      : rows(num_rows),
        dim(width),
        count(num_gradients),
        weight_stride(width + 3),
        gradient_stride(width + 1),
        weight(num_rows * weight_stride),
        gradients(num_gradients * gradient_stride),
        first(num_rows * (width + 1)),
        second(num_rows * (width + 1)) {
    std::normal_distribution<float> normal;
    // Zeros have a sign, which a sum keeps.
    for (auto& value : weight) value = random() % 4 ? normal(random) : -0.0f;
    for (auto& value : gradients) value = random() % 4 ? normal(random) : -0.0f;
    // Some rows have no sum yet.
    for (auto& value : first) value = random() % 2 ? std::fabs(normal(random)) : 0.0f;
    for (auto& value : second) value = std::fabs(normal(random));
    // A third of all gradients go to one row, a third to few.
    for (int64_t m = 0; m < count; ++m) {
      const int64_t among = m % 3 == 0 ? 1 : m % 3 == 1 ? (rows + 9) / 10 : rows;
      indices.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(among)));
    }
  }
  void zero_gradients_of_even_rows() {
    for (int64_t m = 0; m < count; ++m) {
      if (indices[m] % 2) continue;
      for (int64_t d = 0; d < dim; ++d) gradients[m * gradient_stride + d] = -0.0f;
    }
  }
};

struct Arrays {
  float *weight, *first, *second;
  const float* gradients;
  const int64_t* indices;
};

UpdateRows args_of(const Problem& problem, const Arrays& arrays) {
  UpdateRows args;
  args.weight = arrays.weight;
  args.num_embeddings = problem.rows;
  args.dim = problem.dim;
  args.weight_stride = problem.weight_stride;
  args.indices = arrays.indices;
  args.count = problem.count;
  args.gradients = arrays.gradients;
  args.gradient_stride = problem.gradient_stride;
  args.first = arrays.first;
  args.second = arrays.second;
  args.step_size = 0.1f;
  args.rate1 = 0.1f;
  args.rate2 = 0.01f;
  args.eps = problem.eps;
  return args;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The step on both; indices that the CPU refuses change nothing on the device, and are named.
template <UpdateRule kRule>
void equals_the_cpu(const Problem& start) {
  Problem want = start;
  const int64_t refused = peel::update_rows<kRule>(
      args_of(want, {want.weight.data(), want.first.data(), want.second.data(),
                     want.gradients.data(), want.indices.data()}));
  DeviceArray<float> weight(start.weight), first(start.first), second(start.second);
  DeviceArray<float> gradients(start.gradients);
  DeviceArray<int64_t> indices(start.indices);
  const UpdateRows args = args_of(
      start, {weight.data(), first.data(), second.data(), gradients.data(), indices.data()});
  auto offenders = kNoOffenders;
  if (refused >= 0) {
    offenders[cuda::kIndices] =
        offender(refused, static_cast<int32_t>(start.indices[static_cast<size_t>(refused)]));
  }
  CHECK(run_on_device(cuda::update_rows_workspace<kRule>(args), [&](const cuda::Launch& launch) {
          cuda::update_rows<kRule>(args, launch);
        }) == offenders);
  CHECK(same_bits(weight.read(), want.weight));
  CHECK(same_bits(first.read(), want.first));
  CHECK(same_bits(second.read(), want.second));
}

void both_rules(const Problem& problem) {
  equals_the_cpu<UpdateRule::kRowwiseAdagrad>(problem);
  equals_the_cpu<UpdateRule::kAdam>(problem);
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  for (int64_t dim = 0; dim <= 130; ++dim) both_rules(Problem(random, 20, dim, 40));
  for (const int64_t dim : {1, 8, 33, 64, 255, 256, 257, 700}) {
    for (const int64_t count : {0, 1, 2, 31, 32, 33, 65, 300}) {
      both_rules(Problem(random, 30, dim, count));
    }
    Problem zeros(random, 30, dim, 100);
    zeros.zero_gradients_of_even_rows();
    both_rules(zeros);
    zeros.eps = 0;
    equals_the_cpu<UpdateRule::kRowwiseAdagrad>(zeros);
  }
  both_rules(Problem(random, 1, 16, 100));
  for (const int64_t bad : {int64_t{-1}, int64_t{10}}) {
    Problem problem(random, 10, 3, 600);
    problem.indices[400] = bad;
    problem.indices[599] = -7;
    both_rules(problem);
  }
}
