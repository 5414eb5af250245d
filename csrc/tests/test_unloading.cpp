// The shared library comes and goes, with its threads, as often as somebody likes.
//
//     test_unloading LIBRARY
//
// The process runs itself for what can only be seen from outside: LIBRARY exit | close.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "device/peel.h"
#include "files.h"

namespace {

constexpr int kThreads = 4;

// A function of the library by its name.
template <typename F>
F* named(void* library, const char* name, F*) {
  void* address = dlsym(library, name);
  CHECK(address != nullptr);
  return reinterpret_cast<F*>(address);
}
#define NAMED(name) const auto name##_ = named(library, #name, &name)

std::ptrdiff_t threads_of_the_process() {
#if defined(__linux__)
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
#else
  return -1;
#endif
}

// Threads that were joined may be listed for a moment.
void wait_for_threads(std::ptrdiff_t wanted) {
  for (int i = 0; i < 2000 && threads_of_the_process() > wanted; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CHECK(threads_of_the_process() == wanted);
}

// Loads the library and has all its threads compute.
void* load_and_score(const char* path, const files::Bytes& bytes) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) std::fprintf(stderr, "%s\n", dlerror());
  CHECK(library != nullptr);
  NAMED(peel_set_num_threads);
  NAMED(peel_open_memory);
  NAMED(peel_score);
  NAMED(peel_close);
  CHECK(peel_set_num_threads_(kThreads, nullptr) == PEEL_OK);
  peel_recommender* recommender = nullptr;
  CHECK(peel_open_memory_(bytes.data(), bytes.size(), PEEL_NO_BUDGET, &recommender, nullptr) ==
        PEEL_OK);
  const std::vector<float> user(64, 1.0f);
  int64_t ids[5];
  float scores[5];
  CHECK(peel_score_(recommender, user.data(), nullptr, 0, 5, ids, scores, nullptr) == PEEL_OK);
  CHECK(ids[4] >= 0);
  peel_close_(recommender);
  return library;
}

bool runs_and_ends_well(const char* self, const char* library, const char* how) {
  const pid_t child = fork();
  if (child == 0) {
    execl(self, self, library, how, static_cast<char*>(nullptr));
    _exit(127);
  }
  CHECK(child > 0);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc >= 2);
  const char* path = argv[1];
  std::mt19937_64 random(5);
  const files::Bytes bytes = files::long_planes_file(random, 512);
  alarm(120);  // a hang must fail, not block
  if (argc == 3) {
    void* library = load_and_score(path, bytes);
    if (std::string(argv[2]) == "close") CHECK(dlclose(library) == 0);
    return 0;
  }
  // A sanitizer may start a thread of its own with the first one that is started.
  CHECK(dlclose(load_and_score(path, bytes)) == 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const std::ptrdiff_t before = threads_of_the_process();
  for (int round = 0; round < 200; ++round) {
    void* library = load_and_score(path, bytes);
#if defined(__linux__)
    CHECK(threads_of_the_process() == before + kThreads - 1);
#endif
    CHECK(dlclose(library) == 0);
    wait_for_threads(before);
  }
  for (int round = 0; round < 30; ++round) {
    CHECK(runs_and_ends_well(argv[0], path, "exit"));
    CHECK(runs_and_ends_well(argv[0], path, "close"));
  }
}
