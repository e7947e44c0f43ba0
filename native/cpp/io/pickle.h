#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "byte_reader.h"

namespace allmrec::io {

// An object of a pickle. Objects refer to each other freely (shared, cyclic), so the PickleObjects they came
// from own them all.
struct PickleValue {
  enum class Kind : uint8_t {
    none,
    boolean,      // integer is 0 or 1
    integer,      // integer
    big_integer,  // text: little-endian two's complement, longer than 8 bytes
    real,         // real
    text,         // text, UTF-8
    bytes,        // text, any bytes
    tuple,        // items
    list,         // items; sets too
    dict,         // items: key, value, key, value, …
    name_space,   // items as of a dict: an argparse.Namespace
    global,       // text: "module.name", one of the allow-list
    numpy_dtype,  // text: "f8"
    storage,      // items: global, key, location, element count[, view (key, offset, size) or none]
    tensor,       // items: storage, offset, shape, strides
  };

  Kind kind = Kind::none;
  int64_t integer = 0;
  double real = 0;
  std::string text;
  std::vector<PickleValue*> items;

  bool is(Kind other) const { return kind == other; }
  bool is_mapping() const { return kind == Kind::dict || kind == Kind::name_space; }
  bool is_sequence() const { return kind == Kind::list || kind == Kind::tuple; }
};

const char* kind_name(PickleValue::Kind kind);

class PickleObjects {
 public:
  using Kind = PickleValue::Kind;

  // A byte of pickle can make a hundred of memory, so the number of objects is bounded by the size of the
  // file.
  explicit PickleObjects(const InputFile& file);

  PickleValue* add(Kind kind);
  PickleValue* none() { return none_; }
  PickleValue* boolean(bool value) { return value ? true_ : false_; }
  PickleValue* integer(int64_t value);
  PickleValue* text(Kind kind, std::string value);

  size_t limit() const { return limit_; }

  // Accounts for `count` references or bytes that objects hold of others: a reference of two bytes must not
  // copy a megabyte time and again.
  void charge(size_t count);

  // Every storage named so far, in the order of the pickle.
  std::vector<PickleValue*> storages;

 private:
  const std::string& path_;
  const size_t limit_;      // objects; and entries of the stack and the memo, each
  size_t references_left_;  // or bytes
  std::deque<PickleValue> values_;
  PickleValue *none_, *true_, *false_;
};

// Reads one pickle (protocols 2 to 5) and leaves `reader` behind its STOP. Interprets, and executes nothing:
// a global outside the allow-list of pickle_globals.h ends it, and so does an opcode torch.save never writes.
PickleValue* read_pickle(ByteReader& reader, PickleObjects& objects);

}  // namespace allmrec::io
