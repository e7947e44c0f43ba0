#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "../backend/device.h"

namespace allmrec {

// Memory of one step: bump allocation, released all at once by `reset`. The first steps may take several
// blocks, each as large as those before it together; `reset` then joins them into one of their total size, so
// that later steps of that size allocate nothing.
class Arena {
 public:
  explicit Arena(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  void* alloc(size_t bytes);
  void reset();
  size_t peak_bytes() const { return peak_; }

 private:
  std::shared_ptr<Device> device_;
  std::vector<DeviceBuffer> blocks_;
  size_t used_ = 0;      // in the last block
  size_t previous_ = 0;  // in the blocks before it
  size_t total_ = 0;     // bytes of all blocks
  size_t peak_ = 0;
};

}  // namespace allmrec
