// A file scored for a user made of the last 16 bytes, with a history and ids to exclude, and an
// item's similar ones.
#include "device/peel.h"
#include "files.h"
#include "use.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 16) return 0;
  files::Bytes bytes;
  bytes.append(data, size - 16);
  data += size - 16;
  files::seal(bytes);
  peel_recommender* recommender = nullptr;
  peel_info info;
  if (peel_open_memory(bytes.data(), bytes.size(), PEEL_NO_BUDGET, &recommender, nullptr)) return 0;
  CHECK(peel_get_info(recommender, &info, nullptr) == PEEL_OK);
  if (info.embedding_dim <= 4096 && info.num_rows <= 4096 && info.num_embeddings > 0) {
    std::vector<float> user(static_cast<size_t>(info.embedding_dim));
    for (size_t d = 0; d < user.size(); ++d) user[d] = static_cast<float>(data[d % 16]) - 128;
    const int64_t history[3] = {data[0], data[1] * 257, data[2] % info.num_embeddings};
    int64_t ids[40];
    float scores[40];
    const size_t n = data[3] % 40;
    for (const size_t known : {size_t{0}, size_t{1}, size_t{3}}) {
      peel_error error;
      if (peel_score(recommender, user.data(), history, known, n, ids, scores, &error) == PEEL_OK) {
        for (size_t i = 0; i < n; ++i) CHECK(ids[i] >= -1 && ids[i] < info.num_embeddings);
      }
      if (peel_similar(recommender, history[2], n, ids, scores, &error) == PEEL_OK) {
        for (size_t i = 0; i < n; ++i) CHECK(ids[i] >= -1 && ids[i] < info.num_embeddings);
      }
      if (data[4] % 4 == 0) {
        peel_recommend(recommender, history + 2, 1, n, ids, scores, &error);
        peel_continue(recommender, known, history + 2, 1, user.data(), nullptr, &error);
        peel_choose_group(recommender, user.data(), ids, &error);
        std::vector<float> rotated(user.size());
        peel_rotate(recommender, user.data(), rotated.data(), &error);
        peel_average_user(recommender, rotated.data(), nullptr, &error);
      }
    }
  }
  peel_close(recommender);
  return 0;
}
