// Any bytes as a bundle: as they are, and with their checksums made right.
#include "bundles.h"
#include "use_bundle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  files::Bytes bytes;
  bytes.append(data, size);
  files::blocks_of_user(bytes.data(), bytes.size(), "1");
  files::seal_bundle(bytes);
  files::blocks_of_user(bytes.data(), bytes.size(), "1");
  files::blocks_of_user(bytes.data(), bytes.size(), "1", size / 2);
  return 0;
}
