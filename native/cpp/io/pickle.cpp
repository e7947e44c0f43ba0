#include "pickle.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "../core/error.h"
#include "json.h"
#include "pickle_globals.h"

namespace allmrec::io {

namespace {

// The pickles of files of thousands of tensors stay below a megabyte.
constexpr size_t kPickleLimit = size_t{64} << 20;  // bytes
// A tensor is some fourteen objects in a hundred bytes of pickle, and at least a hundred more of file.
constexpr uint64_t kObjectSlack = uint64_t{1} << 17, kBytesPerObject = 8, kObjectLimit = uint64_t{1} << 21;
constexpr uint64_t kReferenceSlack = uint64_t{1} << 20, kBytesPerReference = 4,
                   kReferenceLimit = uint64_t{1} << 24;
constexpr size_t kGlobalNameLimit = 256;

size_t limit_for(uint64_t bytes, uint64_t slack, uint64_t bytes_per, uint64_t limit) {
  return static_cast<size_t>(std::min(limit, slack + bytes / bytes_per));
}

using Kind = PickleValue::Kind;

// Named as in Python's pickletools.
enum Opcode : uint8_t {
  kProto = 0x80,
  kFrame = 0x95,
  kMark = '(',
  kPop = '0',
  kPopMark = '1',
  kNone = 'N',
  kNewtrue = 0x88,
  kNewfalse = 0x89,
  kBinint = 'J',
  kBinint1 = 'K',
  kBinint2 = 'M',
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kBinfloat = 'G',
  kShortBinunicode = 0x8c,
  kBinunicode = 'X',
  kBinunicode8 = 0x8d,
  kShortBinstring = 'U',
  kBinstring = 'T',
  kShortBinbytes = 'C',
  kBinbytes = 'B',
  kBinbytes8 = 0x8e,
  kEmptyTuple = ')',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kTuple = 't',
  kEmptyList = ']',
  kEmptySet = 0x8f,
  kAppend = 'a',
  kAppends = 'e',
  kAdditems = 0x90,
  kEmptyDict = '}',
  kSetitem = 's',
  kSetitems = 'u',
  kBinput = 'q',
  kLongBinput = 'r',
  kMemoize = 0x94,
  kBinget = 'h',
  kLongBinget = 'j',
  kGlobal = 'c',
  kStackGlobal = 0x93,
  kReduce = 'R',
  kNewobj = 0x81,
  kBuild = 'b',
  kBinpersid = 'Q',
  kStop = '.',
};

class PickleMachine {
 public:
  PickleMachine(ByteReader& reader, PickleObjects& objects)
      : reader_(reader), objects_(objects), begin_(reader.position()) {}

  PickleValue* run() {
    if (reader_.read<uint8_t>("pickle") != kProto) reader_.fail("expected a pickle of protocol 2 or later");
    check_protocol();
    while (true) {
      if (reader_.position() - begin_ > kPickleLimit)
        reader_.fail("expected a pickle below 64 MiB, which no file of tensors reaches");
      const auto opcode = reader_.read<uint8_t>("pickle opcode");
      if (opcode == kStop) break;
      step(opcode);
    }
    PickleValue* result = pop();
    if (!stack_.empty() || !marks_.empty()) reader_.fail("expected one object in the pickle, found more");
    return result;
  }

 private:
  void check_protocol() {
    const auto protocol = reader_.read<uint8_t>("pickle protocol");
    if (protocol < 2 || protocol > 5)
      reader_.fail("expected pickle protocol 2 to 5, found " + std::to_string(protocol));
  }

  void push(PickleValue* value) {
    if (stack_.size() >= objects_.limit()) reader_.fail("too many objects on the pickle's stack");
    stack_.push_back(value);
  }

  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  PickleValue* pop() {
    if (stack_.size() <= floor()) reader_.fail("expected an object on the pickle's stack, found none");
    PickleValue* top = stack_.back();
    stack_.pop_back();
    return top;
  }

  PickleValue* top() {
    PickleValue* value = pop();
    stack_.push_back(value);
    return value;
  }

