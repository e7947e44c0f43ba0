#include <cstring>

#include "half.h"
#include "race.h"
#include "scheduler.h"

namespace allmrec::emulator {

namespace {

constexpr uint32_t kAll = 0xffffffffu;

Thread* lanes_of(int warp) {
  return block.threads + warp * kLanes;
}

std::string lane_list(uint32_t lanes) {
  std::string text;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    int last = lane;
    while (last + 1 < kLanes && lanes >> (last + 1) & 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(lane);
    if (last > lane) text += "-" + std::to_string(last);
    lane = last;
  }
  return text;
}

template <typename Fn>
void for_each_lane(uint32_t group, Fn fn) {
  for (; group != 0; group &= group - 1) fn(__builtin_ctz(group));
}

void complete_shuffle(Thread* lanes, uint32_t group) {
  for_each_lane(group, [&](int lane) {
    Thread& self = lanes[lane];
    if (!(group >> self.source & 1))
      fail("absent lane", "lane " + std::to_string(lane) + " takes a value from lane " +
                              std::to_string(self.source) + ", which is not among lanes " + lane_list(group) +
                              ", at " + describe(self.site));
    self.result = lanes[self.source].value;
  });
}

uint64_t reduced(Op op, uint64_t a, uint64_t b) {
  const auto x = static_cast<uint32_t>(a), y = static_cast<uint32_t>(b);
  const auto signed_x = static_cast<int32_t>(x), signed_y = static_cast<int32_t>(y);
  switch (op) {
    case Op::reduce_add:
      return x + y;
    case Op::reduce_min:
      return x < y ? x : y;
    case Op::reduce_max:
      return x > y ? x : y;
    case Op::reduce_min_signed:
      return signed_x < signed_y ? x : y;
    case Op::reduce_max_signed:
      return signed_x > signed_y ? x : y;
    case Op::reduce_and:
      return x & y;
    case Op::reduce_or:
      return x | y;
    default:
      return x ^ y;
  }
}

void complete_values(Op op, Thread* lanes, uint32_t group) {
  uint64_t result = 0;
  switch (op) {
    case Op::ballot:
    case Op::any:
    case Op::all: {
      uint32_t votes = 0;
      for_each_lane(group, [&](int lane) { votes |= lanes[lane].value != 0 ? 1u << lane : 0u; });
      result = op == Op::ballot ? votes : op == Op::any ? votes != 0 : votes == group;
      break;
    }
    case Op::match_any:
      for_each_lane(group, [&](int lane) {
        uint32_t equal = 0;
        for_each_lane(
            group, [&](int other) { equal |= lanes[other].value == lanes[lane].value ? 1u << other : 0u; });
        lanes[lane].result = equal;
      });
      return;
    default: {
      bool first = true;
      for_each_lane(group, [&](int lane) {
        result = first ? lanes[lane].value : reduced(op, result, lanes[lane].value);
        first = false;
      });
    }
  }
  for_each_lane(group, [&](int lane) { lanes[lane].result = result; });
}

template <typename T>
const T& operands_of(const Thread& lane) {
  return *static_cast<const T*>(lane.operands);
}

void complete_ldmatrix(int warp, Thread* lanes) {
  const auto& asked = operands_of<MatrixLoad>(lanes[0]);
  uint16_t element[4][8][8];
  for (int i = 0; i < 8 * asked.count; ++i) {
    const auto& load = operands_of<MatrixLoad>(lanes[i]);
    if (reinterpret_cast<uintptr_t>(load.row) % 16 != 0)
      fail("misaligned address", "lane " + std::to_string(i) +
                                     " gives ldmatrix a row that is not 16-byte aligned, at " +
                                     describe(lanes[i].site));
    // The reading is that lane's own.
    race::run_thread(warp * kLanes + i);
    race::read(load.row, 16, load.code);
    std::memcpy(element[i / 8][i % 8], load.row, 16);
  }
  race::run_thread(block.current);
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& load = operands_of<MatrixLoad>(lanes[lane]);
    if (load.count != asked.count || load.transposed != asked.transposed)
      fail("mismatched warp operations",
           "lanes of one ldmatrix load different shapes, at " + describe(lanes[lane].site));
    const int g = lane / 4, t = lane % 4;
    for (int m = 0; m < asked.count; ++m) {
      const uint32_t low = asked.transposed ? element[m][2 * t][g] : element[m][g][2 * t];
      const uint32_t high = asked.transposed ? element[m][2 * t + 1][g] : element[m][g][2 * t + 1];
      load.r[m] = low | high << 16;
    }
  }
}

void complete_mma(Thread* lanes) {
  const bool bfloat16 = operands_of<MatrixOperands>(lanes[0]).bfloat16;
  const auto value = [bfloat16](uint32_t bits) {
    const auto half = static_cast<uint16_t>(bits);
    return bfloat16 ? bfloat16_to_float(half) : half_to_float(half);
  };
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& own = operands_of<MatrixOperands>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + i % 2 * 8, column = 2 * t + i / 2 * 8;
      a[row][column] = value(own.a[i]);
      a[row][column + 1] = value(own.a[i] >> 16);
    }
    for (int i = 0; i < 2; ++i) {
      b[2 * t + 8 * i][g] = value(own.b[i]);
      b[2 * t + 8 * i + 1][g] = value(own.b[i] >> 16);
    }
    for (int i = 0; i < 4; ++i) d[g + i / 2 * 8][2 * t + i % 2] = own.d[i];
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    float* const own = operands_of<MatrixOperands>(lanes[lane]).d;
    for (int i = 0; i < 4; ++i) own[i] = d[g + i / 2 * 8][2 * t + i % 2];
  }
}

