#include "arena.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

namespace allmrec {

// Free pieces by block and offset; the first that is large enough is taken, which keeps the used ones
// together.
struct Arena::Pieces {
  using Place = std::pair<size_t, size_t>;  // block, offset

  explicit Pieces(std::shared_ptr<Device> d) : device(std::move(d)) {}

  Place take(size_t bytes) {
    auto it = first_of(bytes);
    if (it == free.end()) it = add_block(std::max({bytes, size_t{1} << 20, total / 4}));
    const Place place = it->first;
    const size_t rest = it->second - bytes;
    free.erase(it);
    if (rest > 0) free.emplace(Place{place.first, place.second + bytes}, rest);
    in_use += bytes;
    peak = std::max(peak, in_use);
    return place;
  }

  void give_back(const Place& place, size_t bytes) {
    in_use -= bytes;
    auto it = free.emplace(place, bytes).first;
    const auto next = std::next(it);
    if (next != free.end() && next->first == Place{place.first, place.second + bytes}) {
      it->second += next->second;
      free.erase(next);
    }
    if (it == free.begin()) return;
    const auto before = std::prev(it);
    if (before->first.first == place.first && before->first.second + before->second == place.second) {
      before->second += it->second;
      free.erase(it);
    }
  }

  std::map<Place, size_t>::iterator first_of(size_t bytes) {
    return std::find_if(free.begin(), free.end(), [&](const auto& piece) { return piece.second >= bytes; });
  }

  std::map<Place, size_t>::iterator add_block(size_t bytes) {
    blocks.emplace_back(device, bytes);
    total += bytes;
    return free.emplace(Place{blocks.size() - 1, 0}, bytes).first;
  }

  void reset() {
    ++epoch;
    if (blocks.size() > 1) {
      // Pieces that would have fitted together but for the gaps between them: the gaps are needed too.
      const size_t wanted = blocks.front().bytes() >= peak ? total : peak + peak / 16;
      blocks.clear();
      device->trim();  // or the blocks would wait in the device's cache for requests of their sizes
      blocks.emplace_back(device, wanted);
      total = wanted;
    }
    free.clear();
    if (!blocks.empty()) free.emplace(Place{0, 0}, total);
    in_use = 0;
  }

  void* at(const Place& place) const { return blocks[place.first].as<unsigned char>() + place.second; }

  std::shared_ptr<Device> device;
  std::vector<DeviceBuffer> blocks;
  std::map<Place, size_t> free;
  size_t in_use = 0;
  size_t peak = 0;
  size_t total = 0;    // bytes of all blocks
  uint64_t epoch = 0;  // owners of a piece from before a reset have nothing to give back
};

Arena::Arena(std::shared_ptr<Device> device) : pieces_(std::make_shared<Pieces>(std::move(device))) {}

std::shared_ptr<void> Arena::take(size_t bytes) {
  bytes = rounded(bytes);
  const Pieces::Place place = pieces_->take(bytes);
  return {pieces_->at(place), [pieces = pieces_, place, bytes, epoch = pieces_->epoch](void*) {
            if (pieces->epoch == epoch) pieces->give_back(place, bytes);
          }};
}

void* Arena::alloc(size_t bytes) {
  return pieces_->at(pieces_->take(rounded(bytes)));
}

void Arena::reserve(size_t bytes) {
  if (pieces_->first_of(rounded(bytes)) == pieces_->free.end()) pieces_->add_block(rounded(bytes));
}

void Arena::reset() {
  pieces_->reset();
}

size_t Arena::in_use_bytes() const {
  return pieces_->in_use;
}

size_t Arena::capacity_bytes() const {
  return pieces_->total;
}

size_t Arena::peak_bytes() const {
  return pieces_->peak;
}

}  // namespace allmrec
