#include "torch_object_graph.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "../core/error.h"
#include "json.h"
#include "pickle_globals.h"

namespace allmrec::io {

namespace {

using Kind = PickleValue::Kind;

constexpr int kDepthLimit = 64;
constexpr size_t kRankLimit = 64;  // torch's own

// Objects may be shared, so a small pickle can name exponentially many paths; and a stride of zero can make a
// large tensor of one number. These bound what comes out, far above any real file.
constexpr uint64_t kVisitSlack = uint64_t{1} << 19, kVisitLimit = uint64_t{1} << 23;
constexpr uint64_t kListingSlack = uint64_t{4} << 20, kListingLimit = uint64_t{256} << 20;
constexpr size_t kEntryCost = 256;  // of a name in the lists, beside its text
constexpr uint64_t kCopySlack = uint64_t{1} << 20;
constexpr uint64_t kLoadsPerFile = 64;

// The sole child of a container that holds tensors.
struct Child {
  const PickleValue* value = nullptr;
  size_t slot = 0;
};

class ObjectGraph {
 public:
  ObjectGraph(const InputFile& file, const StorageBytes& storages)
      : file_(file),
        storages_(storages),
        listing_left_(static_cast<size_t>(
            std::min(kListingLimit, 4 * std::min(kListingLimit, file.size()) + kListingSlack))),
        visits_left_(std::min(kVisitLimit, kVisitSlack + file.size())),
        copy_left_(4 * file.size() + kCopySlack),
        load_left_(kLoadsPerFile * file.size()) {}

  TensorFileContents list(const PickleValue& root) {
    const PickleValue* top = &root;
    // Lists have no names to give; of mappings the outermost wrapper alone is dropped.
    for (bool unwrapped = false; !unwrapped;) {
      const Child child = sole_tensor_container(*top);
      if (child.value == nullptr) break;
      emit_siblings(*top, child.slot);
      unwrapped = top->is_mapping();
      top = child.value;
    }
    emit(*top, "", 0);
    return std::move(contents_);
  }

 private:
  [[noreturn]] void fail(const std::string& reason) const {
    throw Error(ErrorCode::checkpoint, file_.path() + ": " + reason);
  }

  [[noreturn]] static void fail_at(const std::string& where, const std::string& reason) {
    throw Error(ErrorCode::checkpoint, where + ": " + reason);
  }

  void visit(int depth) {
    if (depth > kDepthLimit) fail("the objects of the checkpoint are nested deeper than 64 levels");
    if (visits_left_-- == 0) fail("the checkpoint holds too many objects for its size");
  }

  // Every child with its slot: values of a mapping, items of a sequence.
  template <typename Action>
  static void for_each_child(const PickleValue& value, Action action) {
    if (!value.is_mapping() && !value.is_sequence()) return;
    const size_t step = value.is_mapping() ? 2 : 1;
    for (size_t slot = 0; slot * step < value.items.size(); ++slot)
      action(slot, *value.items[slot * step + step - 1]);
  }

  bool holds_tensors(const PickleValue& value, int depth = 0) {
    if (value.is(Kind::tensor) || value.is(Kind::storage)) return true;
    if (!value.is_mapping() && !value.is_sequence()) return false;
    visit(depth);
    enum : char { kOpen, kNo, kYes };
    const auto [at, fresh] = holders_.emplace(&value, kOpen);
    if (!fresh) {
      if (at->second == kOpen) fail("an object of the checkpoint contains itself");
      return at->second == kYes;
    }
    bool any = false;
    for_each_child(value, [&](size_t, const PickleValue& child) { any |= holds_tensors(child, depth + 1); });
    holders_[&value] = any ? kYes : kNo;
    return any;
  }

  Child sole_tensor_container(const PickleValue& value) {
    Child sole;
    size_t holders = 0;
    for_each_child(value, [&](size_t slot, const PickleValue& child) {
      if (!holds_tensors(child)) return;
      ++holders;
      sole = {&child, slot};
    });
    const bool container = holders == 1 && (sole.value->is_mapping() || sole.value->is_sequence());
    return container ? sole : Child{};
  }

  void emit_siblings(const PickleValue& parent, size_t except) {
    for_each_child(parent, [&](size_t slot, const PickleValue& child) {
      if (slot == except) return;
      // The keyword arguments beside a state_dict in a list are plain enough without the list's index.
      const bool nameless = parent.is_sequence() && child.is_mapping();
      emit(child, nameless ? "" : child_name(parent, slot), 0);
    });
    outer_ += child_name(parent, except) + ".";
  }

  std::string child_name(const PickleValue& parent, size_t slot) {
    if (!parent.is_mapping()) return std::to_string(slot);
    const PickleValue& key = *parent.items[2 * slot];
    if (key.is(Kind::text)) {
      if (key.text.size() > listing_left_) fail_size();
      return key.text;
    }
    return to_text(key);
  }

