#include "device/fold_in.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/sizes.h"
#include "kernels/grouped_lookup.h"
#include "kernels/packed_tiles.h"

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

// Takes the prior's part, the mean, out of a vector.
void part_taste(float* vector, int64_t dim) {
  double sum = 0;
  for (int64_t d = 0; d < dim; ++d) sum += vector[d];
  const float mean = static_cast<float>(sum / static_cast<double>(dim));
  for (int64_t d = 0; d < dim; ++d) vector[d] -= mean;
}

// Gives a taste the component of a user's vector.
void add_component(float* taste, int64_t dim, float prior) {
  const float share = prior / std::sqrt(static_cast<float>(dim));
  for (int64_t d = 0; d < dim; ++d) taste[d] += share;
}

// What the softmax runs over: all rows; of more than kRows the first kFirstRows, where rows come by
// what they are worth, and evenly spaced runs of the others, which are adjacent to be read
// together.
class RowSample {
 public:
  RowSample(const PackedTable& table, int64_t total) : total_(total) {
    if (total <= kRows) {
      first_ = total;
    } else {
      first_ = table.row_ids == RowIds::kInBlocks ? kFirstRows : 0;
      rest_weight_ = static_cast<float>(total - first_) / static_cast<float>(kRows - first_);
    }
  }
  int64_t size() const { return std::min(total_, kRows); }
  // The i-th row: of the others those in the middle of equal parts.
  int64_t row(int64_t i) const {
    if (i < first_) return i;
    const int64_t runs = (kRows - first_) / kRunRows;
    const int64_t run = (i - first_) / kRunRows;
    const int64_t middle = (2 * run + 1) * (total_ - first_) / (2 * runs);
    return first_ + middle - kRunRows / 2 + i % kRunRows;
  }
  // For how many rows each of a tile of the sample stands.
  float weight(int64_t tile) const { return tile * kTileRows < first_ ? 1.0f : rest_weight_; }

 private:
  static constexpr int64_t kRows = 2048;
  static constexpr int64_t kFirstRows = 1024;
  static constexpr int64_t kRunRows = 16;
  static_assert(kFirstRows % kTileRows == 0, "rows of a tile have one weight");
  int64_t total_;
  int64_t first_ = 0;
  float rest_weight_ = 1;
};

// The mean of the unit vectors of a sample of the held rows under a softmax of a user. The rows are
// decoded once, into tiles, for all steps.
class ExpectedRow {
 public:
  ExpectedRow(const PackedTable& table, const FoldInSettings& settings)
      : isa_(simd::primitives()),
        temperature_(settings.temperature),
        has_prior_(settings.prior > 0),
        dim_(table.geometry.dim) {
    const PackedTiles tiles(table, isa_);
    const RowSample sample(table, tiles.num_rows());
    num_tiles_ = (sample.size() + kTileRows - 1) / kTileRows;
    values_.resize(static_cast<size_t>(num_tiles_ * dim_ * kTileRows));
    scales_.resize(static_cast<size_t>(num_tiles_ * kTileRows));
    sums_.resize(static_cast<size_t>(dim_ * kSumLanes));
    PackedTiles::Reader reader(tiles);
    PackedTiles::RowPlace entered{-1, 0};
    for (int64_t tile = 0; tile < num_tiles_; ++tile) weights_.push_back(sample.weight(tile));
    for (int64_t i = 0; i < sample.size(); ++i) {
      const PackedTiles::RowPlace place = tiles.place_of(sample.row(i));
      if (place.tile != entered.tile) {
        reader.enter(place.tile);
        reader.load();
      }
      entered = place;
      keep(reader.loaded(), place.lane, i);
    }
  }

  // Writes the mean to `out` [dim].
  void of(const float* user, float* out) {
    std::fill(sums_.begin(), sums_.end(), 0.0f);
    std::fill_n(totals_, kTileRows, 0.0f);
    most_ = -std::numeric_limits<float>::infinity();
    for (int64_t tile = 0; tile < num_tiles_; ++tile) add(user, tile);
    const double total = std::accumulate(totals_, totals_ + kTileRows, 0.0);
    for (int64_t d = 0; d < dim_; ++d) {
      const float* sums = sums_.data() + d * kSumLanes;
      const double sum = std::accumulate(sums, sums + kSumLanes, 0.0);
      out[d] = total > 0 ? static_cast<float>(sum / total * temperature_) : 0.0f;
    }
  }

 private:
  // Copies one row of a tile, with zeros in the columns that it does not hold, and sets its scale:
  // one over its length and the temperature, 0 for a row of length 0.
  void keep(const LoadedTile& tile, int64_t lane, int64_t i) {
    float* to = values_.data() + i / kTileRows * dim_ * kTileRows + i % kTileRows;
    const float* from = tile.values + lane;
    float sum = 0;
    float squares = 0;
    for (int64_t run = 0; run < tile.num_runs; ++run) {
      const int64_t begin = tile.runs[run].begin;
      for (int64_t d = begin; d < begin + tile.runs[run].width; ++d, from += kTileRows) {
        to[d * kTileRows] = *from;
        sum += *from;
        squares += *from * *from;
      }
    }
    if (has_prior_) squares = part_taste(to, sum / static_cast<float>(dim_));
    scales_[static_cast<size_t>(i)] = squares > 0 ? 1 / (std::sqrt(squares) * temperature_) : 0.0f;
  }

