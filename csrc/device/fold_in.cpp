#include "device/fold_in.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/cpu/tiles.h"
#include "kernels/grouped_lookup.h"

namespace peel {
namespace {

using simd::kSumLanes;
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

// Every step reads all rows: those that fit here are decoded once, the others in every step.
constexpr int64_t kDecodedBytes = int64_t{1} << 20;

// The mean of all held rows' unit vectors under a softmax of a user, in one pass over their
// tiles.
class ExpectedRow {
 public:
  ExpectedRow(const PackedTable& table, float temperature)
      : isa_(simd::primitives()),
        tiles_(table, isa_),
        reader_(tiles_),
        temperature_(temperature),
        tile_values_(tiles_.dim() * kTileRows),
        num_decoded_(std::min(tiles_.count(), kDecodedBytes / 4 / tile_values_)),
        decoded_(static_cast<size_t>(num_decoded_ * tile_values_)),
        scales_(static_cast<size_t>(tiles_.count() * kTileRows)),
        sums_(static_cast<size_t>(tiles_.dim() * kSumLanes)) {
    whole_.num_runs = 1;
    whole_.runs[0] = {0, tiles_.dim()};
    for (int64_t tile = 0; tile < tiles_.count(); ++tile) {
      reader_.enter(tile);
      const LoadedTile& loaded = reader_.load();
      measure(loaded, scales_.data() + tile * kTileRows);
      if (tile < num_decoded_) keep(loaded, decoded_.data() + tile * tile_values_);
    }
  }

  // Writes the mean to `out` [dim].
  void of(const float* user, float* out) {
    std::fill(sums_.begin(), sums_.end(), 0.0f);
    std::fill_n(totals_, kTileRows, 0.0f);
    most_ = -std::numeric_limits<float>::infinity();
    for (int64_t tile = 0; tile < tiles_.count(); ++tile) {
      add(user, load(tile), scales_.data() + tile * kTileRows);
    }
    const double total = std::accumulate(totals_, totals_ + kTileRows, 0.0);
    for (int64_t d = 0; d < tiles_.dim(); ++d) {
      const float* sums = sums_.data() + d * kSumLanes;
      const double sum = std::accumulate(sums, sums + kSumLanes, 0.0);
      out[d] = total > 0 ? static_cast<float>(sum / total * temperature_) : 0.0f;
    }
  }

 private:
  // Copies a tile, with zeros in the columns that it does not hold.
  static void keep(const LoadedTile& tile, float* decoded) {
    const float* values = tile.values;
    for (int64_t run = 0; run < tile.num_runs; ++run) {
      const int64_t count = tile.runs[run].width * kTileRows;
      std::copy_n(values, count, decoded + tile.runs[run].begin * kTileRows);
      values += count;
    }
  }

  const LoadedTile& load(int64_t tile) {
    if (tile < num_decoded_) {
      whole_.values = decoded_.data() + tile * tile_values_;
      return whole_;
    }
    reader_.enter(tile);
    return reader_.load();
  }

  // One over lengths and temperature of a tile's rows; 0 for those of length 0, or that there are
  // not.
  void measure(const LoadedTile& tile, float* scales) const {
    float squares[kTileRows] = {};
    const float* values = tile.values;
    for (int64_t run = 0; run < tile.num_runs; ++run) {
      for (int64_t d = 0; d < tile.runs[run].width; ++d, values += kTileRows) {
        for (int64_t r = 0; r < kTileRows; ++r) squares[r] += values[r] * values[r];
      }
    }
    for (int64_t r = 0; r < kTileRows; ++r) {
      const bool there = r < tile.count && squares[r] > 0;
      scales[r] = there ? 1 / (std::sqrt(squares[r]) * temperature_) : 0.0f;
    }
  }

  void add(const float* user, const LoadedTile& tile, const float* scales) {
    float dots[kTileRows] = {};
    const float* values = tile.values;
    for (int64_t run = 0; run < tile.num_runs; ++run) {
      const Run& columns = tile.runs[run];
      isa_.dot_tile(user + columns.begin, 1, 0, values, columns.width, run > 0, dots);
      values += columns.width * kTileRows;
    }
    float shares[kTileRows];  // of the softmax; then over length and temperature of the row
    if (const uint32_t above = isa_.share_tile(dots, scales, most_, shares)) {
      raise(dots, scales, above);
      isa_.share_tile(dots, scales, most_, shares);
    }
    for (int64_t r = 0; r < kTileRows; ++r) totals_[r] += shares[r];
    for (int64_t r = 0; r < kTileRows; ++r) shares[r] *= scales[r];
    values = tile.values;
    for (int64_t run = 0; run < tile.num_runs; ++run) {
      const Run& columns = tile.runs[run];
      isa_.sum_tile(shares, values, columns.width, sums_.data() + columns.begin * kSumLanes);
      values += columns.width * kTileRows;
    }
  }

  // Measures shares by the largest of these rows from now on.
  void raise(const float* dots, const float* scales, uint32_t rows) {
    float most = most_;
    for (; rows; rows &= rows - 1) {
      const int r = __builtin_ctz(rows);
      most = std::max(most, dots[r] * scales[r]);
    }
    const float shrink = std::exp(most_ - most);
    for (float& sum : sums_) sum *= shrink;
    for (float& total : totals_) total *= shrink;
    most_ = most;
  }

  const simd::Primitives& isa_;
  PackedTiles tiles_;
  PackedTiles::Reader reader_;
  float temperature_;
  int64_t tile_values_;
  int64_t num_decoded_;         // tiles in decoded_, which are the first
  std::vector<float> decoded_;  // [tiles, dim, kTileRows]
  LoadedTile whole_;            // one of them
  std::vector<float> scales_;   // [tiles, kTileRows]
  std::vector<float> sums_;     // [dim, kSumLanes]
  float totals_[kTileRows];     // of the shares
  float most_;                  // of the cosines over the temperature, so far in this pass
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
