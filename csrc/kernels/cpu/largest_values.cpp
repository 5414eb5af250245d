#include "kernels/cpu/largest_values.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "core/executor.h"
#include "core/records.h"
#include "simd/primitives.h"

namespace peel {
namespace {

constexpr int64_t kChunk = int64_t{1} << 18;  // values a thread takes at a time
constexpr int64_t kPiece = 4096;              // values between two looks at the results
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What one pass over a chunk finds.
struct Chunk {
  int64_t above = 0;           // values above the window
  std::vector<float> between;  // those in it
  float largest = -kInfinity;
  int64_t nan = -1;   // position of the first NaN
  int64_t ties = 0;   // values equal to the threshold to take here
  int64_t begin = 0;  // where its results start
};

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
      int64_t above = 0;
      std::vector<float> between;
      for (const Chunk& chunk : chunks_) {
        above += chunk.above;
        between.insert(between.end(), chunk.between.begin(), chunk.between.end());
      }
      const int64_t rank = k_ - above;  // of the threshold, among those between
      if (rank >= 1 && rank <= static_cast<int64_t>(between.size())) {
        std::nth_element(between.begin(), between.begin() + (rank - 1), between.end(),
                         std::greater<float>());
        threshold_ = between[static_cast<size_t>(rank - 1)];
        share_out();
        return -1;
      }
      // The sample misled: the rank lies on a known side of the window.
      if (rank < 1) {
        low_ = high_;
        high_ = kInfinity;
      } else {
        high_ = low_;
        low_ = -kInfinity;
      }
    }
  }

  // Calls put(chunk, at, position, value) for every selected value, `at` its place in ascending
  // position; chunks run in parallel.
  template <typename Put>
  void collect(Put&& put) {
    parallel_for(static_cast<int64_t>(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
      std::vector<uint32_t> found(static_cast<size_t>(kPiece + simd::kSlack));
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
    const int64_t size = std::clamp<int64_t>(n_ / 64, 1024, 65536);
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
      const auto at = sample.begin() + static_cast<int64_t>(rank);
      std::nth_element(sample.begin(), at, sample.end(), std::greater<float>());
      return *at;
    };
    const double first = share * count - spread, last = share * count + spread;
    high_ = first < 0 || first >= count ? kInfinity : value_at(first);
    low_ = last >= count ? -kInfinity : value_at(last);
  }

  int64_t look_through() {
    parallel_for(static_cast<int64_t>(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
      std::vector<float> found(static_cast<size_t>(kPiece + simd::kSlack));
      for (int64_t c = begin; c < end; ++c) {
        Chunk& chunk = chunks_[static_cast<size_t>(c)];
        chunk = Chunk{};
        for (int64_t first = c * kChunk; first < end_of(c) && chunk.nan < 0; first += kPiece) {
          const int64_t count = std::min(kPiece, end_of(c) - first);
          bool nan = false;
          const int64_t some =
              isa_.collect_between(values_ + first, count, low_, high_, found.data(), &chunk.above,
                                   &chunk.largest, &nan);
          chunk.between.insert(chunk.between.end(), found.begin(), found.begin() + some);
          for (int64_t i = first; nan && chunk.nan < 0; ++i) {
            if (std::isnan(values_[i])) chunk.nan = i;
          }
        }
      }
    });
    for (const Chunk& chunk : chunks_) {
      if (chunk.nan >= 0) return chunk.nan;
      largest_ = std::max(largest_, chunk.largest);
    }
    return -1;
  }

  // How many results each chunk has, so that all know where theirs start.
  void share_out() {
    int64_t ties = k_;
    for (Chunk& chunk : chunks_) {
      chunk.above += std::count_if(chunk.between.begin(), chunk.between.end(),
                                   [this](float value) { return value > threshold_; });
      ties -= chunk.above;
    }
    int64_t begin = 0;
    for (Chunk& chunk : chunks_) {
      const int64_t equal = std::count(chunk.between.begin(), chunk.between.end(), threshold_);
      chunk.ties = std::min(ties, equal);
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
void collect_sorted(Selection& selection, int64_t k, int64_t* out) {
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

}  // namespace

int64_t largest_values(const float* values, int64_t n, int64_t k, bool sorted, int64_t* out) {
  if (k == 0) {
    const float* nan = std::find_if(values, values + n, [](float v) { return std::isnan(v); });
    return nan == values + n ? -1 : nan - values;
  }
  Selection selection(values, n, k);
  const int64_t nan = selection.find_threshold();
  if (nan >= 0) return nan;
  if (sorted) {
    collect_sorted(selection, k, out);
  } else {
    selection.collect([out](int64_t at, int64_t position, float) { out[at] = position; });
  }
  return -1;
}

}  // namespace peel
