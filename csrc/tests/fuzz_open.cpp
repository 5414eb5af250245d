// Any bytes: opened as they are, and with their checksums made right.
#include "files.h"
#include "use.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  files::Bytes bytes;
  bytes.append(data, size);
  files::opens(bytes.data(), bytes.size());
  files::seal(bytes);
  files::opens(bytes.data(), bytes.size());
  files::opens(bytes.data(), bytes.size(), size / 2);
  return 0;
}