  // Takes the mean out of one row of a tile; returns the square of the length of what is left.
  float part_taste(float* row, float mean) const {
    float squares = 0;
    for (int64_t d = 0; d < dim_; ++d) {
      float& value = row[d * kTileRows];
      value -= mean;
      squares += value * value;
    }
    return squares;
  }

  void add(const float* user, int64_t tile) {
    const float* values = values_.data() + tile * dim_ * kTileRows;
    const float* scales = scales_.data() + tile * kTileRows;
    float dots[kTileRows];
    isa_.dot_tile(user, 1, 0, values, dim_, false, dots);
    float shares[kTileRows];  // of the softmax; then over length and temperature of the row
    if (const uint32_t above = isa_.share_tile(dots, scales, most_, shares)) {
      raise(dots, scales, above);
      isa_.share_tile(dots, scales, most_, shares);
    }
    for (float& share : shares) share *= weights_[static_cast<size_t>(tile)];
    for (int64_t r = 0; r < kTileRows; ++r) totals_[r] += shares[r];
    for (int64_t r = 0; r < kTileRows; ++r) shares[r] *= scales[r];
    isa_.sum_tile(shares, values, dim_, sums_.data());
  }

  // Measures shares by the largest of these rows from now on.
  void raise(const float* dots, const float* scales, uint32_t rows) {
    float most = most_;
    for (; rows; rows &= rows - 1) {
      const int r = __builtin_ctz(rows);
      most = std::max(most, dots[r] * scales[r]);
    }
    // C libraries differ in the last bit of an exponential of floats, not in that of doubles
    // rounded.
    const auto shrink = static_cast<float>(std::exp(static_cast<double>(most_ - most)));
    for (float& sum : sums_) sum *= shrink;
    for (float& total : totals_) total *= shrink;
    most_ = most;
  }

  const simd::Primitives& isa_;
  float temperature_;
  bool has_prior_;
  int64_t dim_;
  int64_t num_tiles_ = 0;
  std::vector<float> weights_;  // [tiles]
  std::vector<float> values_;   // [tiles, dim, kTileRows]
  std::vector<float> scales_;   // [tiles, kTileRows]
  std::vector<float> sums_;     // [dim, kSumLanes]
  float totals_[kTileRows];     // of the shares
  float most_ = 0;              // of the cosines over the temperature, so far in this pass
};

}  // namespace

int64_t fold_in(const PackedTable& table, const int64_t* history, int64_t count,
                const FoldInSettings& settings, float* user) {
  const int64_t dim = table.geometry.dim;
  std::vector<float> rows(
      memory_size(sizeof(float) * static_cast<uint64_t>(count) * static_cast<uint64_t>(dim)) /
      sizeof(float));
  grouped_lookup(table, LookupPairs<int64_t>{count, history, nullptr, 0}, rows.data());
  std::vector<float> mean(static_cast<size_t>(dim));
  int64_t held = 0;
  for (int64_t i = 0; i < count; ++i) {
    float* row = rows.data() + i * dim;
    if (settings.prior > 0) part_taste(row, dim);
    const float length = length_of(row, dim);
    if (!(length > 0)) continue;
    ++held;
    for (int64_t d = 0; d < dim; ++d) mean[static_cast<size_t>(d)] += row[d] / length;
  }
  for (float& value : mean) value /= static_cast<float>(std::max<int64_t>(held, 1));
  std::copy(mean.begin(), mean.end(), user);
  normalise(user, dim);
  if (held == 0) return 0;
  ExpectedRow expected(table, settings);
  std::vector<float> row(static_cast<size_t>(dim));
  for (int32_t step = 0; step < settings.steps; ++step) {
    expected.of(user, row.data());
    for (int64_t d = 0; d < dim; ++d) {
      const auto at = static_cast<size_t>(d);
      user[d] -= settings.step_size * ((row[at] - mean[at]) / settings.temperature);
    }
    normalise(user, dim);
  }
  if (settings.prior > 0) add_component(user, dim, settings.prior);
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
  if (settings.prior > 0) part_taste(user, dim);
  normalise(user, dim);
  if (settings.prior > 0) add_component(user, dim, settings.prior);
  return held;
}

void average_user(const PackedTable& table, const FoldInSettings& settings, float* user) {
  const int64_t dim = table.geometry.dim;
  std::fill(user, user + dim, 0.0f);  // to whom all rows are alike
  std::vector<float> mean(static_cast<size_t>(dim));
  ExpectedRow(table, settings).of(user, mean.data());
  std::copy(mean.begin(), mean.end(), user);
  normalise(user, dim);
  if (settings.prior > 0) add_component(user, dim, settings.prior);
}

}  // namespace peel
