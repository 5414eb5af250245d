#include "device/file_header.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "core/sizes.h"
#include "device/checksum.h"
#include "device/errors.h"

namespace peel {
namespace {

constexpr uint8_t kVersion = 1;
// Feature bits.
constexpr uint8_t kKeepOneBlock = 1;
constexpr uint8_t kHasPrior = 2;
constexpr uint8_t kRotated = 4;

// As it lies in the file, little endian.
struct Fields {
  char magic[4];
  uint8_t version;
  uint8_t features;
  uint8_t layout;
  uint8_t value_type;
  uint8_t row_ids;
  uint8_t id_bytes;
  uint8_t fold_in_steps;
  uint8_t reserved;
  uint8_t layer_bits[kMaxBits];
  uint16_t dim;
  uint16_t block_dim;
  uint32_t num_embeddings;
  uint32_t num_item_groups;
  uint32_t num_blocks;
  uint32_t group;
  uint32_t content;
  uint32_t blocks_end;  // in kBlockAlignment
  float step_size;
  float temperature;
  float prior;
  uint32_t checksum;
};
static_assert(sizeof(Fields) == kHeaderBytes, "the header is read in place");

void require(bool condition, const std::string& what) {
  if (!condition) throw FormatError("not a valid .peel file: " + what);
}

Geometry read_planes(const Fields& fields) {
  require(fields.row_ids == 2, "row_ids does not fit the planes layout");
  require(fields.value_type == 2,
          "value type " + std::to_string(fields.value_type) + " does not fit the planes layout");
  require(fields.block_dim == 0 && (fields.features & kKeepOneBlock) == 0,
          "block_dim or features without columns");
  Geometry geometry;
  geometry.layout = Layout::kPlanes;
  geometry.value_type = ValueType::kInt8;
  int bits = 0;
  for (int layer = 0; layer < kMaxBits && fields.layer_bits[layer] > 0; ++layer) {
    geometry.layer_bits[geometry.num_layers++] = fields.layer_bits[layer];
    bits += fields.layer_bits[layer];
  }
  for (int layer = geometry.num_layers; layer < kMaxBits; ++layer) {
    require(fields.layer_bits[layer] == 0, "layer_bits out of range");
  }
  require(bits >= 1 && bits <= kMaxBits, "layer_bits out of range");
  return geometry;
}

Geometry read_columns(const Fields& fields) {
  require(fields.layout == 1, "unknown layout " + std::to_string(fields.layout));
  require(fields.value_type <= 2, "unknown value type " + std::to_string(fields.value_type));
  require(fields.row_ids <= 1, "row_ids does not fit the columns layout");
  require(fields.block_dim >= 1 && fields.block_dim <= fields.dim, "block_dim out of range");
  require((fields.features & kRotated) == 0, "rotated rows without planes");
  Geometry geometry;
  geometry.layout = Layout::kColumns;
  geometry.value_type = static_cast<ValueType>(fields.value_type);
  geometry.block_dim = fields.block_dim;
  geometry.num_layers = (fields.dim + fields.block_dim - 1) / fields.block_dim;
  bool unused = true;
  for (const uint8_t bits : fields.layer_bits) unused = unused && bits == 0;
  require(geometry.num_layers <= kMaxLayers && unused, "too many layers");
  return geometry;
}

}  // namespace

uint64_t FileHeader::item_group_section_bytes() const {
  if (geometry.layout != Layout::kColumns) return 0;
  const uint64_t bytes = listed_ids_begin() + (listed_ids_bytes() + 7) / 8 * 8;
  return (bytes + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

FileHeader read_header(const uint8_t* data, uint64_t size) {
  if (size >= 4 && std::memcmp(data, "PEEB", 4) == 0) {
    throw FormatError("not a .peel file but a bundle of many: open it with the id of a user");
  }
  if (size == 0 || std::memcmp(data, "PEEL", memory_size(std::min<uint64_t>(size, 4))) != 0) {
    throw FormatError("not a .peel file: it does not begin with 'PEEL'");
  }
  if (size < kHeaderBytes) {
    throw FormatError("cut short: " + std::to_string(size) + " bytes, the header alone has " +
                      std::to_string(kHeaderBytes));
  }
  Fields fields;
  std::memcpy(&fields, data, sizeof(fields));
  if (fields.version != kVersion) {
    throw FormatError("version " + std::to_string(fields.version) +
                      " of the .peel format, this reads version " + std::to_string(kVersion));
  }
  if (crc32(0, data, kHeaderBytes - 4) != fields.checksum) {
    throw FormatError("damaged: the checksum of the header does not match");
  }
  require((fields.features & ~(kKeepOneBlock | kHasPrior | kRotated)) == 0, "unknown features");
  require(fields.reserved == 0, "reserved bytes are not zero");
  require(std::isfinite(fields.step_size) && fields.step_size > 0 &&
              std::isfinite(fields.temperature) && fields.temperature > 0,
          "fold-in out of range");
  uint32_t prior_bits = 0;
  std::memcpy(&prior_bits, &fields.prior, sizeof(prior_bits));
  require((fields.features & kHasPrior) != 0 ? std::isfinite(fields.prior) && fields.prior > 0
                                             : prior_bits == 0,
          "prior out of range");
  require(fields.dim >= 1, "dim is 0");
  require(fields.id_bytes == (fields.num_embeddings <= 1u << 16 ? 2 : 4),
          "id_bytes does not fit num_embeddings");
  FileHeader header;
  header.geometry = fields.layout == 2 ? read_planes(fields) : read_columns(fields);
  header.geometry.dim = fields.dim;
  header.row_ids = static_cast<RowIds>(fields.row_ids);
  header.id_bytes = fields.id_bytes;
  header.keep_one_block = (fields.features & kKeepOneBlock) != 0;
  header.rotated = (fields.features & kRotated) != 0;
  header.num_embeddings = fields.num_embeddings;
  header.num_item_groups = fields.num_item_groups;
  header.num_blocks = fields.num_blocks;
  header.blocks_end = static_cast<uint64_t>(kBlockAlignment) * fields.blocks_end;
  header.group = fields.group;
  header.fold_in = {fields.fold_in_steps, fields.step_size, fields.temperature, fields.prior};
  header.checksum = fields.checksum;
  require(fields.num_blocks <=
              uint64_t{fields.num_item_groups} * static_cast<uint64_t>(header.geometry.num_layers),
          "more blocks than there can be");
  return header;
}

}  // namespace peel
