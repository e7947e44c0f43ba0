#include "kv_cache.h"

#include <algorithm>

namespace allmrec {

KvCache::KvCache(std::shared_ptr<Device> device, int64_t layers, int64_t hidden_size, int32_t dtype,
                 int64_t max_rows)
    : device_(std::move(device)),
      layers_(layers),
      width_(2 * hidden_size),
      dtype_(dtype),
      max_rows_(max_rows) {}

int64_t KvCache::reserve(int64_t rows) {
  const auto fits = [rows](const auto& range) { return range.second >= rows; };
  auto found = std::find_if(free_.begin(), free_.end(), fits);
  if (found == free_.end()) {
    // A free range at the end grows; half as much again, so that many small reservations move little.
    const bool open = !free_.empty() && free_.rbegin()->first + free_.rbegin()->second == rows_;
    const int64_t needed = (open ? free_.rbegin()->first : rows_) + rows;
    if (needed > max_rows_) return kNone;
    grow(std::min(max_rows_, std::max(needed, rows_ + rows_ / 2)));
    found = std::find_if(free_.begin(), free_.end(), fits);
  }
  const auto [start, size] = *found;
  free_.erase(found);
  if (size > rows) free_.emplace(start + rows, size - rows);
  return start;
}

void KvCache::release(int64_t start, int64_t rows) {
  if (rows > 0) give(start, rows);
}

void KvCache::give(int64_t start, int64_t rows) {
  auto next = free_.lower_bound(start);
  if (next != free_.end() && next->first == start + rows) {
    rows += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == start) {
      previous->second += rows;
      return;
    }
  }
  free_.emplace(start, rows);
}

void KvCache::grow(int64_t rows) {
  rows = std::min(rows, max_rows_);
  if (rows <= rows_) return;
  const int64_t before = rows_;
  resize(rows);
  give(before, rows - before);
}

void KvCache::resize(int64_t rows) {
  DeviceBuffer memory(device_, static_cast<size_t>(bytes_of(dtype_, layers_ * rows * width_)),
                      "the key-value cache");
  if (rows_ > 0)
    device_->copy_2d({layers_, rows_ * width_, memory_.as<void>(), rows_ * width_, memory.as<void>(),
                      rows * width_, 0, dtype_});
  memory_ = std::move(memory);
  rows_ = rows;
}

void KvCache::zero(int64_t start, int64_t rows) {
  const int64_t bytes = bytes_of(dtype_, rows * width_);  // whole floats: a row has 2C numbers
  for (int64_t i = 0; i < layers_; ++i)
    device_->fill(static_cast<float*>(layer(i).at(start)), bytes / static_cast<int64_t>(sizeof(float)), 0.0f);
}

void KvCache::copy(int64_t from, int64_t to, int64_t rows) {
  if (rows == 0) return;
  auto* base = memory_.as<unsigned char>();
  device_->copy_2d({layers_, rows * width_, base + bytes_of(dtype_, from * width_), rows_ * width_,
                    base + bytes_of(dtype_, to * width_), rows_ * width_, 0, dtype_});
}

void KvCache::clear() {
  memory_ = DeviceBuffer();
  free_.clear();
  rows_ = 0;
}

Tensor KvCache::layer(int64_t i) const {
  Tensor t;
  t.data = memory_.as<unsigned char>() + bytes_of(dtype_, i * rows_ * width_);
  t.dtype = dtype_;
  t.rows = rows_;
  t.cols = width_;
  return t;
}

}  // namespace allmrec