  void emit(const PickleValue& value, const std::string& name, int depth) {
    visit(depth);
    if (value.is(Kind::tensor)) return add_tensor(value, name.empty() ? "tensor" : name);
    if (value.is(Kind::storage))
      throw Error(ErrorCode::unsupported,
                  file_.path() + ": expected tensors, found a bare storage at " + quoted(name));
    const bool listed =
        value.is_mapping() ? !value.items.empty() : value.is_sequence() && holds_tensors(value);
    if (!listed) return add_metadata(name.empty() ? "value" : name, to_text(value));
    for_each_child(value, [&](size_t slot, const PickleValue& child) {
      const std::string key = child_name(value, slot);
      emit(child, name.empty() ? key : name + "." + key, depth + 1);
    });
  }

  [[noreturn]] void fail_size() const {
    fail("the names and values in the checkpoint are too long for the size of the file");
  }

  void count_listed(size_t bytes) {
    if (bytes > listing_left_) fail_size();
    listing_left_ -= bytes;
  }

  void add_metadata(std::string key, std::string text) {
    count_listed(kEntryCost + key.size() + text.size());
    // A name already taken by a value beside the dropped container.
    if (contents_.metadata.count(key) != 0) key = outer_ + key;
    if (!contents_.metadata.emplace(key, std::move(text)).second) fail("two values are named " + quoted(key));
  }

  std::string to_text(const PickleValue& value) {
    if (value.is(Kind::text) || value.is(Kind::global) || value.is(Kind::numpy_dtype)) return value.text;
    std::string text;
    append_json(text, value, 0);
    return text;
  }

  void append_json(std::string& out, const PickleValue& value, int depth) {
    visit(depth);
    if (out.size() > listing_left_ || value.text.size() > listing_left_ - out.size()) fail_size();
    switch (value.kind) {
      case Kind::none:
        out += "null";
        return;
      case Kind::boolean:
        out += value.integer != 0 ? "true" : "false";
        return;
      case Kind::integer:
        out += std::to_string(value.integer);
        return;
      case Kind::real:
        out += number_to_text(value.real);
        return;
      case Kind::big_integer:
        return append_hex(out, value.text);
      case Kind::bytes: {
        std::string text;
        for (const char c : value.text) append_utf8(text, static_cast<unsigned char>(c));
        return append_json_string(out, text);
      }
      case Kind::text:
      case Kind::global:
      case Kind::numpy_dtype:
        return append_json_string(out, value.text);
      case Kind::tensor:
      case Kind::storage:
        fail("found a tensor where a plain value was expected");
      case Kind::tuple:
      case Kind::list:
      case Kind::dict:
      case Kind::name_space:
        break;
    }
    out.push_back(value.is_mapping() ? '{' : '[');
    for_each_child(value, [&](size_t slot, const PickleValue& child) {
      if (slot > 0) out.push_back(',');
      if (value.is_mapping()) {
        append_json_string(out, child_name(value, slot));
        out.push_back(':');
      }
      append_json(out, child, depth + 1);
    });
    out.push_back(value.is_mapping() ? '}' : ']');
  }

  static void append_hex(std::string& out, const std::string& little_endian) {
    constexpr char kHex[] = "0123456789abcdef";
    out += "\"0x";
    for (size_t i = little_endian.size(); i-- > 0;) {
      const auto byte = static_cast<unsigned char>(little_endian[i]);
      out.push_back(kHex[byte >> 4]);
      out.push_back(kHex[byte & 15]);
    }
    out.push_back('"');
  }

  void add_tensor(const PickleValue& value, const std::string& name) {
    count_listed(kEntryCost + name.size() + 8 * std::min(kRankLimit, value.items[2]->items.size()));
    const auto [at, fresh] = built_.emplace(&value, TensorInfo{});
    if (fresh) at->second = build(value, file_.path() + ": tensor " + quoted(name));
    contents_.tensors.push_back(at->second);
    contents_.tensors.back().name = name;
  }

  // The bytes of a storage, or of the part an old view names: key, offset and size in elements.
  ByteRange storage_bytes(const PickleValue& storage, size_t element_size, const std::string& where) const {
    const std::string& key = storage.items[1]->text;
    const auto found = storages_.find(key);
    if (found == storages_.end())
      throw Error(ErrorCode::checkpoint,
                  where + ": expected the data of storage " + quoted(key) + ", found none");
    const uint64_t held = found->second.size / element_size;
    uint64_t offset = 0, count = static_cast<uint64_t>(storage.items[3]->integer);
    if (storage.items.size() == 5 && !storage.items[4]->is(Kind::none)) {
      const std::vector<PickleValue*>& view = storage.items[4]->items;
      const bool known = storage.items[4]->is(Kind::tuple) && view.size() == 3 &&
                         view[1]->is(Kind::integer) && view[2]->is(Kind::integer) && view[1]->integer >= 0 &&
                         view[2]->integer >= 0;
      if (!known) throw Error(ErrorCode::checkpoint, where + ": expected the view of a storage");
      offset = static_cast<uint64_t>(view[1]->integer);
      count = static_cast<uint64_t>(view[2]->integer);
    }
    if (offset > held || count > held - offset) {
      throw Error(ErrorCode::checkpoint, where + ": expected " + std::to_string(count) + " elements from " +
                                             std::to_string(offset) + " of storage " + quoted(key) +
                                             ", found " + std::to_string(held) + " in the file");
    }
    return {found->second.offset + offset * element_size, count * element_size};
  }

