#include "arena.h"

#include <algorithm>

namespace allmrec {

void* Arena::alloc(size_t bytes) {
  bytes = (std::max<size_t>(bytes, 1) + 63) / 64 * 64;
  if (blocks_.empty() || used_ + bytes > blocks_.back().bytes()) {
    const size_t wanted = std::max({bytes, size_t{1} << 20, total_});  // at least twice of what there was
    previous_ += used_;
    used_ = 0;
    blocks_.emplace_back(device_, wanted);
    total_ += wanted;
  }
  void* memory = blocks_.back().as<unsigned char>() + used_;
  used_ += bytes;
  peak_ = std::max(peak_, previous_ + used_);
  return memory;
}

void Arena::reset() {
  if (blocks_.size() > 1) {
    blocks_.clear();
    total_ = 0;
    blocks_.emplace_back(device_, peak_ + peak_ / 16);
    total_ = blocks_.back().bytes();
  }
  used_ = 0;
  previous_ = 0;
}

}  // namespace allmrec
