#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "../backend/device.h"
#include "../core/tensor.h"

namespace allmrec {

// Where a sequence goes on in a KvCache. Its tokens see the keys [0, prefix) behind row `start` (a prompt it
// shares with other sequences) and its own, the keys [begin, begin + length) and those that come. Without a
// shared prompt prefix and begin are 0.
struct CachedSequence {
  int64_t start = 0;
  int32_t prefix = 0;
  int32_t begin = 0;
  int32_t length = 0;
};

// Keys and values of every layer, a row for each token: keys in columns [0, C), values in [C, 2C). Sequences
// lie in ranges of rows that are reserved and released, so memory is bounded by `max_rows` whatever the
// number of requests. The memory grows with what is reserved.
class KvCache {
 public:
  static constexpr int64_t kNone = -1;

  KvCache(std::shared_ptr<Device> device, int64_t layers, int64_t hidden_size, int32_t dtype,
          int64_t max_rows);

  // The first row of `rows` free ones, kNone while there are none. May move the memory, but not the rows.
  int64_t reserve(int64_t rows);
  void release(int64_t start, int64_t rows);
  // Room for so many rows in one piece, at most max_rows; the memory then moves less often.
  void grow(int64_t rows);
  // Zeros. Kernels may multiply what lies between a shared prompt and a sequence's own keys by a weight of 0,
  // so it must be finite.
  void zero(int64_t start, int64_t rows);
  // Copies rows within every layer; the ranges must not overlap.
  void copy(int64_t from, int64_t to, int64_t rows);
  // Gives the memory back and forgets what was reserved.
  void clear();

  // (rows(), 2C)
  Tensor layer(int64_t i) const;
  int64_t rows() const { return rows_; }
  int64_t max_rows() const { return max_rows_; }

 private:
  void resize(int64_t rows);
  void give(int64_t start, int64_t rows);

  std::shared_ptr<Device> device_;
  int64_t layers_, width_;
  int32_t dtype_;
  int64_t max_rows_;
  int64_t rows_ = 0;
  DeviceBuffer memory_;              // (layers, rows, width)
  std::map<int64_t, int64_t> free_;  // start → rows, neighbours joined
};

}  // namespace allmrec