  std::vector<PickleValue*> pop_to_mark() {
    if (marks_.empty()) reader_.fail("expected a mark on the pickle's stack, found none");
    const auto from = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleValue*> items(from, stack_.end());
    stack_.erase(from, stack_.end());
    marks_.pop_back();
    return items;
  }

  void push_tuple(std::vector<PickleValue*> items) {
    PickleValue* tuple = add(Kind::tuple);
    tuple->items = std::move(items);
    push(tuple);
  }

  void push_tuple(size_t count) {
    std::vector<PickleValue*> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    push_tuple(std::move(items));
  }

  PickleValue* add(Kind kind) { return objects_.add(kind); }

  void push_text(Kind kind, uint64_t length) {
    const std::string_view text = reader_.take_text(length, "pickled text");
    if (kind == Kind::text && !is_valid_utf8(text)) reader_.fail("expected pickled text in UTF-8");
    PickleValue* value = add(kind);
    value->text = text;
    push(value);
  }

  // What Python 2 called a string is text only if it reads as such.
  void push_string(uint64_t length) {
    const std::string_view text = reader_.take_text(length, "pickled string");
    PickleValue* value = add(is_valid_utf8(text) ? Kind::text : Kind::bytes);
    value->text = text;
    push(value);
  }

  void push_integer(int64_t integer) {
    PickleValue* value = add(Kind::integer);
    value->integer = integer;
    push(value);
  }

  void push_long(uint64_t length) {
    const std::string_view bytes = reader_.take_text(length, "pickled integer");
    if (bytes.size() > 8) {
      PickleValue* value = add(Kind::big_integer);
      value->text = bytes;
      return push(value);
    }
    uint64_t bits = !bytes.empty() && (bytes.back() & 0x80) != 0 ? ~uint64_t{0} : 0;
    if (!bytes.empty()) std::memcpy(&bits, bytes.data(), bytes.size());
    push_integer(static_cast<int64_t>(bits));
  }

  void push_real() {
    const uint8_t* bytes = reader_.take(8, "pickled float");
    uint64_t bits = 0;
    for (int i = 0; i < 8; ++i) bits = bits << 8 | bytes[i];  // the one big-endian field
    PickleValue* value = add(Kind::real);
    std::memcpy(&value->real, &bits, sizeof bits);
    push(value);
  }

  void put(uint64_t index) {
    if (memo_.size() >= objects_.limit()) reader_.fail("too many objects in the pickle's memo");
    memo_[index] = top();
  }

  void get(uint64_t index) {
    const auto at = memo_.find(index);
    if (at == memo_.end())
      reader_.fail("the pickle refers to object " + std::to_string(index) + ", which it never stored");
    push(at->second);
  }

  std::string read_line() {
    std::string line;
    for (char c; (c = static_cast<char>(reader_.read<uint8_t>("name of a global"))) != '\n';) {
      if (line.size() >= kGlobalNameLimit)
        reader_.fail("expected the name of a global to end within 256 bytes");
      line.push_back(c);
    }
    return line;
  }

  void push_global(const std::string& module, const std::string& name) {
    push(find_global(reader_, objects_, module, name));
  }

  void push_stack_global() {
    const PickleValue* name = pop();
    const PickleValue* module = pop();
    if (!name->is(Kind::text) || !module->is(Kind::text))
      reader_.fail("expected the name of a global as text");
    push_global(module->text.substr(0, kGlobalNameLimit), name->text.substr(0, kGlobalNameLimit));
  }

  void extend(const std::vector<PickleValue*>& items) {
    PickleValue* list = top();
    if (!list->is(Kind::list))
      reader_.fail(std::string("expected a list to append to, found ") + kind_name(list->kind));
    objects_.charge(items.size());
    list->items.insert(list->items.end(), items.begin(), items.end());
  }

