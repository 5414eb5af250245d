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
  }
  int64_t dim() const { return rows_.dim; }
  int64_t count() const { return (total_ + simd::kTileRows - 1) / simd::kTileRows; }

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
    // scores[u, r] of the tile's rows; of lanes beyond them anything.
    void dot(const float* users, int64_t num_users, int64_t user_stride, float* scores) {
      const float* rows[simd::kTileRows];
      const float* next[simd::kTileRows];
      for (int64_t r = 0; r < count_; ++r) {
        rows[r] = tiles_.row(first_ + r);
        next[r] = tiles_.row(std::min(first_ + simd::kTileRows + r, tiles_.total_ - 1));
      }
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
    int64_t id(int64_t r) const {
      return tiles_.rows_.candidates ? tiles_.rows_.candidates[first_ + r] : first_ + r;
    }

   private:
    static constexpr int64_t kUsersAShare = 8;
    const DenseTiles& tiles_;
    TileValues values_;
    int64_t first_ = 0;
    int64_t count_ = 0;
  };

 private:
  const float* row(int64_t r) const {
    const int64_t id = rows_.candidates ? rows_.candidates[r] : r;
    return rows_.weight + id * rows_.weight_stride;
  }

  const DenseRows& rows_;
  const simd::Primitives& isa_;
  int64_t total_ = 0;
};

}  // namespace peel
