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
  using Map = std::map<Place, size_t>;      // bytes

  explicit Pieces(std::shared_ptr<Device> d) : device(std::move(d)) {}

  Place take(size_t bytes) {
    auto it = first_of(bytes);
    if (it == free.end()) it = add_block(std::max({bytes, size_t{1} << 20, total / 4}));
    const Place place = it->first;
    const size_t rest = it->second - bytes;
    spare.reserve(spare.size() + free.size() + 1);  // for every node there is
    if (rest > 0) put({place.first, place.second + bytes}, rest);
    spare.push_back(free.extract(it));
    ++out;
    in_use += bytes;
    peak = std::max(peak, in_use);
    return place;
  }

  // A free piece, in a node that is over or a new one.
  Map::iterator put(const Place& place, size_t bytes) {
    if (spare.size() <= out) return free.emplace(place, bytes).first;
    Map::node_type node = std::move(spare.back());
    spare.pop_back();
    node.key() = place;
    node.mapped() = bytes;
    return free.insert(std::move(node)).position;
  }

  // At the end of a piece's owner, which must not fail: there is a spare node for every piece that is out,
  // and room for those that become spare.
  void give_back(const Place& place, size_t bytes) noexcept {
    in_use -= bytes;
    --out;
    auto it = put(place, bytes);
    const auto next = std::next(it);
    if (next != free.end() && next->first == Place{place.first, place.second + bytes}) {
      it->second += next->second;
      spare.push_back(free.extract(next));
    }
    if (it == free.begin()) return;
    const auto before = std::prev(it);
    if (before->first.first == place.first && before->first.second + before->second == place.second) {
      before->second += it->second;
      spare.push_back(free.extract(it));
    }
  }

  Map::iterator first_of(size_t bytes) {
    return std::find_if(free.begin(), free.end(), [&](const auto& piece) { return piece.second >= bytes; });
  }

  Map::iterator add_block(size_t bytes) {
    try {
      blocks.emplace_back(device, bytes, "activations");
    } catch (...) {
      failed = true;
      throw;
    }
    total += bytes;
    return free.emplace(Place{blocks.size() - 1, 0}, bytes).first;
  }

  void drop_blocks() {
    blocks.clear();
    total = 0;
    device->trim();  // or the blocks would wait in the device's cache for requests of their sizes
  }

  void reset() {
    ++epoch;
    in_use = out = 0;
    spare.reserve(spare.size() + free.size());
    while (!free.empty()) spare.push_back(free.extract(free.begin()));
    if (failed) {
      // What was too much must not be asked for again: the next step finds its own size.
      drop_blocks();
      peak = 0;
      failed = false;
    } else if (blocks.size() > 1) {
      // Pieces that would have fitted together but for the gaps between them: the gaps are needed too.
      const size_t wanted = blocks.front().bytes() >= peak ? total : peak + peak / 16;
      drop_blocks();
      try {
        add_block(wanted);
      } catch (const Error& error) {
        // The same in one piece may be too much where several were not.
        if (error.code() != ErrorCode::out_of_memory) throw;
        failed = false;
      }
    } else if (!blocks.empty()) {
      put({0, 0}, total);
    }
  }

  void* at(const Place& place) const { return blocks[place.first].as<unsigned char>() + place.second; }

  std::shared_ptr<Device> device;
  std::vector<DeviceBuffer> blocks;
  Map free;
  std::vector<Map::node_type> spare;  // at least one for each piece that is out
  size_t out = 0;                     // pieces
  bool failed = false;                // to get a block, since the last reset
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
