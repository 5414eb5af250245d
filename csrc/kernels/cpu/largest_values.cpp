#include "kernels/cpu/largest_values.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "core/executor.h"
#include "core/records.h"
#include "kernels/cpu/few_values.h"
#include "simd/primitives.h"

namespace peel {
namespace {

constexpr int64_t kChunk = kFewValues;  // values a thread takes at a time
constexpr int64_t kPiece = 4096;        // values between two looks at the results
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What one pass over a chunk finds of a window.
struct Chunk {
  simd::WindowCounts counts;
  std::vector<float> between;  // the values strictly inside
  int64_t nan = -1;            // position of the first NaN
  int64_t above = 0;           // values above the threshold
  int64_t ties = 0;            // values equal to it: those there are, then those to take
  int64_t begin = 0;           // where the results of this chunk start
};

// The value of a rank, from 1, of values without NaN.
float ranked(const std::vector<float>& values, int64_t rank) {
  FewValues few(values.data(), static_cast<int64_t>(values.size()), rank);
  few.find_threshold();
  return few.threshold();
}

class Selection {
 public:
  Selection(const float* values, int64_t n, int64_t k)
      : values_(values),
        n_(n),
        k_(k),
        isa_(simd::primitives()),
        chunks_(static_cast<size_t>((n + kChunk - 1) / kChunk)) {}

  // Finds the threshold and what every chunk contributes; returns the position of a NaN, or -1.
  int64_t find_threshold() {
    guess_window();
    while (true) {
      const int64_t nan = look_through();
      if (nan >= 0) return nan;
      int64_t above = 0, at_high = 0, at_low = 0, inside = 0;
      for (const Chunk& chunk : chunks_) {
        above += chunk.counts.above;
        at_high += chunk.counts.at_high;
        at_low += chunk.counts.at_low;
        inside += static_cast<int64_t>(chunk.between.size());
      }
      const int64_t rank = k_ - above;  // of the threshold, from the upper end of the window down
      if (rank < 1) {
        // The sample misled: the threshold lies above the window, or else below it.
        low_ = high_;
        high_ = kInfinity;
      } else if (rank > at_high + inside + at_low) {
        high_ = low_;
        low_ = -kInfinity;
      } else {
        threshold_ = rank <= at_high           ? high_
                     : rank > at_high + inside ? low_
                                               : ranked_between(rank - at_high);
        share_out();
        return -1;
      }
    }
  }

  // Calls put(at, position, value) for every selected value, `at` its place in ascending position;
  // chunks run in parallel.
  template <typename Put>
  void collect(Put&& put) {
    parallel_for(static_cast<int64_t>(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
      std::vector<uint32_t> found(static_cast<size_t>(kPiece));
      for (int64_t c = begin; c < end; ++c) {
        Chunk& chunk = chunks_[static_cast<size_t>(c)];
        int64_t at = chunk.begin;
        for (int64_t first = c * kChunk; first < end_of(c); first += kPiece) {
          const int64_t count = std::min(kPiece, end_of(c) - first);
          const int64_t picked =
              isa_.collect_from(values_ + first, count, threshold_, &chunk.ties, found.data());
          for (int64_t i = 0; i < picked; ++i) {
            const int64_t position = first + found[static_cast<size_t>(i)];
            put(at++, position, values_[position]);
          }
        }
      }
    });
  }

  float threshold() const { return threshold_; }
  float largest() const { return largest_; }

 private:
  int64_t end_of(int64_t chunk) const { return std::min(n_, (chunk + 1) * kChunk); }

  // The window around the k-th value of a sample that almost surely holds the one of all values:
  // four standard deviations of a binomial rank to either side.
  void guess_window() {
    const int64_t size = std::min(n_, std::clamp<int64_t>(n_ / 64, 1024, 65536));
    std::vector<float> sample;
    uint64_t state = 0x9e3779b97f4a7c15ull;
    const int64_t stride = n_ / size;
    for (int64_t i = 0; i < size; ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      const float value =
          values_[i * stride + static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(stride))];
      if (!std::isnan(value)) sample.push_back(value);
    }
    const auto count = static_cast<double>(sample.size());
    const double share = static_cast<double>(k_) / static_cast<double>(n_);
    const double spread = 4 * std::sqrt(count * share * (1 - share)) + 4;
    const auto value_at = [&](double rank) {
      return ranked(sample, static_cast<int64_t>(rank) + 1);
    };
    const double first = share * count - spread, last = share * count + spread;
    high_ = first < 0 || first >= count ? kInfinity : value_at(first);
    low_ = last >= count ? -kInfinity : value_at(last);
  }