  void set_items(const std::vector<PickleValue*>& items) {
    PickleValue* dict = top();
    if (!dict->is(Kind::dict))
      reader_.fail(std::string("expected a dict to set items of, found ") + kind_name(dict->kind));
    if (items.size() % 2 != 0)
      reader_.fail("expected pairs of key and value, found an odd number of objects");
    objects_.charge(items.size());
    dict->items.insert(dict->items.end(), items.begin(), items.end());
  }

  void reduce() {
    PickleValue* arguments = pop();
    const PickleValue* callable = pop();
    if (!callable->is(Kind::global) || !arguments->is(Kind::tuple)) {
      reader_.fail(std::string("expected a global and its arguments, found ") + kind_name(callable->kind) +
                   " and " + kind_name(arguments->kind));
    }
    push(call_global(reader_, objects_, *callable, *arguments));
  }

  void new_object_of_class() {
    const PickleValue* arguments = pop();
    const PickleValue* type = pop();
    if (!type->is(Kind::global) || !arguments->is(Kind::tuple)) {
      reader_.fail(std::string("expected a class and its arguments, found ") + kind_name(type->kind) +
                   " and " + kind_name(arguments->kind));
    }
    push(new_object(reader_, objects_, *type, *arguments));
  }

  void push_storage() {
    const PickleValue* id = pop();
    const std::vector<PickleValue*>& parts = id->items;
    const bool known = id->is(Kind::tuple) && (parts.size() == 5 || parts.size() == 6) &&
                       parts[0]->is(Kind::text) && parts[0]->text == "storage" &&
                       parts[1]->is(Kind::global) && parts[2]->is(Kind::text) &&
                       parts[4]->is(Kind::integer) && parts[4]->integer >= 0;
    if (!known) reader_.fail("expected the persistent id of a tensor storage");
    storage_dtype(*parts[1], reader_.where());
    PickleValue* storage = add(Kind::storage);
    storage->items.assign(parts.begin() + 1, parts.end());
    objects_.storages.push_back(storage);
    push(storage);
  }

  void step(uint8_t opcode) {
    switch (opcode) {
      case kProto:
        return check_protocol();
      case kFrame:
        return check_frame();
      case kMark:
        return push_mark();
      case kPop:
        pop();
        return;
      case kPopMark:
        pop_to_mark();
        return;
      case kNone:
        return push(objects_.none());
      case kNewtrue:
        return push(objects_.boolean(true));
      case kNewfalse:
        return push(objects_.boolean(false));
      case kBinint:
        return push_integer(reader_.read<int32_t>("pickled integer"));
      case kBinint1:
        return push_integer(reader_.read<uint8_t>("pickled integer"));
      case kBinint2:
        return push_integer(reader_.read<uint16_t>("pickled integer"));
      case kLong1:
        return push_long(reader_.read<uint8_t>("pickled integer"));
      case kLong4:
        return push_long(reader_.read<uint32_t>("pickled integer"));
      case kBinfloat:
        return push_real();
      case kShortBinunicode:
        return push_text(Kind::text, reader_.read<uint8_t>("text"));
      case kBinunicode:
        return push_text(Kind::text, reader_.read<uint32_t>("text"));
      case kBinunicode8:
        return push_text(Kind::text, reader_.read<uint64_t>("text"));
      case kShortBinstring:
        return push_string(reader_.read<uint8_t>("string"));
      case kBinstring:
        return push_string(reader_.read<uint32_t>("string"));
      case kShortBinbytes:
        return push_text(Kind::bytes, reader_.read<uint8_t>("bytes"));
      case kBinbytes:
        return push_text(Kind::bytes, reader_.read<uint32_t>("bytes"));
      case kBinbytes8:
        return push_text(Kind::bytes, reader_.read<uint64_t>("bytes"));
      case kEmptyTuple:
        return push_tuple(0);
      case kTuple1:
        return push_tuple(1);
      case kTuple2:
        return push_tuple(2);
      case kTuple3:
        return push_tuple(3);
      case kTuple:
        return push_tuple(pop_to_mark());
      case kEmptyList:
      case kEmptySet:
        return push(add(Kind::list));
      case kAppend:
        return append_one();
      case kAppends:
      case kAdditems:
        return extend(pop_to_mark());
      case kEmptyDict:
        return push(add(Kind::dict));
      case kSetitem:
        return set_one_item();
      case kSetitems:
        return set_items(pop_to_mark());
      case kBinput:
        return put(reader_.read<uint8_t>("memo index"));
      case kLongBinput:
        return put(reader_.read<uint32_t>("memo index"));
      case kMemoize:
        return put(memo_.size());
      case kBinget:
        return get(reader_.read<uint8_t>("memo index"));
      case kLongBinget:
        return get(reader_.read<uint32_t>("memo index"));
      case kGlobal:
        return global();
      case kStackGlobal:
        return push_stack_global();
      case kReduce:
        return reduce();
      case kNewobj:
        return new_object_of_class();
      case kBuild:
        return build();
      case kBinpersid:
        return push_storage();
      default:
        refuse(opcode);
    }
  }

