#include "device/similar.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/best_rows.h"
#include "core/executor.h"
#include "core/packed_rows.h"
#include "device/recommender.h"
#include "kernels/grouped_lookup.h"
#include "kernels/packed_tiles.h"

namespace peel {
namespace {

using simd::kTileRows;

constexpr int64_t kItems = 32;       // that share the decoding of a tile
constexpr int64_t kTilesAPart = 32;  // tiles below which a second thread costs more than it saves

// Items whose similar rows are looked for together.
struct Asked {
  const int64_t* items;
  int64_t count;
  std::vector<float> rows;      // [count, dim], decoded
  std::vector<double> lengths;  // [count]
  std::vector<double> shifts;   // [count], the mean of each row where that is its prior, else 0
};

Asked decode(const PackedTable& table, bool has_prior, const int64_t* items, int64_t count) {
  const int64_t dim = table.geometry.dim;
  Asked asked{items, count, std::vector<float>(static_cast<size_t>(count * dim)), {}, {}};
  grouped_lookup(table, LookupPairs<int64_t>{count, items, nullptr, 0}, asked.rows.data());
  for (int64_t i = 0; i < count; ++i) {
    double squares = 0;
    double sum = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const double value = asked.rows[static_cast<size_t>(i * dim + d)];
      squares += value * value;
      sum += value;
    }
    const double mean = has_prior ? sum / static_cast<double>(dim) : 0;
    asked.lengths.push_back(std::sqrt(std::max(squares - mean * sum, 0.0)));
    asked.shifts.push_back(mean);
  }
  return asked;
}

// Adds up, for each row of a tile, its products with a row [dim]. A product of two floats is exact
// in double.
void sum_products(const LoadedTile& tile, const float* row, double* sums) {
  std::fill_n(sums, kTileRows, 0.0);
  const float* values = tile.values;
  for (int64_t run = 0; run < tile.num_runs; ++run) {
    const int64_t begin = tile.runs[run].begin;
    for (int64_t d = begin; d < begin + tile.runs[run].width; ++d, values += kTileRows) {
      for (int64_t r = 0; r < kTileRows; ++r) {
        sums[r] += row[d] * static_cast<double>(values[r]);
      }
    }
  }
}

// Adds up the values of each row of a tile, and their squares.
void sum_values(const LoadedTile& tile, double* sums, double* squares) {
  std::fill_n(sums, kTileRows, 0.0);
  std::fill_n(squares, kTileRows, 0.0);
  const float* values = tile.values;
  for (int64_t run = 0; run < tile.num_runs; ++run) {
    for (int64_t d = 0; d < tile.runs[run].width; ++d, values += kTileRows) {
      for (int64_t r = 0; r < kTileRows; ++r) {
        sums[r] += values[r];
        squares[r] += values[r] * static_cast<double>(values[r]);
      }
    }
  }
}

// Offers the rows of the tiles [begin, end) to each item's best.
void offer(const PackedTiles& tiles, bool has_prior, int64_t begin, int64_t end, const Asked& asked,
           std::vector<BestRows>& best) {
  PackedTiles::Reader reader(tiles);
  const double share = has_prior ? 1 / static_cast<double>(tiles.dim()) : 0;  // of a sum, its mean
  double sums[kTileRows];
  double lengths[kTileRows];
  double dots[kTileRows];
  for (int64_t tile = begin; tile < end; ++tile) {
    reader.enter(tile);
    const LoadedTile& loaded = reader.load();
    sum_values(loaded, sums, lengths);
    for (int64_t r = 0; r < kTileRows; ++r) {
      lengths[r] = std::sqrt(std::max(lengths[r] - share * sums[r] * sums[r], 0.0));
    }
    for (int64_t i = 0; i < asked.count; ++i) {
      sum_products(loaded, asked.rows.data() + i * tiles.dim(), dots);
      const double own = asked.lengths[static_cast<size_t>(i)];
      for (int64_t r = 0; r < loaded.count; ++r) {
        const double product = own * lengths[r];
        const double dot = dots[r] - asked.shifts[static_cast<size_t>(i)] * sums[r];
        const auto cosine = static_cast<float>(product == 0 ? 0.0 : dot / product);
        BestRows& rows = best[static_cast<size_t>(i)];
        if (!(cosine >= rows.threshold())) continue;  // or not a number
        const int64_t id = reader.id(r);
        if (id != asked.items[i]) rows.offer(cosine, id);
      }
    }
  }
}

}  // namespace

int64_t similar_rows(const PackedTable& table, bool has_prior, const int64_t* items, int64_t count,
                     int64_t n, int64_t* ids, float* scores) {
  check_n(n);
  for (int64_t i = 0; i < count; ++i) {
    if (!holds_row(table, items[i])) return i;
  }
  const PackedTiles tiles(table, simd::primitives());
  const int64_t parts = std::clamp<int64_t>(tiles.count() / kTilesAPart, 1, num_threads());
  for (int64_t first = 0; first < count; first += kItems) {
    const Asked asked = decode(table, has_prior, items + first, std::min(kItems, count - first));
    const std::vector<BestRows> none(static_cast<size_t>(asked.count), BestRows(n));
    std::vector<std::vector<BestRows>> best(static_cast<size_t>(parts), none);
    parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        offer(tiles, has_prior, tiles.count() * part / parts, tiles.count() * (part + 1) / parts,
              asked, best[static_cast<size_t>(part)]);
      }
    });
    for (int64_t i = 0; i < asked.count; ++i) {
      const auto at = static_cast<size_t>(i);
      for (size_t part = 1; part < best.size(); ++part) best[0][at].merge(best[part][at]);
      best[0][at].write(scores + (first + i) * n, ids + (first + i) * n);
    }
  }
  return -1;
}

}  // namespace peel