  // One pass over everything; returns the position of the first NaN, or -1.
  int64_t look_through() {
    parallel_for(static_cast<int64_t>(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
      std::vector<float> found(static_cast<size_t>(kPiece));
      for (int64_t c = begin; c < end; ++c) {
        Chunk& chunk = chunks_[static_cast<size_t>(c)];
        chunk = Chunk{};
        chunk.counts.largest = -kInfinity;
        for (int64_t first = c * kChunk; first < end_of(c) && chunk.nan < 0; first += kPiece) {
          const int64_t count = std::min(kPiece, end_of(c) - first);
          const int64_t some = isa_.collect_between(values_ + first, count, low_, high_,
                                                    found.data(), &chunk.counts);
          chunk.between.insert(chunk.between.end(), found.begin(),
                               found.begin() + static_cast<std::ptrdiff_t>(some));
          for (int64_t i = first; chunk.counts.nan && chunk.nan < 0; ++i) {
            if (std::isnan(values_[i])) chunk.nan = i;
          }
        }
      }
    });
    for (const Chunk& chunk : chunks_) {
      if (chunk.nan >= 0) return chunk.nan;
      largest_ = std::max(largest_, chunk.counts.largest);
    }
    return -1;
  }

  // The value of a rank, from 1, among those strictly inside the window.
  float ranked_between(int64_t rank) const {
    std::vector<float> between;
    for (const Chunk& chunk : chunks_) {
      between.insert(between.end(), chunk.between.begin(), chunk.between.end());
    }
    return ranked(between, rank);
  }

  // How many results each chunk has, so that all know where theirs start.
  void share_out() {
    int64_t ties = k_;
    for (Chunk& chunk : chunks_) {
      chunk.above = chunk.counts.above + (threshold_ < high_ ? chunk.counts.at_high : 0);
      chunk.ties = threshold_ == high_  ? chunk.counts.at_high
                   : threshold_ == low_ ? chunk.counts.at_low
                                        : 0;
      for (const float value : chunk.between) {
        chunk.above += value > threshold_;
        chunk.ties += value == threshold_;
      }
      ties -= chunk.above;
    }
    int64_t begin = 0;
    for (Chunk& chunk : chunks_) {
      chunk.ties = std::min(ties, chunk.ties);
      ties -= chunk.ties;
      chunk.begin = begin;
      begin += chunk.above + chunk.ties;
    }
  }

  const float* values_;
  int64_t n_;
  int64_t k_;
  const simd::Primitives& isa_;
  std::vector<Chunk> chunks_;
  float low_ = -kInfinity;
  float high_ = kInfinity;
  float threshold_ = 0;
  float largest_ = -kInfinity;
};

// Unsigned integers that ascend where floats do; -0.0 and 0.0 are one.
uint32_t ascending(float value) {
  const float whole = value + 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &whole, sizeof(bits));
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Sorts while it collects: the records move between `out` and as much memory again, so that the
// last pass ends in `out`. Keys count from the threshold up, and only digits they use take a pass.
template <typename From>
void collect_sorted(From& selection, int64_t k, int64_t* out) {
  const uint32_t lowest = ascending(selection.threshold());
  int passes = 0;
  for (uint64_t range = ascending(selection.largest()) - lowest; range;
       range >>= kRecordDigitBits) {
    ++passes;
  }
  if (passes == 0) {
    selection.collect([out](int64_t at, int64_t position, float) { out[at] = position; });
    return;
  }
  const std::unique_ptr<uint64_t[]> scratch(new uint64_t[static_cast<size_t>(k)]);
  uint64_t* from = scratch.get();
  auto* to = reinterpret_cast<uint64_t*>(out);
  if (passes % 2 == 0) std::swap(from, to);
  selection.collect([from, lowest](int64_t at, int64_t position, float value) {
    from[at] = uint64_t{ascending(value) - lowest} << 32 | static_cast<uint64_t>(position);
  });
  for (int digit = 0; digit + 1 < passes; ++digit) {
    scatter_records<true>(from, k, digit, [to](int64_t at, uint64_t record) { to[at] = record; });
    std::swap(from, to);
  }
  scatter_records<true>(from, k, passes - 1, [out](int64_t at, uint64_t record) {
    out[at] = static_cast<int64_t>(record & 0xffffffffu);
  });
}

template <typename From>
void write_largest(From& from, int64_t k, bool sorted, int64_t* out) {
  if (sorted) {
    collect_sorted(from, k, out);
  } else {
    from.collect([out](int64_t at, int64_t position, float) { out[at] = position; });
  }
}

// Returns the position of the first NaN, or -1.
int64_t largest_of_few(const float* values, int64_t n, int64_t k, bool sorted, int64_t* out) {
  FewValues few(values, n, k);
  const int64_t nan = few.find_threshold();
  if (nan >= 0) return nan;
  if (sorted && k <= FewValues::kRanked) {
    few.collect_ranked(out);
  } else {
    write_largest(few, k, sorted, out);
  }
  return -1;
}

}  // namespace

int64_t largest_values(const float* values, int64_t n, int64_t k, bool sorted, int64_t* out) {
  if (k == 0) return first_nan(values, n);
  if (n <= kFewValues) return largest_of_few(values, n, k, sorted, out);
  Selection selection(values, n, k);
  const int64_t nan = selection.find_threshold();
  if (nan < 0) write_largest(selection, k, sorted, out);
  return nan;
}

}  // namespace peel
