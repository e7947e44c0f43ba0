#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "backend.h"

namespace allmrec {

class Device;

// Looks at what each op wrote as soon as it has run, and throws ErrorCode::numeric at the first number that
// is not finite: where in a step numbers went wrong. It waits for the device after every op, so a step is run
// under it only when it has failed before. What ops choose (top_k, rank_catalogue) may be infinite.
class FiniteWatch {
 public:
  explicit FiniteWatch(Device& device) : device_(device) {}

  // What an op that reads or writes there is said to work on, e.g. "the weight `fc1.weight`".
  void name(const void* begin, size_t bytes, std::string name);

#define ALLMREC_ENTRY(op, args) void op(const args& a);
  ALLMREC_OPS(ALLMREC_ENTRY)
#undef ALLMREC_ENTRY

 private:
  // What an op wrote: rows of a matrix, or those that `picked` names on the device, which may be negative for
  // none.
  struct Written {
    const void* data;
    int64_t rows, cols, ld;
    int32_t dtype = ALLMREC_F32;
    const int32_t* picked = nullptr;
  };
  template <typename Args>
  void begin(const char* op, const Args& args);
  void look(const Written& written);
  void look_at_rows(const Written& written, int64_t row, int64_t count);
  void look_at(const void* data, int64_t n) {
    look({data, 1, n, n});
  }
  int64_t last_of(const int32_t* offsets, int64_t index);
  std::string operands() const;

  struct Range {
    const unsigned char* end;
    std::string name;
  };
  Device& device_;
  std::map<const unsigned char*, Range> names_;  // by the first byte
  // The op that has run, and its arguments as bytes.
  const char* op_ = "";
  const unsigned char* args_ = nullptr;
  size_t args_size_ = 0;
  int64_t number_ = 0;  // of the op, counted from 1
};

}  // namespace allmrec
