#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "../core/error.h"
#include "input_file.h"

namespace allmrec::io {

// A range of a file's bytes.
struct ByteRange {
  uint64_t offset = 0, size = 0;
};

// A bounded little-endian cursor: whatever a file claims, nothing is read beyond its bytes, and no more
// memory is taken than a claim that fits into them.
class ByteReader {
 public:
  // Over memory that outlives this.
  ByteReader(const uint8_t* data, size_t size, const std::string& where)
      : size_(size), window_(data), window_size_(size), where_(where) {}

  // Over part of a file, read as it is needed. Positions count from the beginning of the part.
  ByteReader(const InputFile& file, ByteRange part, const std::string& where)
      : file_(&file), origin_(part.offset), size_(part.size), where_(where) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return size_ - position_; }
  const std::string& where() const { return where_; }

  // The bytes stay valid until the next are taken.
  const uint8_t* take(uint64_t count, const char* what) {
    check(count, what);
    const uint64_t skipped = position_ - window_at_;
    if (skipped > window_size_ || count > window_size_ - skipped) fill(static_cast<size_t>(count));
    const uint8_t* at = window_ + (position_ - window_at_);
    position_ += count;
    return at;
  }

  // Where the next `count` bytes are in the file, without reading them.
  ByteRange skip(uint64_t count, const char* what) {
    check(count, what);
    const ByteRange range{origin_ + position_, count};
    position_ += count;
    return range;
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
    throw Error(ErrorCode::checkpoint, where_ + ": at byte " + std::to_string(position_) + ": " + reason);
  }

 private:
  static constexpr size_t kWindow = size_t{64} << 10;

  void check(uint64_t count, const char* what) const {
    if (count > remaining()) {
      fail("expected " + std::to_string(count) + " bytes of " + what + ", found " +
           std::to_string(remaining()) + " (truncated or damaged)");
    }
  }

  void fill(size_t count) {
    const auto wanted = static_cast<size_t>(std::min<uint64_t>(std::max(count, kWindow), remaining()));
    if (wanted > capacity_) {
      buffer_.reset();
      buffer_.reset(new uint8_t[wanted]);
      capacity_ = wanted;
    }
    window_size_ = 0;
    file_->read(origin_ + position_, wanted, buffer_.get());
    window_ = buffer_.get();
    window_at_ = position_;
    window_size_ = wanted;
  }

  const InputFile* file_ = nullptr;
  uint64_t origin_ = 0;  // of position 0 in the file
  uint64_t size_;
  uint64_t position_ = 0;  // never beyond size_
  // The bytes at hand: window_size_ of them from position window_at_.
  const uint8_t* window_ = nullptr;
  uint64_t window_at_ = 0;
  size_t window_size_ = 0;
  std::unique_ptr<uint8_t[]> buffer_;
  size_t capacity_ = 0;
  std::string where_;
};

}  // namespace allmrec::io
