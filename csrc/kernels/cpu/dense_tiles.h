// The rows of a dense table, a tile at a time, as packed_tiles.h has those of a packed one.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/prefetch.h"
#include "kernels/gathered_score.h"
#include "kernels/packed_tiles.h"
#include "simd/primitives.h"

namespace peel {

class DenseTiles {
 public:
  DenseTiles(const DenseRows& rows, const simd::Primitives& isa) : rows_(rows), isa_(isa) {
    total_ = rows.candidates ? rows.num_candidates : rows.num_embeddings;
    come_by_themselves_ = !rows.candidates && rows.weight_stride == rows.dim;
  }
  int64_t dim() const { return rows_.dim; }
  int64_t count() const { return (total_ + simd::kTileRows - 1) / simd::kTileRows; }
  const simd::Primitives& isa() const { return isa_; }
  int64_t id(int64_t r) const { return rows_.candidates ? rows_.candidates[r] : r; }
  const float* row(int64_t r) const { return rows_.weight + id(r) * rows_.weight_stride; }

  // Reads tiles in ascending order, for one thread.
  class Reader {
   public:
    explicit Reader(const DenseTiles& tiles)
        : tiles_(tiles), values_(simd::kTileRows * tiles.dim()) {}
    void enter(int64_t tile) {
      first_ = tile * simd::kTileRows;
      count_ = std::min(simd::kTileRows, tiles_.total_ - first_);
    }
    int64_t count() const { return count_; }  // rows of the tile
    int64_t id(int64_t r) const { return tiles_.id(first_ + r); }
    int64_t row(int64_t r) const { return first_ + r; }  // to be scored among others later
    static bool rows_apart() { return true; }
    static void prefetch_ahead() {}  // bounding asks for the next tile
    // Bounds [kTileRows] of the tile's rows as simd::Primitives::bound_rows has them. Asks for the
    // next tile, unless it comes by itself.
    void bound(const float* user, float slack, float least, float* bounds) const {
      const float* rows[simd::kTileRows];
      const float* next[simd::kTileRows];
      find(first_, rows);
      const bool asks = !tiles_.come_by_themselves_;
      if (asks) find(first_ + simd::kTileRows, next);
      tiles_.isa_.bound_rows(user, rows, asks ? next : nullptr, count_, tiles_.dim(), slack, least,
                             bounds);
    }
    // The rows of the tile whose bounds are not below a threshold, as bits.
    uint32_t reaching(const float* bounds, float threshold) const {
      uint32_t rows;
      tiles_.isa_.reach_tile(bounds, 1, &threshold, &rows);
      return count_ == simd::kTileRows ? rows : rows & ((1u << count_) - 1);
    }
    // scores[u, r] of the tile's rows; of lanes beyond them anything.
    void dot(const float* users, int64_t num_users, int64_t user_stride, float* scores) {
      const float* rows[simd::kTileRows];
      const float* next[simd::kTileRows];
      find(first_, rows);
      find(first_ + simd::kTileRows, next);
      // The next tile is on its way while this one is worked on, some rows for some of the work:
      // asked for at once, more lines than a core can wait for hold up everything behind them. For
      // few users the work is to transpose, for many to multiply.
      const int64_t shares = (num_users + kUsersAShare - 1) / kUsersAShare;
      tiles_.isa_.transpose_tile(rows, shares == 1 ? next : nullptr, count_, tiles_.dim(),
                                 values_.data());
      for (int64_t share = 0; share < shares; ++share) {
        const int64_t end = shares == 1 ? 0 : count_ * (share + 1) / shares;
        for (int64_t r = count_ * share / shares; r < end; ++r) {
          prefetch(next[r], tiles_.dim() * static_cast<int64_t>(sizeof(float)));
        }
        const int64_t first = share * kUsersAShare;
        tiles_.isa_.dot_tile(users + first * user_stride, std::min(kUsersAShare, num_users - first),
                             user_stride, values_.data(), tiles_.dim(), false,
                             scores + first * simd::kTileRows);
      }
    }

   private:
    static constexpr int64_t kUsersAShare = 8;

    // As many rows as the tile has, from one on; the last one again where there are fewer. Of a
    // whole tile of rows in order it takes no look at each.
    void find(int64_t first, const float** rows) const {
      if (!tiles_.rows_.candidates && first + simd::kTileRows <= tiles_.total_) {
        const float* row = tiles_.row(first);
        for (int64_t r = 0; r < simd::kTileRows; ++r, row += tiles_.rows_.weight_stride) {
          rows[r] = row;
        }
        return;
      }
      for (int64_t r = 0; r < count_; ++r) {
        rows[r] = tiles_.row(std::min(first + r, tiles_.total_ - 1));
      }
    }

    const DenseTiles& tiles_;
    TileValues values_;
    int64_t first_ = 0;
    int64_t count_ = 0;
  };

 private:
  const DenseRows& rows_;
  const simd::Primitives& isa_;
  int64_t total_ = 0;
  bool come_by_themselves_ = false;  // rows are read one after another, without gaps
};

// Rows that lie here and there, scored together, as plane_rows.h has those in planes.
class SomeDenseRows {
 public:
  explicit SomeDenseRows(const DenseTiles& tiles)
      : tiles_(tiles), values_(simd::kTileRows * tiles.dim()) {}
  bool full() const { return count_ == simd::kTileRows; }
  void add(int64_t row) { rows_[count_++] = row; }
  void clear() { count_ = 0; }

  int64_t count() const { return count_; }
  void dot(const float* users, int64_t num_users, int64_t user_stride, float* scores) {
    const float* from[simd::kTileRows];
    for (int64_t r = 0; r < count_; ++r) from[r] = tiles_.row(rows_[r]);
    tiles_.isa().transpose_tile(from, nullptr, count_, tiles_.dim(), values_.data());
    tiles_.isa().dot_tile(users, num_users, user_stride, values_.data(), tiles_.dim(), false,
                          scores);
  }
  int64_t id(int64_t r) const { return tiles_.id(rows_[r]); }

 private:
  const DenseTiles& tiles_;
  TileValues values_;
  int64_t rows_[simd::kTileRows];
  int64_t count_ = 0;
};

}  // namespace peel
