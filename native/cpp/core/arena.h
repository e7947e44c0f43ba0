#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "../backend/device.h"

namespace allmrec {

// Memory of one step: bump allocation, released all at once by `reset`, or back to a mark. The first steps
// may take several blocks, each as large as those before it together; `reset` then joins them into one of
// their total size, so that later steps of that size allocate nothing.
class Arena {
 public:
  explicit Arena(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  void* alloc(size_t bytes);
  // The next `bytes`, of all that is allocated before a reset or a release, come from one block that is no
  // larger than they need: for work whose size is known, which then wastes neither the ends of blocks nor a
  // larger block.
  void reserve(size_t bytes);
  void reset();

  // Where allocation stands. What is allocated after a mark may be handed out again once it is released;
  // marks are released in the reverse order.
  struct Mark {
    size_t block, used, previous;
  };
  Mark mark() const { return {current_, used_, previous_}; }
  void release(const Mark& mark);

  size_t peak_bytes() const { return peak_; }

  // What an allocation of so many bytes takes.
  static size_t rounded(size_t bytes) { return ((bytes ? bytes : 1) + 63) / 64 * 64; }

 private:
  // Makes `bytes` available in the current block; a block that has to be made has at least `least`.
  void make_room(size_t bytes, size_t least);

  std::shared_ptr<Device> device_;
  std::vector<DeviceBuffer> blocks_;
  size_t current_ = 0;   // the block allocated from; those behind it are free
  size_t used_ = 0;      // in that block
  size_t previous_ = 0;  // in the blocks before it
  size_t total_ = 0;     // bytes of all blocks
  size_t peak_ = 0;
};

}  // namespace allmrec
