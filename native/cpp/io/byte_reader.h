#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "../core/error.h"

namespace allmrec::io {

// A bounded little-endian cursor: whatever a file claims, nothing is read beyond its bytes.
class ByteReader {
 public:
  ByteReader(const uint8_t* data, size_t size, const std::string& where, size_t position = 0)
      : data_(data), size_(size), position_(position), where_(where) {}

  size_t position() const { return position_; }
  size_t remaining() const { return size_ - position_; }
  const std::string& where() const { return where_; }

  const uint8_t* take(uint64_t count, const char* what) {
    if (count > remaining()) {
      fail("expected " + std::to_string(count) + " bytes of " + what + ", found " +
           std::to_string(remaining()) + " (truncated or damaged)");
    }
    const uint8_t* at = data_ + position_;
    position_ += static_cast<size_t>(count);
    return at;
  }

  template <typename T>
  T read(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what), sizeof(T));
    return value;
  }

  std::string_view take_text(uint64_t count, const char* what) {
    return {reinterpret_cast<const char*>(take(count, what)), static_cast<size_t>(count)};
  }

  [[noreturn]] void fail(const std::string& reason) const {
    throw Error(ErrorCode::file_format, where_ + ": at byte " + std::to_string(position_) + ": " + reason);
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t position_;  // never beyond size_
  std::string where_;
};

}  // namespace allmrec::io
