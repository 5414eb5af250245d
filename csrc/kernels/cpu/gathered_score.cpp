#include "kernels/gathered_score.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "core/executor.h"
#include "kernels/cpu/row_decoder.h"
#include "simd/primitives.h"

namespace peel {
namespace {

using simd::kTileRows;

constexpr int64_t kUsers = 256;      // scored against one decoded tile: decoding is shared by these
constexpr int64_t kTilesAPart = 32;  // rows below which a second thread costs more than it saves

struct Scored {
  float score;
  int64_t id;
};

bool better(const Scored& a, const Scored& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

// The n best rows seen by one user, the worst of them on top of a heap.
class BestRows {
 public:
  explicit BestRows(int64_t n) : n_(static_cast<size_t>(n)) {}

  void offer(float score, int64_t id) {
    if (heap_.size() < n_) {
      heap_.push_back({score, id});
      std::push_heap(heap_.begin(), heap_.end(), better);
    } else if (better({score, id}, heap_.front())) {
      std::pop_heap(heap_.begin(), heap_.end(), better);
      heap_.back() = {score, id};
      std::push_heap(heap_.begin(), heap_.end(), better);
    }
  }
  // Scores below this cannot enter.
  float threshold() const {
    return heap_.size() < n_ ? -std::numeric_limits<float>::infinity() : heap_.front().score;
  }
  void merge(const BestRows& other) {
    for (const Scored& row : other.heap_) offer(row.score, row.id);
  }
  void write(float* scores, int64_t* indices) {
    std::sort_heap(heap_.begin(), heap_.end(), better);
    for (size_t i = 0; i < n_; ++i) {
      const bool filled = i < heap_.size();
      scores[i] = filled ? heap_[i].score : -std::numeric_limits<float>::infinity();
      indices[i] = filled ? heap_[i].id : -1;
    }
  }

 private:
  size_t n_;
  std::vector<Scored> heap_;
};

// A source cuts its rows into tiles of at most kTileRows and loads one, transposed, with its ids.
class DenseTiles {
 public:
  DenseTiles(const DenseRows& rows, const simd::Primitives& isa) : rows_(rows), isa_(isa) {
    total_ = rows.candidates ? rows.num_candidates : rows.num_embeddings;
  }
  int64_t dim() const { return rows_.dim; }
  int64_t count() const { return (total_ + kTileRows - 1) / kTileRows; }

  int64_t load(int64_t tile, float* scratch, float* transposed, int64_t* ids) const {
    const int64_t first = tile * kTileRows;
    const int64_t count = std::min(kTileRows, total_ - first);
    if (!rows_.candidates) {
      for (int64_t r = 0; r < count; ++r) ids[r] = first + r;
      isa_.transpose(rows_.weight + first * rows_.weight_stride, rows_.weight_stride, count,
                     rows_.dim, transposed);
      return count;
    }
    for (int64_t r = 0; r < count; ++r) {
      ids[r] = rows_.candidates[first + r];
      const float* row = rows_.weight + ids[r] * rows_.weight_stride;
      std::copy(row, row + rows_.dim, scratch + r * rows_.dim);
    }
    isa_.transpose(scratch, rows_.dim, count, rows_.dim, transposed);
    return count;
  }

 private:
  const DenseRows& rows_;
  const simd::Primitives& isa_;
  int64_t total_ = 0;
};

class PackedTiles {
 public:
  PackedTiles(const PackedTable& table, const simd::Primitives& isa) : table_(table), isa_(isa) {
    int64_t first = 0;
    for (int64_t c = 0; c < table.num_item_groups; ++c) {
      const int64_t rows = table.directory[c].row_end - first;
      first = table.directory[c].row_end;
      if (table.directory[c].layers == 0) continue;
      for (int64_t r = 0; r < rows; r += kTileRows) tiles_.push_back({c, r, rows});
    }
  }
  int64_t dim() const { return table_.geometry.dim; }
  int64_t count() const { return static_cast<int64_t>(tiles_.size()); }

  int64_t load(int64_t tile, float* scratch, float* transposed, int64_t* ids) const {
    const Tile& at = tiles_[static_cast<size_t>(tile)];
    const uint64_t held = table_.directory[at.item_group].layers;
    const uint8_t* base = packed_base(table_, at.item_group);
    const ItemGroupBytes bytes =
        item_group_bytes(table_.geometry, table_.row_ids, table_.id_bytes, at.rows, held);
    const int64_t count = std::min(kTileRows, at.rows - at.first);
    for (int64_t r = 0; r < count; ++r) {
      RowPieces row;
      packed_row(table_.geometry, bytes, base, held, at.first + r, row);
      decode_row(isa_, table_.geometry, table_.centroids, row, scratch + r * dim());
      ids[r] = packed_row_id(table_, at.item_group, base, at.first + r);
    }
    isa_.transpose(scratch, dim(), count, dim(), transposed);
    return count;
  }

 private:
  struct Tile {
    int64_t item_group;
    int64_t first;
    int64_t rows;  // of the whole item group
  };
  const PackedTable& table_;
  const simd::Primitives& isa_;
  std::vector<Tile> tiles_;
};

bool excluded(const ScoreArgs& args, int64_t user, int64_t id) {
  if (!args.exclude_indptr) return false;
  return std::binary_search(args.exclude + args.exclude_indptr[user],
                            args.exclude + args.exclude_indptr[user + 1], id);
}

// Offers tiles [begin, end) to users [first, first + best.size()).
template <typename Tiles>
void score_tiles(const Tiles& tiles, const simd::Primitives& isa, const ScoreArgs& args,
                 int64_t begin, int64_t end, int64_t first, std::vector<BestRows>& best) {
  const auto num_users = static_cast<int64_t>(best.size());
  const int64_t dim = tiles.dim();
  std::vector<float> scratch(static_cast<size_t>(kTileRows * dim));
  std::vector<float> transposed(static_cast<size_t>(kTileRows * dim));
  std::vector<float> scores(static_cast<size_t>(kTileRows * num_users));
  int64_t ids[kTileRows];
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t count = tiles.load(tile, scratch.data(), transposed.data(), ids);
    isa.dot_tile(args.users + first * args.user_stride, num_users, args.user_stride,
                 transposed.data(), dim, scores.data());
    for (int64_t u = 0; u < num_users; ++u) {
      BestRows& user_best = best[static_cast<size_t>(u)];
      float threshold = user_best.threshold();
      for (int64_t r = 0; r < count; ++r) {
        const float score = scores[static_cast<size_t>(u * kTileRows + r)];
        if (!(score >= threshold) || excluded(args, first + u, ids[r])) continue;
        user_best.offer(score, ids[r]);
        threshold = user_best.threshold();
      }
    }
  }
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
      score_tiles(tiles, isa, args, tiles.count() * part / parts,
                  tiles.count() * (part + 1) / parts, chunk * kUsers, own);
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
