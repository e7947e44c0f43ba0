#include "staging.h"

#include <algorithm>
#include <cstring>

#include "context.h"

namespace allmrec::cuda {

PinnedBlock::PinnedBlock(size_t bytes) : bytes_(bytes) {
  void* memory = nullptr;
  check_cuda(cudaMallocHost(&memory, bytes), "cudaMallocHost");
  data_ = static_cast<unsigned char*>(memory);
}

PinnedBlock::~PinnedBlock() {
  cudaFreeHost(data_);
}

Event::Event(bool timing) {
  check_cuda(cudaEventCreateWithFlags(&event_, timing ? cudaEventDefault : cudaEventDisableTiming),
             "cudaEventCreate");
}

Event::~Event() {
  cudaEventDestroy(event_);
}

Staging::Staging(cudaStream_t compute, cudaStream_t copy)
    : compute_(compute), copy_(copy), ring_(kParts * kPart), bounce_(kBounce) {}

void Staging::upload(void* device, const void* host, size_t bytes) {
  if (bytes == 0) return;
  if (recording_)
    upload_recorded(device, host, bytes);
  else if (bytes <= kPart)
    upload_small(device, host, bytes);
  else
    upload_large(device, host, bytes);
}

void Staging::upload_small(void* device, const void* host, size_t bytes) {
  const size_t room = (bytes + 15) / 16 * 16;
  if (used_ + room > kPart) {
    check_cuda(cudaEventRecord(part_done_[part_], compute_), "cudaEventRecord");
    part_ = (part_ + 1) % kParts;
    used_ = 0;
    // An event that was never recorded counts as done.
    check_cuda(cudaEventSynchronize(part_done_[part_]), "cudaEventSynchronize");
  }
  unsigned char* staged = ring_.data() + part_ * kPart + used_;
  used_ += room;
  std::memcpy(staged, host, bytes);
  check_cuda(cudaMemcpyAsync(device, staged, bytes, cudaMemcpyHostToDevice, compute_), "cudaMemcpyAsync");
}

void Staging::upload_large(void* device, const void* host, size_t bytes) {
  // Kernels before this point may still use the memory that is written.
  check_cuda(cudaEventRecord(order_, compute_), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(copy_, order_, 0), "cudaStreamWaitEvent");
  for (size_t done = 0, i = 0; done < bytes; done += kPiece, ++i) {
    const size_t n = std::min(kPiece, bytes - done);
    std::unique_ptr<PinnedBlock>& piece = pieces_[i % 2];
    if (!piece) piece = std::make_unique<PinnedBlock>(kPiece);
    check_cuda(cudaEventSynchronize(piece_done_[i % 2]), "cudaEventSynchronize");
    std::memcpy(piece->data(), static_cast<const unsigned char*>(host) + done, n);
    check_cuda(cudaMemcpyAsync(static_cast<unsigned char*>(device) + done, piece->data(), n,
                               cudaMemcpyHostToDevice, copy_),
               "cudaMemcpyAsync");
    check_cuda(cudaEventRecord(piece_done_[i % 2], copy_), "cudaEventRecord");
  }
  check_cuda(cudaEventRecord(order_, copy_), "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(compute_, order_, 0), "cudaStreamWaitEvent");
}

void Staging::upload_recorded(void* device, const void* host, size_t bytes) {
  const size_t room = (bytes + 15) / 16 * 16;
  if (recorded_.empty() || recorded_used_ + room > recorded_.back()->bytes()) {
    std::unique_ptr<PinnedBlock> block;
    if (!retired_.empty() && cudaEventQuery(*retired_.front().done) == cudaSuccess) {
      PinnedBlocks& blocks = retired_.front().blocks;
      if (blocks.back()->bytes() >= room) block = std::move(blocks.back());
      blocks.pop_back();
      if (blocks.empty()) retired_.pop_front();
    }
    if (!block) block = std::make_unique<PinnedBlock>(std::max(kPart, room));
    recorded_.push_back(std::move(block));
    recorded_used_ = 0;
  }
  unsigned char* staged = recorded_.back()->data() + recorded_used_;
  recorded_used_ += room;
  std::memcpy(staged, host, bytes);
  check_cuda(cudaMemcpyAsync(device, staged, bytes, cudaMemcpyHostToDevice, compute_), "cudaMemcpyAsync");
}

PinnedBlocks Staging::end_recording() {
  recording_ = false;
  recorded_used_ = 0;
  return std::move(recorded_);
}

void Staging::retire(PinnedBlocks blocks) {
  if (blocks.empty()) return;
  retired_.push_back({std::move(blocks), std::make_unique<Event>()});
  check_cuda(cudaEventRecord(*retired_.back().done, compute_), "cudaEventRecord");
}

void Staging::download(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return;
  const bool bounce = bytes <= kBounce;
  void* target = bounce ? bounce_.data() : host;
  check_cuda(cudaMemcpyAsync(target, device, bytes, cudaMemcpyDeviceToHost, compute_), "cudaMemcpyAsync");
  check_cuda(cudaStreamSynchronize(compute_), "cudaStreamSynchronize");
  if (bounce) std::memcpy(host, bounce_.data(), bytes);
}

}  // namespace allmrec::cuda
