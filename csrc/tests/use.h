// Everything a file promises, used once: shared by the tests of hostile bytes and the fuzz targets.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "device/appendix.h"
#include "device/errors.h"
#include "device/fold_in.h"
#include "device/item_ids.h"
#include "device/peel_file.h"
#include "device/recommender.h"
#include "device/similar.h"
#include "kernels/grouped_lookup.h"

namespace files {

inline void use(const peel::PeelFile& file) {
  const auto snapshot = file.snapshot();
  const peel::PackedTable& table = snapshot->table();
  const int64_t dim = table.geometry.dim;
  if (dim > 4096 || table.num_rows > 4096 || table.num_embeddings < 1) return;
  const std::vector<float> user(dim, 0.5f);
  float scores[3];
  int64_t best[3];
  peel::score_rows(*snapshot, user.data(), {0}, 3, best, scores);
  for (int i = 0; i < 3; ++i) CHECK(best[i] >= -1 && best[i] < table.num_embeddings);
  const int64_t ids[2] = {0, table.num_embeddings - 1};
  peel::score_items(*snapshot, user.data(), ids, 2, scores);
  peel::similar_rows(table, file.header().fold_in.prior > 0, ids, 1, 3, best, scores);
  for (int i = 0; i < 3; ++i) CHECK(best[i] >= -1 && best[i] < table.num_embeddings);
  std::vector<float> folded(dim);
  peel::FoldInSettings settings = file.header().fold_in;
  settings.steps = settings.steps < 2 ? settings.steps : 2;
  peel::fold_in(table, ids, 2, settings, folded.data());
  peel::continue_vector(table, 1, ids, 2, settings, folded.data());
}

inline void use(const peel::ItemIds& ids, int64_t num_embeddings) {
  if (num_embeddings < 1) return;
  const std::string name = ids.at(num_embeddings - 1);
  for (const int64_t row : ids.find({name, "", "-1"})) CHECK(row >= -1 && row < num_embeddings);
}

// Whether the bytes open under a budget; what opens is used, resized down and up, and used again.
inline bool opens(const uint8_t* data, uint64_t size, uint64_t budget = peel::kNoBudget) {
  const auto source = std::make_shared<peel::MemorySource>(data, size);
  try {
    peel::PeelFile file(source, budget);
    use(file);
    const uint64_t nbytes = file.snapshot()->nbytes();
    CHECK(nbytes <= budget);
    for (const uint64_t other : {nbytes / 2, nbytes - 1, nbytes}) {
      try {
        file.resize(other);
        CHECK(file.snapshot()->nbytes() <= other);
        use(file);
      } catch (const peel::BudgetError& error) {
        CHECK(error.minimum_bytes > other);
      }
    }
    try {
      peel::own_centroid(*source, file.header());
      use(peel::ItemIds(source, file.header()), file.header().num_embeddings);
    } catch (const peel::FormatError&) {
    }
    return true;
  } catch (const peel::FormatError&) {
    return false;
  } catch (const peel::BudgetError& error) {
    CHECK(error.minimum_bytes > budget);
    return false;
  }
}

}  // namespace files
