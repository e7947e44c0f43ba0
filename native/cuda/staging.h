#pragma once

// Page-locked host memory between the caller's arrays and the device, so that an upload returns as soon as
// its bytes are copied once and the transfer runs beside the host.
//
// Small uploads go through a ring on the compute stream. Large ones (weights) go piece by piece through two
// buffers on the copy stream: while one is transferred the next is filled, and the compute stream waits for
// the last. What is sent while a graph is recorded stays in blocks that belong to the graph.

#include <deque>
#include <memory>
#include <vector>

#include "platform.h"

namespace allmrec::cuda {

// Page-locked host memory with an owner.
class PinnedBlock {
 public:
  explicit PinnedBlock(size_t bytes);
  ~PinnedBlock();
  PinnedBlock(const PinnedBlock&) = delete;
  PinnedBlock& operator=(const PinnedBlock&) = delete;
  unsigned char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  unsigned char* data_ = nullptr;
  size_t bytes_;
};

class Event {
 public:
  explicit Event(bool timing = false);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

using PinnedBlocks = std::vector<std::unique_ptr<PinnedBlock>>;

class Staging {
 public:
  Staging(cudaStream_t compute, cudaStream_t copy);

  void upload(void* device, const void* host, size_t bytes);
  // Waits for the compute stream.
  void download(void* host, const void* device, size_t bytes);

  // Uploads between begin and end are recorded by the capturing compute stream; their data lives in the
  // blocks that end returns.
  void begin_recording() { recording_ = true; }
  PinnedBlocks end_recording();
  // Blocks of a recording that nothing launched later will read; kept for the next recording.
  void retire(PinnedBlocks blocks);

 private:
  static constexpr size_t kParts = 4;
  static constexpr size_t kPart = size_t{256} << 10;  // bytes of one part of the ring
  static constexpr size_t kPiece = size_t{8} << 20;   // bytes of one piece of a large upload
  static constexpr size_t kBounce = size_t{64} << 10;

  void upload_small(void* device, const void* host, size_t bytes);
  void upload_large(void* device, const void* host, size_t bytes);
  void upload_recorded(void* device, const void* host, size_t bytes);

  cudaStream_t compute_, copy_;
  PinnedBlock ring_, bounce_;
  Event part_done_[kParts];
  size_t part_ = 0, used_ = 0;  // where in the ring the next small upload goes
  std::unique_ptr<PinnedBlock> pieces_[2];
  Event piece_done_[2], order_;
  bool recording_ = false;
  PinnedBlocks recorded_;
  struct Retired {
    PinnedBlocks blocks;
    std::unique_ptr<Event> done;
  };
  std::deque<Retired> retired_;
  size_t recorded_used_ = 0;
};

}  // namespace allmrec::cuda
