/* Recommends from a .peel file, in plain C:
 *
 *     recommend FILE BUDGET N ITEM...
 *
 * opens FILE under BUDGET bytes (0: all of it), learns the user's vector from the ITEMs (row numbers)
 * it knows, and prints the N best others with their scores. Then it lives with half the memory, as a
 * device must when others need it, and says what is left.
 */
#include <inttypes.h>
#include <peel.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const peel_error* error) {
  fprintf(stderr, "recommend: %s\n", error->message);
  return 1;
}

static int print_best(const peel_recommender* recommender, const int64_t* history, size_t known,
                      size_t n) {
  peel_error error;
  peel_info info;
  int64_t* ids = malloc(n * sizeof(*ids));
  float* scores = malloc(n * sizeof(*scores));
  peel_status status = ids && scores ? peel_get_info(recommender, &info, &error) : PEEL_ERROR_MEMORY;
  if (status == PEEL_OK) {
    status = peel_recommend(recommender, history, known, n, ids, scores, &error);
  }
  if (status == PEEL_OK) {
    printf("%" PRIu64 " bytes, %" PRIu64 " of %" PRIu64 " blocks:", info.nbytes, info.num_blocks,
           info.all_blocks);
    for (size_t i = 0; i < n && ids[i] >= 0; ++i) printf(" %" PRId64 " (%.3f)", ids[i], scores[i]);
    printf("\n");
  }
  free(ids);
  free(scores);
  if (status == PEEL_ERROR_MEMORY) {
    fprintf(stderr, "recommend: out of memory\n");
    return 1;
  }
  return status == PEEL_OK ? 0 : fail(&error);
}

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: recommend FILE BUDGET N ITEM...\n");
    return 2;
  }
  const uint64_t asked = strtoull(argv[2], NULL, 10);
  const uint64_t budget = asked ? asked : PEEL_NO_BUDGET;
  const size_t n = strtoull(argv[3], NULL, 10);
  const size_t known = (size_t)argc - 4;
  int64_t* history = malloc((known + 1) * sizeof(*history));
  if (!history) return 1;
  for (size_t i = 0; i < known; ++i) history[i] = strtoll(argv[4 + i], NULL, 10);

  peel_error error;
  peel_info info;
  peel_recommender* recommender = NULL;
  int code = 0;
  if (peel_open_file(argv[1], budget, &recommender, &error) != PEEL_OK) code = fail(&error);
  if (!code) code = print_best(recommender, history, known, n);
  if (!code && peel_get_info(recommender, &info, &error) != PEEL_OK) code = fail(&error);
  if (!code && peel_resize(recommender, info.nbytes / 2, &error) != PEEL_OK) code = fail(&error);
  if (!code) code = print_best(recommender, history, known, n);
  peel_close(recommender);
  free(history);
  return code;
}
