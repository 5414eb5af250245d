#include "device/peel.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/executor.h"
#include "core/mutex.h"
#include "device/bundle.h"
#include "device/errors.h"
#include "device/fold_in.h"
#include "device/item_ids.h"
#include "device/peel_file.h"
#include "device/recommender.h"
#include "device/similar.h"

struct peel_recommender {
  explicit peel_recommender(std::shared_ptr<const peel::Source> source, uint64_t budget_bytes)
      : embedding(std::move(source), budget_bytes) {}
  peel::PeelFile embedding;
  mutable peel::Mutex mutex;  // guards what follows
  mutable std::shared_ptr<const peel::ItemIds> item_ids;
};

namespace peel {
namespace {

class CallbackSource : public Source {
 public:
  explicit CallbackSource(const peel_source& source) : source_(source) {}
  ~CallbackSource() override {
    if (source_.close) source_.close(source_.context);
  }
  CallbackSource(const CallbackSource&) = delete;
  CallbackSource& operator=(const CallbackSource&) = delete;
  uint64_t size() const override { return source_.size; }
  void read(uint64_t offset, uint64_t count, uint8_t* into) const override {
    const std::lock_guard<Mutex> lock(mutex_);
    if (count && source_.read(source_.context, offset, count, into) != 0) {
      throw SourceError("the callback could not read " + std::to_string(count) + " bytes at byte " +
                        std::to_string(offset));
    }
  }

 private:
  peel_source source_;
  mutable Mutex mutex_;
};

peel_status fail(peel_error* error, peel_status status, const char* message,
                 uint64_t minimum_bytes = 0) {
  if (error) {
    error->status = status;
    error->minimum_bytes = minimum_bytes;
    const size_t length = std::min(std::strlen(message), sizeof(error->message) - 1);
    std::memcpy(error->message, message, length);
    error->message[length] = '\0';
  }
  return status;
}

// Runs f, and turns what it throws into a status.
template <typename F>
peel_status guarded(peel_error* error, F&& f) noexcept {
  try {
    f();
    return PEEL_OK;
  } catch (const BudgetError& e) {
    return fail(error, PEEL_ERROR_BUDGET, e.what(), e.minimum_bytes);
  } catch (const FormatError& e) {
    return fail(error, PEEL_ERROR_FORMAT, e.what());
  } catch (const SourceError& e) {
    return fail(error, PEEL_ERROR_SOURCE, e.what());
  } catch (const NotHeldError& e) {
    return fail(error, PEEL_ERROR_NOT_HELD, e.what());
  } catch (const NoUserError& e) {
    return fail(error, PEEL_ERROR_NO_USER, e.what());
  } catch (const std::logic_error& e) {  // invalid_argument, out_of_range
    return fail(error, PEEL_ERROR_ARGUMENT, e.what());
  } catch (const std::bad_alloc&) {
    return fail(error, PEEL_ERROR_MEMORY, "out of memory");
  } catch (const std::exception& e) {
    return fail(error, PEEL_ERROR_INTERNAL, e.what());
  } catch (...) {
    return fail(error, PEEL_ERROR_INTERNAL, "unknown error");
  }
}

void require(const void* pointer, const char* name) {
  if (!pointer) throw std::invalid_argument(std::string(name) + " must not be null");
}

void require_array(const void* pointer, size_t count, const char* name) {
  if (count > 0) require(pointer, name);
}

std::shared_ptr<const Source> make_source(const peel_source* source) {
  require(source, "source");
  if (!source->read) throw std::invalid_argument("source.read must not be null");
  return std::make_shared<CallbackSource>(*source);
}

template <typename MakeSource>
peel_status open(uint64_t budget_bytes, peel_recommender** recommender, peel_error* error,
                 MakeSource&& make_source) {
  return guarded(error, [&] {
    require(recommender, "recommender");
    *recommender = new peel_recommender(make_source(), budget_bytes);
  });
}

// A view of the file's rows for a call: checks the handle, and the ids against the table.
std::shared_ptr<const Snapshot> begin(const peel_recommender* recommender, const char* name,
                                      const int64_t* ids, size_t count) {
  require(recommender, "recommender");
  require_array(ids, count, name);
  check_ids(name, ids, static_cast<int64_t>(count), recommender->embedding.header().num_embeddings);
  return recommender->embedding.snapshot();
}

void check_user(const peel_recommender* recommender, const float* user) {
  require(user, "user");
  check_vectors("user", user, 1, recommender->embedding.header().geometry.dim);
}

// Of the file, which are looked at when they are first wanted.
std::shared_ptr<const ItemIds> item_ids_of(const peel_recommender* recommender) {
  require(recommender, "recommender");
  const std::lock_guard<Mutex> lock(recommender->mutex);
  if (!recommender->item_ids) {
    const PeelFile& embedding = recommender->embedding;
    recommender->item_ids =
        std::make_shared<ItemIds>(embedding.source(), embedding.header(), embedding.appendix());
  }
  return recommender->item_ids;
}

std::shared_ptr<const ItemIds> integer_item_ids_of(const peel_recommender* recommender) {
  std::shared_ptr<const ItemIds> item_ids = item_ids_of(recommender);
  if (item_ids->are_integers()) return item_ids;
  throw std::invalid_argument("item ids of this file are text, expected integers");
}

int64_t read_integer(const std::string& text) {
  int64_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec == std::errc()) {
    return value;
  }
  throw std::out_of_range("item id " + text + " is beyond 64 bits: it can be had as text");
}

void find_rows(const ItemIds& item_ids, const std::vector<std::string>& names, int64_t* ids) {
  const std::vector<int64_t> rows = item_ids.find(names);
  std::copy(rows.begin(), rows.end(), ids);
}

}  // namespace
}  // namespace peel

