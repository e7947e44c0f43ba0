#include "pickle_globals.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>

#include "../core/error.h"
#include "float_bits.h"
#include "json.h"

namespace allmrec::io {

namespace {

using Kind = PickleValue::Kind;

constexpr std::string_view kCallables[] = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.device",
    "collections.OrderedDict",
    "argparse.Namespace",
    "__builtin__.set",
    "builtins.set",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
};

// Values a Namespace may hold; they become their own names.
constexpr std::string_view kTorchDTypes[] = {
    "torch.float16", "torch.bfloat16", "torch.float32", "torch.float64", "torch.int8",
    "torch.int16",   "torch.int32",    "torch.int64",   "torch.uint8",   "torch.bool",
};

struct StorageName {
  std::string_view name;
  FileDType dtype;
};

constexpr StorageName kStorages[] = {
    {"DoubleStorage", FileDType::F64},    {"FloatStorage", FileDType::F32}, {"HalfStorage", FileDType::F16},
    {"BFloat16Storage", FileDType::BF16}, {"LongStorage", FileDType::I64},  {"IntStorage", FileDType::I32},
    {"ShortStorage", FileDType::I16},     {"CharStorage", FileDType::I8},   {"ByteStorage", FileDType::U8},
    {"BoolStorage", FileDType::BOOL},
};

std::optional<FileDType> find_storage_dtype(std::string_view global) {
  for (const std::string_view module : {std::string_view("torch."), std::string_view("torch.cuda.")}) {
    if (global.substr(0, module.size()) != module) continue;
    for (const StorageName& storage : kStorages)
      if (global.substr(module.size()) == storage.name) return storage.dtype;
  }
  return std::nullopt;
}

bool is_tuple_of_integers(const PickleValue& value) {
  return value.is(Kind::tuple) &&
         std::all_of(value.items.begin(), value.items.end(),
                     [](const PickleValue* item) { return item->is(Kind::integer); });
}

[[noreturn]] void fail_arguments(const ByteReader& reader, const PickleValue& callable,
                                 const PickleValue& arguments) {
  std::string found;
  for (const PickleValue* argument : arguments.items) {
    if (found.size() > 200) break;
    found += (found.empty() ? "" : ", ") + std::string(kind_name(argument->kind));
  }
  reader.fail("the arguments of " + callable.text + " are not as torch.save writes them: (" + found + ")");
}

PickleValue* rebuild_tensor(PickleObjects& objects, const std::vector<PickleValue*>& arguments) {
  const bool well_formed = arguments.size() >= 4 && arguments[0]->is(Kind::storage) &&
                           arguments[1]->is(Kind::integer) && arguments[1]->integer >= 0 &&
                           is_tuple_of_integers(*arguments[2]) && is_tuple_of_integers(*arguments[3]) &&
                           arguments[2]->items.size() == arguments[3]->items.size();
  // A seventh argument marks a lazy negation or conjugation: the bytes are not the values.
  const bool plain = arguments.size() < 7 || (arguments[6]->is_mapping() ? arguments[6]->items.empty()
                                                                         : arguments[6]->is(Kind::none));
  if (!well_formed || !plain) return nullptr;
  PickleValue* tensor = objects.add(Kind::tensor);
  tensor->items.assign(arguments.begin(), arguments.begin() + 4);
  return tensor;
}

PickleValue* ordered_dict(PickleObjects& objects, const std::vector<PickleValue*>& arguments) {
  if (arguments.size() > 1 || (arguments.size() == 1 && !arguments[0]->is(Kind::list))) return nullptr;
  PickleValue* dict = objects.add(Kind::dict);
  if (arguments.empty()) return dict;
  objects.charge(2 * arguments[0]->items.size());
  for (const PickleValue* pair : arguments[0]->items) {
    if (!pair->is_sequence() || pair->items.size() != 2) return nullptr;
    dict->items.insert(dict->items.end(), pair->items.begin(), pair->items.end());
  }
  return dict;
}

PickleValue* torch_device(PickleObjects& objects, const std::vector<PickleValue*>& arguments) {
  if (arguments.empty() || arguments.size() > 2 || !arguments[0]->is(Kind::text) ||
      arguments[0]->text.size() > 32)
    return nullptr;
  if (arguments.size() == 1) return arguments[0];
  if (!arguments[1]->is(Kind::integer)) return nullptr;
  return objects.text(Kind::text, arguments[0]->text + ":" + std::to_string(arguments[1]->integer));
}

// Protocol 2 has no bytes; Python writes them as text whose code points are the bytes.
PickleValue* encode_latin1(PickleObjects& objects, const std::vector<PickleValue*>& arguments) {
  if (arguments.size() != 2 || !arguments[0]->is(Kind::text) || !arguments[1]->is(Kind::text) ||
      arguments[1]->text != "latin1")
    return nullptr;
  const std::string& text = arguments[0]->text;
  objects.charge(text.size());
  std::string bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) {
      bytes.push_back(text[i]);
    } else {
      if (lead > 0xc3) return nullptr;  // a code point above 255
      const auto low = static_cast<unsigned char>(text[++i]);
      bytes.push_back(static_cast<char>((lead & 3) << 6 | (low & 0x3f)));
    }
  }
  return objects.text(Kind::bytes, std::move(bytes));
}

