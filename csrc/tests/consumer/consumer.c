/* What a program of C alone does first: it has no C++ of its own to pull the C++ library in. */
#include <peel.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char** argv) {
  peel_error error;
  peel_recommender* recommender = NULL;
  const char* path = argc > 1 ? argv[1] : "";
  if (strcmp(peel_version(), PEEL_VERSION) != 0) return 1;
  if (peel_open_file(path, PEEL_NO_BUDGET, &recommender, &error) != PEEL_OK) {
    fprintf(stderr, "%s: %s\n", peel_status_text(error.status), error.message);
    return 1;
  }
  peel_close(recommender);
  return 0;
}
