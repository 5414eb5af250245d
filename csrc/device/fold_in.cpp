#include "device/fold_in.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/tiles.h"
#include "kernels/grouped_lookup.h"

namespace peel {
namespace {

using simd::kTileRows;

float length_of(const float* vector, int64_t dim) {
  double squares = 0;
  for (int64_t d = 0; d < dim; ++d) squares += static_cast<double>(vector[d]) * vector[d];
  return static_cast<float>(std::sqrt(squares));
}

void normalise(float* vector, int64_t dim) {
  const float length = length_of(vector, dim);
  for (int64_t d = 0; d < dim && length > 0; ++d) vector[d] /= length;
}

constexpr int64_t kLanes = 8;  // partial sums, so that a compiler may add them side by side

// The mean of all held rows' unit vectors under a softmax of a user, in one pass over their
// tiles.
class ExpectedRow {
 public:
  ExpectedRow(const PackedTable& table, float temperature)
      : tiles_(table, simd::primitives()),
        reader_(tiles_),
        temperature_(temperature),
        lengths_(static_cast<size_t>(tiles_.count() * kTileRows)),
        sum_(static_cast<size_t>(table.geometry.dim)) {
    for (int64_t tile = 0; tile < tiles_.count(); ++tile) {
      reader_.enter(tile);
      measure(reader_.load(), lengths_.data() + tile * kTileRows);
    }
  }

  // Writes the mean to `out` [dim].
  void of(const float* user, float* out) {
    std::fill(sum_.begin(), sum_.end(), 0.0f);
    total_ = 0;
    most_ = -std::numeric_limits<float>::infinity();
    for (int64_t tile = 0; tile < tiles_.count(); ++tile) {
      reader_.enter(tile);
      add(user, reader_.load(), lengths_.data() + tile * kTileRows);
    }
    for (size_t d = 0; d < sum_.size(); ++d) {
      out[d] = total_ > 0 ? static_cast<float>(sum_[d] / total_) : 0.0f;
    }
  }

 private:
  // Lengths of a tile's rows; 0 for those there are not.
  static void measure(const LoadedTile& tile, float* lengths) {
    float squares[kTileRows] = {};
    const float* values = tile.values;
    for (int64_t run = 0; run < tile.num_runs; ++run) {
      for (int64_t d = 0; d < tile.runs[run].width; ++d, values += kTileRows) {
        for (int64_t r = 0; r < kTileRows; ++r) squares[r] += values[r] * values[r];
      }
    }
    for (int64_t r = 0; r < kTileRows; ++r) {
      lengths[r] = r < tile.count ? std::sqrt(squares[r]) : 0.0f;
    }
  }

  void add(const float* user, const LoadedTile& tile, const float* lengths) {
    float cosines[kTileRows] = {};  // over the temperature
    const float* values = tile.values;
    for (int64_t run = 0; run < tile.num_runs; ++run) {
      for (int64_t d = 0; d < tile.runs[run].width; ++d, values += kTileRows) {
        const float weight = user[tile.runs[run].begin + d];
        for (int64_t r = 0; r < kTileRows; ++r) cosines[r] += weight * values[r];
      }
    }
    float most = most_;
    for (int64_t r = 0; r < tile.count; ++r) {
      if (!(lengths[r] > 0)) continue;
      cosines[r] /= lengths[r] * temperature_;
      most = std::max(most, cosines[r]);
    }
    if (most > most_) {
      const float shrink = std::exp(most_ - most);
      for (float& value : sum_) value *= shrink;
      total_ *= shrink;
      most_ = most;
    }
    float shares[kTileRows] = {};  // of the softmax, over the row's length
    for (int64_t r = 0; r < tile.count; ++r) {
      if (!(lengths[r] > 0)) continue;
      const float share = std::exp(cosines[r] - most_);
      total_ += share;
      shares[r] = share / lengths[r];
    }
    add_rows(tile, shares);
  }

  void add_rows(const LoadedTile& tile, const float* shares) {
    const float* values = tile.values;
    for (int64_t run = 0; run < tile.num_runs; ++run) {
      for (int64_t d = 0; d < tile.runs[run].width; ++d, values += kTileRows) {
        float parts[kLanes] = {};
        for (int64_t r = 0; r < kTileRows; r += kLanes) {
          for (int64_t lane = 0; lane < kLanes; ++lane) {
            parts[lane] += shares[r + lane] * values[r + lane];
          }
        }
        float& sum = sum_[static_cast<size_t>(tile.runs[run].begin + d)];
        for (const float part : parts) sum += part;
      }
    }
  }

  PackedTiles tiles_;
  PackedTiles::Reader reader_;
  float temperature_;
  std::vector<float> lengths_;
  std::vector<float> sum_;
  double total_ = 0;
  float most_ = 0;
};

}  // namespace

int64_t fold_in(const PackedTable& table, const int64_t* history, int64_t count,
                const FoldInSettings& settings, float* user) {
  const int64_t dim = table.geometry.dim;
  std::vector<float> rows(static_cast<size_t>(count * dim));
  grouped_lookup(table, LookupPairs<int64_t>{count, history, nullptr, 0}, rows.data());
  std::vector<float> mean(static_cast<size_t>(dim));
  int64_t held = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float* row = rows.data() + i * dim;
    const float length = length_of(row, dim);
    if (!(length > 0)) continue;
    ++held;
    for (int64_t d = 0; d < dim; ++d) mean[static_cast<size_t>(d)] += row[d] / length;
  }
  for (float& value : mean) value /= static_cast<float>(std::max<int64_t>(held, 1));
  std::copy(mean.begin(), mean.end(), user);
  normalise(user, dim);
  if (held == 0) return 0;
  ExpectedRow expected(table, settings.temperature);
  std::vector<float> row(static_cast<size_t>(dim));
  for (int32_t step = 0; step < settings.steps; ++step) {
    expected.of(user, row.data());
    for (int64_t d = 0; d < dim; ++d) {
      const auto at = static_cast<size_t>(d);
      user[d] -= settings.step_size * ((row[at] - mean[at]) / settings.temperature);
    }
    normalise(user, dim);
  }
  return held;
}

int64_t continue_vector(const PackedTable& table, int64_t known_count, const int64_t* items,
                        int64_t count, const FoldInSettings& settings, float* user) {
  const int64_t dim = table.geometry.dim;
  std::vector<float> folded(static_cast<size_t>(dim));
  const int64_t held = fold_in(table, items, count, settings, folded.data());
  if (held == 0) return 0;
  const float share = static_cast<float>(count) / static_cast<float>(known_count + count);
  for (int64_t d = 0; d < dim; ++d) {
    user[d] = (1 - share) * user[d] + share * folded[static_cast<size_t>(d)];
  }
  normalise(user, dim);
  return held;
}

}  // namespace peel
