#include "kernels/topk_blocks.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <type_traits>
#include <vector>

#include "core/executor.h"
#include "kernels/cpu/largest_values.h"

namespace peel {
namespace {

struct Candidate {
  double key;
  int64_t index;
};

bool before(const Candidate& a, const Candidate& b) {
  return a.key > b.key || (a.key == b.key && a.index < b.index);
}

using Iterator = std::vector<Candidate>::iterator;

// The end of the longest run from `begin`, in order, whose costs fit `budget`. Halves the range by
// selection, so the expected work is linear; only the kept blocks are ever sorted.
Iterator fitting_run(Iterator begin, Iterator end, const int64_t* costs, int64_t budget) {
  while (begin != end) {
    const Iterator middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, before);
    int64_t left = budget;  // subtracting keeps every sum inside int64
    Iterator at = begin;
    for (; at <= middle && costs[at->index] <= left; ++at) left -= costs[at->index];
    if (at > middle) {
      budget = left;
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// Returns the position of a NaN weight in the group, or -1.
template <typename Weight>
int64_t select_group(const TopkBlocks<Weight>& args, int64_t group) {
  const Weight* weights = args.weights + group * args.weight_stride;
  const bool by_budget = args.budget_bytes != nullptr;
  const int64_t width = by_budget ? args.n : args.k;
  int64_t* out = args.indices + group * width;
  if constexpr (std::is_same_v<Weight, float>) {
    if (!by_budget) return largest_values(weights, args.n, args.k, args.sorted, out);
  }
  const int64_t* costs = by_budget ? args.costs + group * args.cost_stride : nullptr;
  std::vector<Candidate> candidates(static_cast<size_t>(args.n));
  for (int64_t i = 0; i < args.n; ++i) {
    const double weight = static_cast<double>(weights[i]);
    if (std::isnan(weight)) return i;
    candidates[static_cast<size_t>(i)] = {
        by_budget ? weight / static_cast<double>(costs[i]) : weight, i};
  }
  Iterator end;
  if (by_budget) {
    end = fitting_run(candidates.begin(), candidates.end(), costs, args.budget_bytes[group]);
  } else {
    end = candidates.begin() + static_cast<std::ptrdiff_t>(args.k);
    if (end != candidates.end()) {
      std::nth_element(candidates.begin(), end, candidates.end(), before);
    }
  }
  if (args.sorted) {
    std::sort(candidates.begin(), end, before);
  } else {
    std::sort(candidates.begin(), end,
              [](const Candidate& a, const Candidate& b) { return a.index < b.index; });
  }
  for (Iterator at = candidates.begin(); at != end; ++at) *out++ = at->index;
  std::fill(out, args.indices + (group + 1) * width, int64_t{-1});
  return -1;
}

}  // namespace

template <typename Weight>
int64_t topk_blocks(const TopkBlocks<Weight>& args) {
  std::atomic<int64_t> first_nan{INT64_MAX};
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t nan = select_group(args, group);
      if (nan < 0) continue;
      int64_t seen = first_nan.load();
      while (group * args.n + nan < seen &&
             !first_nan.compare_exchange_weak(seen, group * args.n + nan)) {
      }
      return;
    }
  };
  // Many groups are shared out whole; each of a few large ones shares out its own work.
  if (args.num_groups < num_threads() && args.n > kFewValues) {
    run(0, args.num_groups);
  } else {
    parallel_for(args.num_groups, std::max<int64_t>(1, 16384 / std::max<int64_t>(args.n, 1)), run);
  }
  const int64_t found = first_nan.load();
  return found == INT64_MAX ? -1 : found;
}

template int64_t topk_blocks(const TopkBlocks<float>&);
template int64_t topk_blocks(const TopkBlocks<double>&);

}  // namespace peel