extern "C" {

const char* peel_version(void) { return PEEL_VERSION; }

const char* peel_status_text(peel_status status) {
  // clang-format off
  switch (status) {
    case PEEL_OK: return "no error";
    case PEEL_ERROR_ARGUMENT: return "an argument is out of range";
    case PEEL_ERROR_FORMAT: return "not a .peel file, a newer version, or damaged";
    case PEEL_ERROR_SOURCE: return "the file cannot be read";
    case PEEL_ERROR_BUDGET: return "the budget has too few bytes";
    case PEEL_UNKNOWN_USER: return "nothing is known of the user";
    case PEEL_ERROR_MEMORY: return "out of memory";
    case PEEL_ERROR_INTERNAL: return "an error inside the library";
    case PEEL_ERROR_NOT_HELD: return "the item is not held";
    case PEEL_ERROR_NO_USER: return "the bundle has no file of the user";
  }
  // clang-format on
  return "an unknown status";
}

peel_status peel_set_num_threads(int32_t count, peel_error* error) {
  return peel::guarded(error, [&] { peel::set_num_threads(count); });
}

peel_status peel_open_file(const char* path, uint64_t budget_bytes, peel_recommender** recommender,
                           peel_error* error) {
  return peel::open(budget_bytes, recommender, error, [&] {
    peel::require(path, "path");
    return std::make_shared<peel::FileSource>(path);
  });
}

peel_status peel_open_memory(const void* data, uint64_t size, uint64_t budget_bytes,
                             peel_recommender** recommender, peel_error* error) {
  return peel::open(budget_bytes, recommender, error, [&] {
    peel::require(data, "data");
    if (size > SIZE_MAX) {
      throw std::invalid_argument("size is " + std::to_string(size) + ", expected at most " +
                                  std::to_string(SIZE_MAX) + " on this system");
    }
    return std::make_shared<peel::MemorySource>(static_cast<const uint8_t*>(data), size);
  });
}

peel_status peel_open_source(const peel_source* source, uint64_t budget_bytes,
                             peel_recommender** recommender, peel_error* error) {
  return peel::open(budget_bytes, recommender, error, [&] { return peel::make_source(source); });
}

peel_status peel_open_user(const char* bundle_path, const char* user, uint64_t budget_bytes,
                           peel_recommender** recommender, peel_error* error) {
  return peel::open(budget_bytes, recommender, error, [&] {
    peel::require(bundle_path, "bundle_path");
    peel::require(user, "user");
    const auto bundle = std::make_shared<peel::FileSource>(bundle_path);
    // Reading twice costs nothing here.
    return std::make_shared<peel::UserSource>(bundle, peel::find_user(*bundle, user), 0);
  });
}

peel_status peel_open_user_in_source(const peel_source* bundle, const char* user,
                                     uint64_t budget_bytes, peel_recommender** recommender,
                                     peel_error* error) {
  return peel::open(budget_bytes, recommender, error, [&] {
    peel::require(user, "user");
    const auto source = peel::make_source(bundle);
    return std::make_shared<peel::UserSource>(source, peel::find_user(*source, user), budget_bytes);
  });
}

peel_status peel_find_user(const peel_source* bundle, const char* user, peel_user_file* found,
                           peel_error* error) {
  return peel::guarded(error, [&] {
    peel::require(user, "user");
    peel::require(found, "found");
    const peel::UserFile file = peel::find_user(*peel::make_source(bundle), user);
    *found = {file.offset, file.size, file.blocks_end, file.header_checksum};
  });
}

void peel_close(peel_recommender* recommender) { delete recommender; }

peel_status peel_resize(peel_recommender* recommender, uint64_t budget_bytes, peel_error* error) {
  return peel::guarded(error, [&] {
    peel::require(recommender, "recommender");
    recommender->embedding.resize(budget_bytes);
  });
}

peel_status peel_get_info(const peel_recommender* recommender, peel_info* info, peel_error* error) {
  return peel::guarded(error, [&] {
    peel::require(recommender, "recommender");
    peel::require(info, "info");
    const auto snapshot = recommender->embedding.snapshot();
    const peel::FileHeader& header = recommender->embedding.header();
    info->num_embeddings = header.num_embeddings;
    info->num_rows = snapshot->table().num_rows;
    info->embedding_dim = header.geometry.dim;
    info->group = header.group;
    info->num_blocks = snapshot->num_blocks();
    info->all_blocks = header.num_blocks;
    info->nbytes = snapshot->nbytes();
    info->prefix_bytes = snapshot->prefix_bytes();
    info->rotated = header.rotated ? 1 : 0;
  });
}

peel_status peel_score(const peel_recommender* recommender, const float* user,
                       const int64_t* exclude, size_t num_exclude, size_t n, int64_t* ids,
                       float* scores, peel_error* error) {
  return peel::guarded(error, [&] {
    const auto snapshot = peel::begin(recommender, "exclude", exclude, num_exclude);
    peel::check_user(recommender, user);
    peel::require(ids, "ids");
    peel::require(scores, "scores");
    const std::vector<int64_t> excluded(exclude, exclude + num_exclude);
    peel::score_rows(*snapshot, user, excluded, static_cast<int64_t>(n), ids, scores);
  });
}

peel_status peel_score_with_shipped(const peel_recommender* recommender, const float* user,
                                    const int64_t* exclude, size_t num_exclude,
                                    const int64_t* shipped, const float* shipped_scores,
                                    size_t num_shipped, size_t n, int64_t* ids, float* scores,
                                    peel_error* error) {
  return peel::guarded(error, [&] {
    const auto snapshot = peel::begin(recommender, "exclude", exclude, num_exclude);
    peel::begin(recommender, "shipped", shipped, num_shipped);
    peel::require_array(shipped_scores, num_shipped, "shipped_scores");
    peel::check_user(recommender, user);
    peel::require(ids, "ids");
    peel::require(scores, "scores");
    const std::vector<int64_t> excluded(exclude, exclude + num_exclude);
    const peel::ShippedList list{shipped, shipped_scores, static_cast<int64_t>(num_shipped)};
    peel::score_with_shipped(*snapshot, user, excluded, list, static_cast<int64_t>(n), ids, scores);
  });
}

peel_status peel_score_items(const peel_recommender* recommender, const float* user,
                             const int64_t* ids, size_t count, float* scores, peel_error* error) {
  return peel::guarded(error, [&] {
    const auto snapshot = peel::begin(recommender, "ids", ids, count);
    peel::check_user(recommender, user);
    peel::require_array(scores, count, "scores");
    peel::score_items(*snapshot, user, ids, static_cast<int64_t>(count), scores);
  });
}

peel_status peel_recommend(const peel_recommender* recommender, const int64_t* history,
                           size_t num_history, size_t n, int64_t* ids, float* scores,
                           peel_error* error) {
  bool known = true;
  const peel_status status = peel::guarded(error, [&] {
    peel::begin(recommender, "history", history, num_history);
    peel::require(ids, "ids");
    peel::require(scores, "scores");
    known = peel::recommend(recommender->embedding, history, static_cast<int64_t>(num_history),
                            static_cast<int64_t>(n), ids, scores);
  });
  if (status != PEEL_OK) return status;
  peel::fail(error, known ? PEEL_OK : PEEL_UNKNOWN_USER,
             known ? ""
                   : "no item of the history is held, and the file has no centroids: the answer is "
                     "for the average user of what is held");
  return PEEL_OK;
}

peel_status peel_similar(const peel_recommender* recommender, int64_t item, size_t n, int64_t* ids,
                         float* scores, peel_error* error) {
  return peel::guarded(error, [&] {
    peel::require(recommender, "recommender");
    peel::check_id("item", item, recommender->embedding.header().num_embeddings);
    peel::require(ids, "ids");
    peel::require(scores, "scores");
    const auto snapshot = recommender->embedding.snapshot();
    const auto count = static_cast<int64_t>(n);
    const bool has_prior = recommender->embedding.header().fold_in.prior > 0;
    if (peel::similar_rows(snapshot->table(), has_prior, &item, 1, count, ids, scores) < 0) return;
    throw peel::NotHeldError("item " + std::to_string(item) + " is not held");
  });
}

peel_status peel_fold_in(const peel_recommender* recommender, const int64_t* history,
                         size_t num_history, float* user, size_t* num_held, peel_error* error) {
  return peel::guarded(error, [&] {
    const auto snapshot = peel::begin(recommender, "history", history, num_history);
    peel::require(user, "user");
    const int64_t held =
        peel::fold_in(snapshot->table(), history, static_cast<int64_t>(num_history),
                      recommender->embedding.header().fold_in, user);
    if (num_held) *num_held = static_cast<size_t>(held);
  });
}

peel_status peel_continue(const peel_recommender* recommender, size_t known_count,
                          const int64_t* items, size_t num_items, float* user, size_t* num_held,
                          peel_error* error) {
  return peel::guarded(error, [&] {
    const auto snapshot = peel::begin(recommender, "items", items, num_items);
    peel::check_user(recommender, user);
    const int64_t held = peel::continue_vector(snapshot->table(), static_cast<int64_t>(known_count),
                                               items, static_cast<int64_t>(num_items),
                                               recommender->embedding.header().fold_in, user);
    if (num_held) *num_held = static_cast<size_t>(held);
  });
}

peel_status peel_average_user(const peel_recommender* recommender, float* user, int* known,
                              peel_error* error) {
  return peel::guarded(error, [&] {
    peel::require(recommender, "recommender");
    peel::require(user, "user");
    const bool told =
        peel::average_user(recommender->embedding, *recommender->embedding.snapshot(), user);
    if (known) *known = told ? 1 : 0;
  });
}

peel_status peel_rotate(const peel_recommender* recommender, const float* vector, float* rotated,
                        peel_error* error) {
  return peel::guarded(error, [&] {
    peel::require(recommender, "recommender");
    const peel::PeelFile& embedding = recommender->embedding;
    peel::require(vector, "vector");
    peel::check_vectors("vector", vector, 1, embedding.header().geometry.dim);
    peel::require(rotated, "rotated");
    const std::vector<float> fresh = embedding.appendix().rotate(vector);
    std::copy(fresh.begin(), fresh.end(), rotated);
  });
}

peel_status peel_choose_group(const peel_recommender* recommender, const float* user,
                              int64_t* group, peel_error* error) {
  return peel::guarded(error, [&] {
    peel::require(recommender, "recommender");
    peel::check_user(recommender, user);
    peel::require(group, "group");
    *group = recommender->embedding.appendix().choose_group(user);
  });
}

peel_status peel_get_item_id_type(const peel_recommender* recommender, peel_item_id_type* type,
                                  peel_error* error) {
  return peel::guarded(error, [&] {
    peel::require(recommender, "recommender");
    peel::require(type, "type");
    const peel::PeelFile& embedding = recommender->embedding;
    *type = static_cast<peel_item_id_type>(peel::item_id_type(embedding.appendix()));
  });
}

peel_status peel_find_rows(const peel_recommender* recommender, const int64_t* item_ids,
                           size_t count, int64_t* ids, peel_error* error) {
  return peel::guarded(error, [&] {
    const auto known = peel::integer_item_ids_of(recommender);
    peel::require_array(item_ids, count, "item_ids");
    peel::require_array(ids, count, "ids");
    std::vector<std::string> names(count);
    for (size_t i = 0; i < count; ++i) names[i] = std::to_string(item_ids[i]);
    peel::find_rows(*known, names, ids);
  });
}

peel_status peel_find_rows_by_text(const peel_recommender* recommender, const char* const* item_ids,
                                   size_t count, int64_t* ids, peel_error* error) {
  return peel::guarded(error, [&] {
    const auto known = peel::item_ids_of(recommender);
    peel::require_array(item_ids, count, "item_ids");
    peel::require_array(ids, count, "ids");
    std::vector<std::string> names(count);
    for (size_t i = 0; i < count; ++i) {
      if (!item_ids[i]) peel::require(nullptr, ("item_ids[" + std::to_string(i) + "]").c_str());
      names[i] = item_ids[i];
    }
    peel::find_rows(*known, names, ids);
  });
}

peel_status peel_get_item_ids(const peel_recommender* recommender, const int64_t* ids, size_t count,
                              int64_t* item_ids, peel_error* error) {
  return peel::guarded(error, [&] {
    peel::begin(recommender, "ids", ids, count);
    const auto known = peel::integer_item_ids_of(recommender);
    peel::require_array(item_ids, count, "item_ids");
    std::vector<int64_t> found(count);
    for (size_t i = 0; i < count; ++i) found[i] = peel::read_integer(known->at(ids[i]));
    std::copy(found.begin(), found.end(), item_ids);
  });
}

peel_status peel_get_item_text(const peel_recommender* recommender, int64_t id, char* text,
                               size_t capacity, size_t* length, peel_error* error) {
  return peel::guarded(error, [&] {
    peel::require(recommender, "recommender");
    peel::check_id("id", id, recommender->embedding.header().num_embeddings);
    peel::require_array(text, capacity, "text");
    peel::require(length, "length");
    const std::string name = peel::item_ids_of(recommender)->at(id);
    if (capacity > 0) text[0] = '\0';
    if (name.size() < capacity) std::memcpy(text, name.c_str(), name.size() + 1);
    *length = name.size();
  });
}

}  // extern "C"
