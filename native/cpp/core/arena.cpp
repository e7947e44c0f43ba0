#include "arena.h"

#include <algorithm>

namespace allmrec {

void Arena::make_room(size_t bytes, size_t least) {
  while (current_ < blocks_.size() && used_ + bytes > blocks_[current_].bytes()) {
    previous_ += used_;
    used_ = 0;
    ++current_;
  }
  if (current_ < blocks_.size()) return;
  const size_t wanted = std::max(bytes, least);
  blocks_.emplace_back(device_, wanted);
  total_ += wanted;
}

void* Arena::alloc(size_t bytes) {
  bytes = rounded(bytes);
  make_room(bytes, std::max(size_t{1} << 20, total_));  // at least twice of what there was
  void* memory = blocks_[current_].as<unsigned char>() + used_;
  used_ += bytes;
  peak_ = std::max(peak_, previous_ + used_);
  return memory;
}

void Arena::reserve(size_t bytes) {
  make_room(rounded(bytes), 0);
  peak_ =
      std::max(peak_, previous_ + used_ + rounded(bytes));  // so that a joined block has room for it again
}

void Arena::release(const Mark& mark) {
  current_ = mark.block;
  used_ = mark.used;
  previous_ = mark.previous;
}

void Arena::reset() {
  if (blocks_.size() > 1) {
    blocks_.clear();
    total_ = 0;
    blocks_.emplace_back(device_, peak_ + peak_ / 16);
    total_ = blocks_.back().bytes();
  }
  release({0, 0, 0});
}

}  // namespace allmrec
