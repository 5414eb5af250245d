#include "kernels/update_rows.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/out_of_range.h"
#include "kernels/cpu/prefetch.h"
#include "kernels/cpu/row_runs.h"

namespace peel {
namespace {

constexpr int64_t kGrain = 256;  // gradients below which a second thread costs more than it saves
constexpr int64_t kAhead = 8;    // gradients whose rows are on their way from memory at any time

// Partial sums over every eighth value, so that the loop has eight independent chains.
float mean_square(const float* g, int64_t dim) {
  float sums[8] = {};
  int64_t d = 0;
  for (; d + 8 <= dim; d += 8) {
    for (int64_t i = 0; i < 8; ++i) sums[i] += g[d + i] * g[d + i];
  }
  for (int64_t i = 0; d < dim; ++d, ++i) sums[i] += g[d] * g[d];
  for (int64_t half = 4; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0] / static_cast<float>(dim);
}

template <UpdateRule kRule>
struct Step;

template <>
struct Step<UpdateRule::kRowwiseAdagrad> {
  static PEEL_ALWAYS_INLINE void prefetch_state(const UpdateRows& args, int64_t row) {
    __builtin_prefetch(args.first + row);
  }
  static void apply(const UpdateRows& args, int64_t row, const float* __restrict__ g) {
    float* __restrict__ w = args.weight + row * args.weight_stride;
    float& sum = args.first[row];
    if (args.dim > 0) sum += mean_square(g, args.dim);
    if (sum == 0) return;
    const float step = args.step_size / (std::sqrt(sum) + args.eps);
    for (int64_t d = 0; d < args.dim; ++d) w[d] -= step * g[d];
  }
};

template <>
struct Step<UpdateRule::kAdam> {
  static PEEL_ALWAYS_INLINE void prefetch_state(const UpdateRows& args, int64_t row) {
    prefetch(args.first + row * args.dim, args.dim * 4);
    prefetch(args.second + row * args.dim, args.dim * 4);
  }
  static void apply(const UpdateRows& args, int64_t row, const float* __restrict__ g) {
    float* __restrict__ w = args.weight + row * args.weight_stride;
    float* __restrict__ m = args.first + row * args.dim;
    float* __restrict__ v = args.second + row * args.dim;
    for (int64_t d = 0; d < args.dim; ++d) {
      m[d] += args.rate1 * (g[d] - m[d]);
      v[d] += args.rate2 * (g[d] * g[d] - v[d]);
      w[d] -= args.step_size * m[d] / (std::sqrt(v[d]) + args.eps);
    }
  }
};

}  // namespace

template <UpdateRule kRule>
int64_t update_rows(const UpdateRows& args) {
  const int64_t bad = first_out_of_range(args.indices, args.count, args.num_embeddings);
  if (bad >= 0) return bad;
  const RowRuns runs(args.indices, args.count, args.num_embeddings);
  const auto gradient = [&](int64_t at) {
    return args.gradients + runs.position(at) * args.gradient_stride;
  };
  runs.for_each(kGrain, [&](int64_t first, int64_t last) {
    const auto bring = [&](int64_t at) __attribute__((always_inline)) {
      if (at >= runs.size()) return;
      prefetch(gradient(at), args.dim * 4);
      prefetch(args.weight + runs.row(at) * args.weight_stride, args.dim * 4);
      Step<kRule>::prefetch_state(args, runs.row(at));
    };
    bring(first + kAhead);
    const float* g = gradient(first);
    if (last - first > 1) {
      thread_local std::vector<float> sum;
      sum.assign(g, g + args.dim);
      for (int64_t at = first + 1; at < last; ++at) {
        bring(at + kAhead);
        const float* more = gradient(at);
        for (int64_t d = 0; d < args.dim; ++d) sum[static_cast<size_t>(d)] += more[d];
      }
      g = sum.data();
    }
    Step<kRule>::apply(args, runs.row(first), g);
  });
  return -1;
}

template int64_t update_rows<UpdateRule::kRowwiseAdagrad>(const UpdateRows&);
template int64_t update_rows<UpdateRule::kAdam>(const UpdateRows&);

}  // namespace peel
