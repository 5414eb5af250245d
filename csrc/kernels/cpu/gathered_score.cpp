#include "kernels/gathered_score.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <type_traits>
#include <vector>

#include "core/best_rows.h"
#include "core/executor.h"
#include "kernels/cpu/dense_bounds.h"
#include "kernels/cpu/dense_tiles.h"
#include "kernels/cpu/largest_values.h"
#include "kernels/cpu/plane_rows.h"
#include "kernels/cpu/score_bounds.h"
#include "kernels/packed_tiles.h"
#include "simd/primitives.h"

namespace peel {
namespace {

using simd::kTileRows;

constexpr int64_t kUsers = 256;   // scored against one decoded tile: decoding is shared by these
constexpr int kFewRows = 8;       // of a tile: more are scored with the whole tile
constexpr int64_t kFewUsers = 4;  // of plain rows of kWideRow values and more: each scored alone
constexpr int64_t kWideRow = 64;
constexpr int64_t kManyBytes = 1 << 24;  // in tables of so many: smaller ones are in a cache
constexpr int64_t kTilesTogether = 16;   // for one of them after another, while they are in a cache
constexpr int64_t kTilesAPart = 32;  // tiles below which a second thread costs more than it saves

bool excluded(const ScoreArgs& args, int64_t user, int64_t id) {
  if (!args.exclude_indptr) return false;
  return std::binary_search(args.exclude + args.exclude_indptr[user],
                            args.exclude + args.exclude_indptr[user + 1], id);
}

// What goes with each kind of tiles: bounds of their scores, and rows scored apart from their tile.
template <typename Tiles>
struct Parts;
template <>
struct Parts<DenseTiles> {
  using Bounds = DenseBounds;
  using SomeRows = SomeDenseRows;
};
template <>
struct Parts<PackedTiles> {
  using Bounds = ScoreBounds;
  using SomeRows = PlaneRows;
};

// Scores the users [first, first + num_users) against one tile after another.
template <typename Tiles>
class TileScorer {
  using Bounds = typename Parts<Tiles>::Bounds;
  using SomeRows = typename Parts<Tiles>::SomeRows;

 public:
  TileScorer(const Tiles& tiles, const simd::Primitives& isa, const ScoreArgs& args, int64_t first,
             BestRows* best, int64_t num_users)
      : bounds_(tiles, args.users + first * args.user_stride, num_users, args.user_stride),
        tiles_(tiles),
        isa_(isa),
        args_(args),
        first_(first),
        best_(best),
        num_users_(num_users),
        users_(args.users + first * args.user_stride),
        reader_(tiles),
        scores_(num_users * kTileRows),
        masks_(static_cast<size_t>(num_users)) {
    for (int64_t u = 0; u < num_users; ++u) thresholds_.push_back(best[u].threshold());
  }

  // The next tiles, from the one on that the last call ended with.
  void run(int64_t begin, int64_t end) {
    if constexpr (std::is_same_v<Tiles, DenseTiles>) {
      if (bounds_.any() && !begun_) begin = run_first(begin, end);
      begun_ = true;
    }
    for (int64_t tile = begin; tile < end; ++tile) {
      reader_.enter(tile);
      reader_.prefetch_ahead();
      uint32_t rows = bounds_.may_reach(reader_, thresholds_, kFewRows);
      if (rows == 0) continue;
      const bool few = __builtin_popcount(rows) <= kFewRows && reader_.count() == kTileRows;
      if (!few || !reader_.rows_apart()) {
        offer_all(reader_);
        continue;
      }
      if (!some_) some_.emplace(tiles_);
      for (; rows; rows &= rows - 1) {
        if (some_->full()) offer_some(*some_);
        some_->add(reader_.row(__builtin_ctz(rows)));
      }
    }
  }

  // After the last tile.
  void finish() {
    if (some_) offer_some(*some_);
  }

 private:
  // Of the first tiles, those rows before all others that have the largest bounds: after them few
  // others may enter. Returns the tile after these.
  int64_t run_first(int64_t begin, int64_t end) {
    constexpr int64_t kFirst = 32;
    end = std::min(end, begin + kFirst);
    float all[kFirst * kTileRows];
    int64_t count = 0;
    for (int64_t tile = begin; tile < end; ++tile) {
      reader_.enter(tile);
      bounds_.write(reader_, all + count);
      count += reader_.count();
    }
    int64_t best[kFirst * kTileRows];
    const int64_t num_best = std::min(args_.n, count);
    largest_values(all, count, num_best, false, best);
    SomeDenseRows some(tiles_);
    uint32_t scored[kFirst] = {};
    for (int64_t i = 0; i < num_best; ++i) {
      if (some.full()) offer_some(some);
      some.add(begin * kTileRows + best[i]);
      scored[best[i] / kTileRows] |= 1u << best[i] % kTileRows;
    }
    offer_some(some);
    for (int64_t tile = begin; tile < end; ++tile) {
      reader_.enter(tile);
      uint32_t rows = reader_.reaching(all + (tile - begin) * kTileRows, thresholds_[0]);
      for (rows &= ~scored[tile - begin]; rows; rows &= rows - 1) {
        if (some.full()) offer_some(some);
        some.add(reader_.row(__builtin_ctz(rows)));
      }
    }
    offer_some(some);
    return end;
  }