  void check_frame() {
    const auto length = reader_.read<uint64_t>("pickle frame");
    if (length > reader_.remaining()) {
      reader_.fail("expected a frame within the " + std::to_string(reader_.remaining()) +
                   " bytes left, found one of " + std::to_string(length));
    }
  }

  void push_mark() {
    if (marks_.size() >= objects_.limit()) reader_.fail("too many marks on the pickle's stack");
    marks_.push_back(stack_.size());
  }

  void append_one() {
    PickleValue* item = pop();
    extend({item});
  }

  void set_one_item() {
    PickleValue* value = pop();
    PickleValue* key = pop();
    set_items({key, value});
  }

  void global() {
    const std::string module = read_line();
    const std::string name = read_line();
    push_global(module, name);
  }

  void build() {
    const PickleValue* state = pop();
    set_state(reader_, objects_, *top(), *state);
  }

  [[noreturn]] void refuse(uint8_t opcode) {
    constexpr char kHex[] = "0123456789abcdef";
    const std::string hex{kHex[opcode >> 4], kHex[opcode & 15]};
    reader_.fail("found pickle opcode 0x" + hex + ", which torch.save does not write");
  }

  ByteReader& reader_;
  PickleObjects& objects_;
  const uint64_t begin_;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;  // heights of stack_
  std::unordered_map<uint64_t, PickleValue*> memo_;
};

}  // namespace

const char* kind_name(Kind kind) {
  constexpr const char* kNames[] = {"None",        "a bool",   "an int",        "a large int", "a float",
                                    "text",        "bytes",    "a tuple",       "a list",      "a dict",
                                    "a Namespace", "a global", "a numpy dtype", "a storage",   "a tensor"};
  return kNames[static_cast<size_t>(kind)];
}

PickleObjects::PickleObjects(const InputFile& file)
    : path_(file.path()),
      limit_(limit_for(file.size(), kObjectSlack, kBytesPerObject, kObjectLimit)),
      references_left_(limit_for(file.size(), kReferenceSlack, kBytesPerReference, kReferenceLimit)),
      none_(add(Kind::none)),
      true_(add(Kind::boolean)),
      false_(add(Kind::boolean)) {
  true_->integer = 1;
}

PickleValue* PickleObjects::add(Kind kind) {
  if (values_.size() >= limit_)
    throw Error(ErrorCode::checkpoint, path_ + ": too many objects in the pickle for the size of the file");
  values_.emplace_back();
  values_.back().kind = kind;
  return &values_.back();
}

PickleValue* PickleObjects::integer(int64_t value) {
  PickleValue* added = add(Kind::integer);
  added->integer = value;
  return added;
}

PickleValue* PickleObjects::text(Kind kind, std::string value) {
  PickleValue* added = add(kind);
  added->text = std::move(value);
  return added;
}

void PickleObjects::charge(size_t count) {
  if (count > references_left_)
    throw Error(ErrorCode::checkpoint,
                path_ + ": the pickle refers to its own objects too often for the size of the file");
  references_left_ -= count;
}

PickleValue* read_pickle(ByteReader& reader, PickleObjects& objects) {
  return PickleMachine(reader, objects).run();
}

}  // namespace allmrec::io
