#pragma once

#include <cstddef>
#include <memory>

#include "../backend/device.h"

namespace allmrec {

// Memory of one step. `take` hands out a piece that is free again for the next one as soon as its last owner
// lets go: work on a device is in order, so a piece may be handed on while kernels still wait to read it.
// `alloc` keeps a piece until `reset`, which frees everything. The first steps may take several blocks;
// `reset` then joins them into one, so that later steps of that size allocate nothing and find every piece
// where it was. One thread at a time.
class Arena {
 public:
  explicit Arena(std::shared_ptr<Device> device);

  std::shared_ptr<void> take(size_t bytes);
  void* alloc(size_t bytes);
  // The next `bytes` come from one block that is no larger than they need: for work whose size is known,
  // which then wastes neither the ends of blocks nor a larger block.
  void reserve(size_t bytes);
  void reset();
  size_t in_use_bytes() const;
  size_t peak_bytes() const;      // the most ever in use at once
  size_t capacity_bytes() const;  // of the device's memory it holds

  // What an allocation of so many bytes takes.
  static size_t rounded(size_t bytes) { return ((bytes ? bytes : 1) + 63) / 64 * 64; }

 private:
  struct Pieces;
  std::shared_ptr<Pieces> pieces_;
};

}  // namespace allmrec