  void offer_some(SomeRows& rows) {
    if (rows.count() > 0) offer_all(rows);
    rows.clear();
  }

  // A reader's tile, or rows as one.
  template <typename Rows>
  void offer_all(Rows& rows) {
    rows.dot(users_, num_users_, args_.user_stride, scores_.data());
    isa_.reach_tile(scores_.data(), num_users_, thresholds_.data(), masks_.data());
    const uint32_t there = rows.count() == kTileRows ? ~0u : (1u << rows.count()) - 1;
    for (int64_t u = 0; u < num_users_; ++u) {
      const uint32_t reached = masks_[static_cast<size_t>(u)] & there;
      if (reached) offer(rows, u, reached);
    }
  }

  template <typename Rows>
  void offer(const Rows& rows, int64_t u, uint32_t mask) {
    const auto user = static_cast<size_t>(u);
    for (; mask; mask &= mask - 1) {
      const int r = __builtin_ctz(mask);
      const float score = scores_.data()[u * kTileRows + r];
      if (!(score >= thresholds_[user])) continue;  // risen meanwhile, or not a number
      const int64_t id = rows.id(r);
      if (excluded(args_, first_ + u, id)) continue;
      best_[u].offer(score, id);
      thresholds_[user] = best_[u].threshold();
    }
  }

  Bounds bounds_;
  bool begun_ = false;
  const Tiles& tiles_;
  const simd::Primitives& isa_;
  const ScoreArgs& args_;
  int64_t first_;
  BestRows* best_;
  int64_t num_users_;
  const float* users_;
  typename Tiles::Reader reader_;
  std::optional<SomeRows> some_;  // rows of tiles before, to be scored together
  TileValues scores_;             // [users, kTileRows]
  std::vector<uint32_t> masks_;
  std::vector<float> thresholds_;
};

// Scores some users against the tiles [begin, end). A few of a table that is in no cache share its
// memory and no more: to bound scores of one user takes less than to transpose a tile then.
template <typename Tiles>
void score_part(const Tiles& tiles, const simd::Primitives& isa, const ScoreArgs& args,
                int64_t first, std::vector<BestRows>& best, int64_t begin, int64_t end) {
  const auto num_users = static_cast<int64_t>(best.size());
  const int64_t bytes = tiles.count() * kTileRows * tiles.dim() * 4;
  const bool alone = std::is_same_v<Tiles, DenseTiles> && num_users > 1 && num_users <= kFewUsers &&
                     tiles.dim() >= kWideRow && bytes >= kManyBytes;
  const int64_t together = alone ? 1 : num_users;
  std::deque<TileScorer<Tiles>> scorers;  // which do not move
  for (int64_t u = 0; u < num_users; u += together) {
    scorers.emplace_back(tiles, isa, args, first + u, best.data() + u, together);
  }
  const int64_t step = alone ? kTilesTogether : end - begin;
  for (; begin < end; begin += step) {
    for (TileScorer<Tiles>& each : scorers) each.run(begin, std::min(end, begin + step));
  }
  for (TileScorer<Tiles>& each : scorers) each.finish();
}

// Few users: threads share the rows. Many users: threads share the users.
template <typename Tiles>
void score(const Tiles& tiles, const simd::Primitives& isa, const ScoreArgs& args) {
  const int64_t chunks = (args.num_users + kUsers - 1) / kUsers;
  const int64_t threads = num_threads();
  const int64_t parts =
      chunks >= threads ? 1 : std::clamp<int64_t>(tiles.count() / kTilesAPart, 1, threads);
  const auto users_of = [&](int64_t chunk) {
    return std::min(kUsers, args.num_users - chunk * kUsers);
  };
  std::vector<std::vector<BestRows>> best(static_cast<size_t>(parts > 1 ? chunks * parts : 0));
  parallel_for(chunks * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      const int64_t chunk = job / parts;
      const int64_t part = job % parts;
      std::vector<BestRows> own(static_cast<size_t>(users_of(chunk)), BestRows(args.n));
      score_part(tiles, isa, args, chunk * kUsers, own, tiles.count() * part / parts,
                 tiles.count() * (part + 1) / parts);
      if (parts > 1) {
        best[static_cast<size_t>(job)] = std::move(own);
        continue;
      }
      for (int64_t u = 0; u < users_of(chunk); ++u) {
        const int64_t row = (chunk * kUsers + u) * args.n;
        own[static_cast<size_t>(u)].write(args.scores + row, args.indices + row);
      }
    }
  });
  for (int64_t user = 0; parts > 1 && user < args.num_users; ++user) {
    const auto u = static_cast<size_t>(user % kUsers);
    BestRows& merged = best[static_cast<size_t>(user / kUsers * parts)][u];
    for (int64_t part = 1; part < parts; ++part) {
      merged.merge(best[static_cast<size_t>(user / kUsers * parts + part)][u]);
    }
    merged.write(args.scores + user * args.n, args.indices + user * args.n);
  }
}

}  // namespace

void gathered_score(const DenseRows& rows, const ScoreArgs& args) {
  const simd::Primitives& isa = simd::primitives();
  score(DenseTiles(rows, isa), isa, args);
}

void gathered_score(const PackedTable& table, const ScoreArgs& args) {
  const simd::Primitives& isa = simd::primitives();
  score(PackedTiles(table, isa), isa, args);
}

}  // namespace peel