template <typename T>
T value_of(const std::string& bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

PickleValue* numpy_scalar(PickleObjects& objects, const std::vector<PickleValue*>& arguments) {
  if (arguments.size() != 2 || !arguments[0]->is(Kind::numpy_dtype)) return nullptr;
  if (!arguments[1]->is(Kind::bytes) && !arguments[1]->is(Kind::text)) return nullptr;
  const std::string& type = arguments[0]->text;
  const std::string& bytes = arguments[1]->text;
  if (type.size() != 2 || bytes.size() != static_cast<size_t>(type[1] - '0')) return nullptr;
  const auto real = [&](double value) {
    PickleValue* added = objects.add(Kind::real);
    added->real = value;
    return added;
  };
  if (type == "f8") return real(value_of<double>(bytes));
  if (type == "f4") return real(value_of<float>(bytes));
  if (type == "f2") return real(float_from_half(value_of<uint16_t>(bytes)));
  if (type == "i8") return objects.integer(value_of<int64_t>(bytes));
  if (type == "i4") return objects.integer(value_of<int32_t>(bytes));
  if (type == "i2") return objects.integer(value_of<int16_t>(bytes));
  if (type == "i1") return objects.integer(value_of<int8_t>(bytes));
  if (type == "u4") return objects.integer(value_of<uint32_t>(bytes));
  if (type == "u2") return objects.integer(value_of<uint16_t>(bytes));
  if (type == "u1") return objects.integer(value_of<uint8_t>(bytes));
  if (type == "b1") return objects.boolean(bytes[0] != 0);
  return nullptr;
}

PickleValue* call(PickleObjects& objects, const std::string& callable,
                  const std::vector<PickleValue*>& arguments) {
  const auto sole = [&](auto matches) {
    return arguments.size() == 1 && matches(*arguments[0]) ? arguments[0] : nullptr;
  };
  if (callable == "torch._utils._rebuild_tensor_v2" || callable == "torch._utils._rebuild_tensor")
    return rebuild_tensor(objects, arguments);
  if (callable == "torch._utils._rebuild_parameter")
    return !arguments.empty() && arguments[0]->is(Kind::tensor) ? arguments[0] : nullptr;
  if (callable == "collections.OrderedDict") return ordered_dict(objects, arguments);
  if (callable == "torch.Size") return sole(is_tuple_of_integers);
  if (callable == "torch.device") return torch_device(objects, arguments);
  if (callable == "__builtin__.set" || callable == "builtins.set")
    return sole([](const PickleValue& items) { return items.is(Kind::list); });
  if (callable == "_codecs.encode") return encode_latin1(objects, arguments);
  if (callable == "numpy.dtype")
    return !arguments.empty() && arguments[0]->is(Kind::text) && arguments[0]->text.size() <= 8
               ? objects.text(Kind::numpy_dtype, arguments[0]->text)
               : nullptr;
  if (callable == "numpy.core.multiarray.scalar" || callable == "numpy._core.multiarray.scalar")
    return numpy_scalar(objects, arguments);
  return nullptr;
}

}  // namespace

PickleValue* find_global(const ByteReader& reader, PickleObjects& objects, const std::string& module,
                         const std::string& name) {
  const std::string full = module + "." + name;
  const auto is_full = [&](std::string_view allowed) { return allowed == full; };
  if (std::any_of(std::begin(kCallables), std::end(kCallables), is_full) ||
      std::any_of(std::begin(kTorchDTypes), std::end(kTorchDTypes), is_full) || find_storage_dtype(full))
    return objects.text(Kind::global, full);

  // A class is most often a model saved whole.
  const bool is_class =
      !name.empty() && name[0] >= 'A' && name[0] <= 'Z' && name.find("Storage") == std::string::npos;
  const char* hint = is_class ? "; save model.state_dict() instead of the model itself" : "";
  throw Error(ErrorCode::checkpoint,
              reader.where() + ": at byte " + std::to_string(reader.position()) + ": the pickle asks for " +
                  quoted(full) +
                  ", which is not on the list of what a checkpoint of tensors needs; nothing was "
                  "executed" +
                  hint);
}

PickleValue* call_global(const ByteReader& reader, PickleObjects& objects, const PickleValue& callable,
                         PickleValue& arguments) {
  PickleValue* result = call(objects, callable.text, arguments.items);
  if (result == nullptr) fail_arguments(reader, callable, arguments);
  return result;
}

PickleValue* new_object(const ByteReader& reader, PickleObjects& objects, const PickleValue& type,
                        const PickleValue& arguments) {
  if (arguments.items.empty()) {
    if (type.text == "argparse.Namespace") return objects.add(Kind::name_space);
    if (type.text == "collections.OrderedDict") return objects.add(Kind::dict);
  }
  fail_arguments(reader, type, arguments);
}

void set_state(const ByteReader& reader, PickleObjects& objects, PickleValue& object,
               const PickleValue& state) {
  if (object.is(Kind::name_space) && state.is(Kind::dict)) {
    objects.charge(state.items.size());
    object.items.insert(object.items.end(), state.items.begin(), state.items.end());
    return;
  }
  // The attributes of an OrderedDict: a state_dict carries its `_metadata` there, versions of modules.
  if (object.is(Kind::dict) && state.is(Kind::dict)) return;
  if (object.is(Kind::numpy_dtype) && state.is(Kind::tuple) && state.items.size() >= 2 &&
      state.items[1]->is(Kind::text) && state.items[1]->text != ">")
    return;
  reader.fail(std::string("expected the state of a Namespace, an OrderedDict or a little-endian numpy dtype, "
                          "found ") +
              kind_name(state.kind) + " for " + kind_name(object.kind));
}

FileDType storage_dtype(const PickleValue& global, const std::string& where) {
  if (const std::optional<FileDType> dtype = find_storage_dtype(global.text)) return *dtype;
  throw Error(ErrorCode::unsupported, where + ": expected a storage of a known dtype, found " + global.text);
}

}  // namespace allmrec::io