// The running lane comes to an operation whose value and operands are set.
void meet(Op op, uint32_t mask, Site site) {
  const int warp = block.current / kLanes, lane = block.current % kLanes;
  Thread& self = block.threads[block.current];
  self.op = op;
  self.mask = mask;
  self.site = site;
  if (!(mask >> lane & 1))
    fail("absent lane", describe_thread(block.current) + " is lane " + std::to_string(lane) +
                            " and not in its own mask, at " + describe(site));
  block.warps[warp].waiting |= 1u << lane;
  try_to_complete(warp, lane);
  wait_for_turn();
}

}  // namespace

void try_to_complete(int warp, int lane) {
  Warp& state = block.warps[warp];
  Thread* const lanes = lanes_of(warp);
  const Thread& self = lanes[lane];
  const uint32_t group = self.mask & state.live;
  if ((state.waiting & group) != group) return;
  for_each_lane(group, [&](int other) {
    if (lanes[other].mask != self.mask || lanes[other].op != self.op)
      fail("mismatched warp operations", waiting_threads());
  });
  switch (self.op) {
    case Op::sync_warp:
      break;
    case Op::shuffle:
      complete_shuffle(lanes, group);
      break;
    case Op::ldmatrix:
    case Op::mma:
      if (group != kAll)
        fail("absent lane", std::string(name_of(self.op)) + " with lanes " + lane_list(group) + " only, at " +
                                describe(self.site));
      if (self.op == Op::mma) {
        complete_mma(lanes);
      } else {
        complete_ldmatrix(warp, lanes);
      }
      break;
    default:
      complete_values(self.op, lanes, group);
  }
  state.waiting &= ~group;
  make_ready(warp, group);
  race::warp_met(warp, group);
}

uint64_t warp_operation(Op op, uint32_t mask, uint64_t value, Site site) {
  Thread& self = block.threads[block.current];
  self.value = value;
  meet(op, mask, site);
  return self.result;
}

uint64_t shuffle(Shuffle how, uint32_t mask, uint64_t value, int argument, int width, Site site) {
  Thread& self = block.threads[block.current];
  const int lane = block.current % kLanes;
  const int begin = lane & ~(width - 1), end = begin + width;
  if (width <= 0 || width > kLanes || (width & (width - 1)) != 0)
    fail("shuffle width",
         "width " + std::to_string(width) + " is no power of two up to 32, at " + describe(site));
  int source = lane;
  switch (how) {
    case Shuffle::from:
      source = begin + (argument & (width - 1));
      break;
    case Shuffle::up:
      source = lane - argument < begin || argument < 0 ? lane : lane - argument;
      break;
    case Shuffle::down:
      source = lane + argument >= end || argument < 0 ? lane : lane + argument;
      break;
    case Shuffle::exclusive_or:
      source = ((lane ^ argument) & (kLanes - 1)) >= end ? lane : (lane ^ argument) & (kLanes - 1);
      break;
  }
  self.value = value;
  self.source = source;
  meet(Op::shuffle, mask, site);
  return self.result;
}

void sync_warp(uint32_t mask, Site site) {
  if (skip(site, "__syncwarp")) return;
  meet(Op::sync_warp, mask, site);
}

void fence() {
  race::fence();
}

void trap(Site site) {
  fail("trap", describe_thread(block.current) + " at " + describe(site));
}

void ldmatrix(uint32_t* r, int count, bool transposed, const void* shared, Site site) {
  const MatrixLoad load{r, shared, count, transposed, __builtin_return_address(0)};
  block.threads[block.current].operands = &load;
  meet(Op::ldmatrix, kAll, site);
}

void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bfloat16, Site site) {
  const MatrixOperands operands{d, a, b, bfloat16};
  block.threads[block.current].operands = &operands;
  meet(Op::mma, kAll, site);
}

void cp_async_16(void* shared, const void* global, bool valid, Site site) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 ||
      (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0))
    fail("misaligned address", describe_thread(block.current) +
                                   " copies 16 bytes that are not 16-byte aligned, at " + describe(site));
  Thread& self = block.threads[block.current];
  const void* const code = __builtin_return_address(0);
  Copy copy{shared, self.groups, code, {}};
  if (valid) {
    race::read(global, 16, code);
    std::memcpy(copy.bytes, global, 16);
  }
  race::copy_begins(shared, 16, code);
  std::memset(shared, 0xff, 16);
  self.copies.push_back(copy);
}

void cp_async_commit() {
  ++block.threads[block.current].groups;
}

void cp_async_wait(int pending, Site site) {
  if (skip(site, "cp.async wait")) return;
  Thread& self = block.threads[block.current];
  size_t landed = 0;
  for (; landed < self.copies.size() && self.copies[landed].group < self.groups - pending; ++landed) {
    const Copy& copy = self.copies[landed];
    race::copy_lands(copy.to, 16, copy.code);
    std::memcpy(copy.to, copy.bytes, 16);
  }
  self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<std::ptrdiff_t>(landed));
}

}  // namespace allmrec::emulator
