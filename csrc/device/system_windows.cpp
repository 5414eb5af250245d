#if defined(_WIN32)

#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <algorithm>

#include "device/errors.h"
#include "device/system.h"

namespace peel::system {
namespace {

std::string last_error() { return "error " + std::to_string(::GetLastError()) + " of Windows"; }

// UTF-16, which names files whatever the program's code page is.
std::wstring wide_path(const std::string& path) {
  const auto bytes = static_cast<int>(std::min<size_t>(path.size(), 1 << 20));
  const int length =
      ::MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path.data(), bytes, nullptr, 0);
  if (length <= 0) throw SourceError(path + ": cannot be opened: not a path in UTF-8");
  std::wstring wide(static_cast<size_t>(length), L'\0');
  ::MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path.data(), bytes, wide.data(), length);
  return wide;
}

}  // namespace

uint64_t page_bytes() {
  SYSTEM_INFO info;
  ::GetSystemInfo(&info);
  return info.dwPageSize;
}

uint8_t* reserve_addresses(uint64_t bytes) {
  void* range = nullptr;
  ::SetLastError(ERROR_NOT_ENOUGH_MEMORY);
  if (bytes <= SIZE_MAX) {
    range = ::VirtualAlloc(nullptr, static_cast<size_t>(bytes), MEM_RESERVE, PAGE_NOACCESS);
  }
  if (range) return static_cast<uint8_t*>(range);
  throw SourceError("cannot reserve " + std::to_string(bytes) +
                    " bytes of addresses: " + last_error());
}

void release_addresses(uint8_t* begin, uint64_t) { ::VirtualFree(begin, 0, MEM_RELEASE); }

void take_memory(uint8_t* begin, uint64_t bytes) {
  if (::VirtualAlloc(begin, static_cast<size_t>(bytes), MEM_COMMIT, PAGE_READWRITE)) return;
  throw SourceError("cannot have " + std::to_string(bytes) + " bytes of memory: " + last_error());
}

void give_memory_back(uint8_t* begin, uint64_t bytes) {
  ::VirtualFree(begin, static_cast<size_t>(bytes), MEM_DECOMMIT);
}

void make_pages(uint8_t*, uint64_t) {}

File::File(const std::string& path) : path_(path) {
  // Others may write, rename and delete it meanwhile, as on other systems.
  const HANDLE file = ::CreateFileW(wide_path(path).c_str(), GENERIC_READ,
                                    FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, nullptr,
                                    OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
  if (file == INVALID_HANDLE_VALUE) {
    throw SourceError(path_ + ": cannot be opened: " + last_error());
  }
  LARGE_INTEGER size;
  if (::GetFileType(file) != FILE_TYPE_DISK || !::GetFileSizeEx(file, &size)) {
    ::CloseHandle(file);
    throw SourceError(path_ + ": not a file");
  }
  file_ = reinterpret_cast<intptr_t>(file);
  size_ = static_cast<uint64_t>(size.QuadPart);
}

File::~File() { ::CloseHandle(reinterpret_cast<HANDLE>(file_)); }

uint64_t File::read(uint64_t offset, uint64_t count, uint8_t* into) const {
  constexpr uint64_t kAtOnce = uint64_t{1} << 30;
  OVERLAPPED place = {};
  place.Offset = static_cast<DWORD>(offset);
  place.OffsetHigh = static_cast<DWORD>(offset >> 32);
  DWORD got = 0;
  const auto wanted = static_cast<DWORD>(std::min(count, kAtOnce));
  if (::ReadFile(reinterpret_cast<HANDLE>(file_), into, wanted, &got, &place)) return got;
  if (::GetLastError() == ERROR_HANDLE_EOF) return 0;
  throw SourceError(path_ + ": cannot be read: " + last_error());
}

}  // namespace peel::system

#endif