  TensorInfo build(const PickleValue& value, const std::string& where) {
    const PickleValue& storage = *value.items[0];
    TensorInfo tensor;
    tensor.dtype = storage_dtype(*storage.items[0], where);
    std::vector<int64_t> strides;
    if (value.items[2]->items.size() > kRankLimit)
      throw Error(ErrorCode::checkpoint, where + ": expected at most 64 dimensions");
    for (const PickleValue* size : value.items[2]->items) tensor.shape.push_back(size->integer);
    for (const PickleValue* stride : value.items[3]->items) strides.push_back(stride->integer);

    const size_t element_size = dtype_size(tensor.dtype);
    const int64_t count = checked_element_count(tensor.shape, tensor.dtype, where);
    const ByteRange bytes = storage_bytes(storage, element_size, where);
    const auto held = static_cast<int64_t>(bytes.size / element_size);
    const int64_t offset = value.items[1]->integer;
    tensor.bytes = static_cast<size_t>(count) * element_size;
    if (count == 0) return tensor;

    int64_t last = offset;  // the farthest element reached
    bool contiguous = true;
    int64_t row_major = 1;
    for (size_t i = tensor.shape.size(); i-- > 0;) {
      const int64_t steps = tensor.shape[i] - 1;
      if (steps == 0) continue;
      if (strides[i] < 0 || strides[i] > (INT64_MAX - last) / steps)
        throw Error(ErrorCode::checkpoint,
                    where + ": found a stride of " + std::to_string(strides[i]) + ", out of range");
      last += strides[i] * steps;
      contiguous = contiguous && strides[i] == row_major;
      row_major *= tensor.shape[i];
    }
    if (last >= held) {
      throw Error(ErrorCode::checkpoint, where + ": it reaches element " + std::to_string(last) +
                                             " of a storage of " + std::to_string(held));
    }
    tensor.offset = bytes.offset + static_cast<uint64_t>(offset) * element_size;
    if (!contiguous)
      tensor.gathered = gather(tensor, strides, bytes, static_cast<size_t>(offset) * element_size, where);
    return tensor;
  }

  // The bytes of a storage, kept until another is asked for: views of one storage follow each other.
  const uint8_t* load(ByteRange storage, const std::string& where) {
    if (loaded_ && loaded_range_.offset == storage.offset && loaded_range_.size == storage.size)
      return loaded_.get();
    if (storage.size > load_left_)
      fail_at(where, "its elements are scattered over more of the file than can be read");
    load_left_ -= storage.size;
    loaded_.reset();
    loaded_.reset(new uint8_t[storage.size]);
    file_.read(storage.offset, static_cast<size_t>(storage.size), loaded_.get());
    loaded_range_ = storage;
    return loaded_.get();
  }

  const uint8_t* gather(const TensorInfo& tensor, const std::vector<int64_t>& strides, ByteRange storage,
                        size_t offset, const std::string& where) {
    if (tensor.bytes > copy_left_) {
      throw Error(ErrorCode::checkpoint, where + ": making it contiguous takes " +
                                             std::to_string(tensor.bytes) +
                                             " bytes, out of proportion to the file");
    }
    copy_left_ -= tensor.bytes;
    const uint8_t* from = load(storage, where) + offset;
    contents_.owned.emplace_back(new uint8_t[tensor.bytes]);
    uint8_t* out = contents_.owned.back().get();

    const size_t element_size = dtype_size(tensor.dtype);
    const size_t rank = tensor.shape.size();
    const int64_t row = rank > 0 ? tensor.shape[rank - 1] : 1;
    const size_t row_stride = rank > 0 ? static_cast<size_t>(strides[rank - 1]) * element_size : 0;
    std::vector<int64_t> at(rank, 0);
    for (size_t done = 0; done < tensor.bytes;) {
      const uint8_t* source = from;
      for (size_t i = 0; i + 1 < rank; ++i) source += static_cast<size_t>(at[i] * strides[i]) * element_size;
      for (int64_t i = 0; i < row; ++i, done += element_size)
        std::memcpy(out + done, source + static_cast<size_t>(i) * row_stride, element_size);
      for (size_t i = rank > 0 ? rank - 1 : 0; i-- > 0;) {
        if (++at[i] < tensor.shape[i]) break;
        at[i] = 0;
      }
    }
    return out;
  }

  const InputFile& file_;
  const StorageBytes& storages_;
  TensorFileContents contents_;
  std::unordered_map<const PickleValue*, char> holders_;
  std::unordered_map<const PickleValue*, TensorInfo> built_;  // tied weights are one object under two names
  std::string outer_;                                         // the dropped prefix
  std::unique_ptr<uint8_t[]> loaded_;
  ByteRange loaded_range_;
  size_t listing_left_;  // bytes of names and values
  uint64_t visits_left_, copy_left_, load_left_;
};

}  // namespace

TensorFileContents list_tensors(const InputFile& file, const PickleValue& root,
                                const StorageBytes& storages) {
  return ObjectGraph(file, storages).list(root);
}

}  // namespace allmrec::io
