#include "convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>

#include "../core/memory_limit.h"

namespace allmrec::binding {
namespace {

std::string describe(Napi::Value value) {
  if (value.IsString()) {
    std::string text = value.As<Napi::String>().Utf8Value();
    if (text.size() > 80) text = text.substr(0, 77) + "…";
    return "`" + text + "` (string)";
  }
  if (value.IsNumber() || value.IsBoolean()) return "`" + value.ToString().Utf8Value() + "`";
  if (value.IsNull()) return "`null`";
  if (value.IsUndefined()) return "`undefined`";
  if (value.IsBigInt()) return "a bigint";
  if (value.IsFunction()) return "a function";
  if (value.IsSymbol()) return "a symbol";
  if (value.IsArray()) return "an array";
  if (value.IsTypedArray()) return "a typed array of another type";
  return "an object";
}

std::string range_text(double least, double most) {
  auto text = [](double v) {
    if (std::abs(v) < 1e15 && v == std::floor(v)) return std::to_string(static_cast<int64_t>(v));
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%g", v);
    return std::string(buffer);
  };
  const bool bounded = most < std::numeric_limits<float>::max() && most < static_cast<double>(kSafeInteger);
  return bounded ? "from " + text(least) + " to " + text(most) : "of at least " + text(least);
}

// The elements of a typed array of one type, copied.
template <typename T>
std::vector<T> read_typed(Napi::Value value, napi_typedarray_type type, const std::string& name,
                          const char* what) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type)
    expected(name, what, value);
  napi_typedarray_type actual;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(value.Env(), value, &actual, &length, &data, nullptr, nullptr) != napi_ok)
    expected(name, what, value);
  std::vector<T> copy(length);
  if (length) std::memcpy(copy.data(), data, length * sizeof(T));
  return copy;
}

}  // namespace

void fail(const std::string& message) {
  throw Error(ErrorCode::invalid_argument, message);
}

void expected(const std::string& name, const std::string& what, Napi::Value got) {
  fail("Expected `" + name + "` to be " + what + ", got " + describe(got) + ".");
}

std::string read_string(Napi::Value value, const std::string& name) {
  if (!value.IsString()) expected(name, "a string", value);
  return value.As<Napi::String>().Utf8Value();
}

bool read_bool(Napi::Value value, const std::string& name) {
  if (!value.IsBoolean()) expected(name, "a boolean", value);
  return value.As<Napi::Boolean>().Value();
}

double read_number(Napi::Value value, const std::string& name, double least, double most) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= least && number <= most)) expected(name, "a number " + range_text(least, most), value);
  return number;
}

int64_t read_integer(Napi::Value value, const std::string& name, int64_t least, int64_t most) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= static_cast<double>(least) && number <= static_cast<double>(most)) ||
      number != std::floor(number))
    expected(name, "an integer " + range_text(static_cast<double>(least), static_cast<double>(most)), value);
  return static_cast<int64_t>(number);
}

std::vector<float> read_floats(Napi::Value value, const std::string& name, bool finite) {
  std::vector<float> values = read_typed<float>(value, napi_float32_array, name, "a Float32Array");
  const auto bad = finite
                       ? std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); })
                       : values.end();
  if (bad != values.end())
    fail("Expected `" + name + "` to hold finite numbers, got " +
         (std::isnan(*bad) ? "NaN"
          : *bad < 0.0f    ? "-Infinity"
                           : "Infinity") +
         " at " + std::to_string(bad - values.begin()) + ".");
  return values;
}

std::vector<int32_t> read_ints(Napi::Value value, const std::string& name) {
  return read_typed<int32_t>(value, napi_int32_array, name, "an Int32Array");
}

std::vector<std::string> read_strings(Napi::Value value, const std::string& name) {
  if (!value.IsArray()) expected(name, "an array of strings", value);
  const Napi::Array array = value.As<Napi::Array>();
  std::vector<std::string> strings;
  for (uint32_t i = 0; i < array.Length(); ++i)
    strings.push_back(read_string(array.Get(i), name + "[" + std::to_string(i) + "]"));
  return strings;
}

std::map<std::string, std::string> read_metadata(Napi::Value value, const std::string& name) {
  if (!value.IsObject() || value.IsArray()) expected(name, "an object of strings", value);
  const Napi::Object object = value.As<Napi::Object>();
  const Napi::Array keys = object.GetPropertyNames();
  std::map<std::string, std::string> metadata;
  for (uint32_t i = 0; i < keys.Length(); ++i) {
    const std::string key = keys.Get(i).ToString().Utf8Value();
    metadata[key] = read_string(object.Get(key), name + "." + key);
  }
  return metadata;
}

Ragged read_ragged(Napi::Value value, const std::string& name) {
  const Fields fields(value, name);
  Ragged ragged{fields.ints("offsets"), fields.ints("values")};
  const std::vector<int32_t>& offsets = ragged.offsets;
  if (offsets.empty() || offsets.front() != 0 || !std::is_sorted(offsets.begin(), offsets.end()) ||
      offsets.back() != static_cast<int64_t>(ragged.values.size()))
    fail("Expected `" + name + ".offsets` to start at 0, ascend and end with the number of values (" +
         std::to_string(ragged.values.size()) + ").");
  return ragged;
}

Fields::Fields(Napi::Value value, std::string name) : name_(std::move(name)) {
  if (!value.IsObject() || value.IsArray() || value.IsTypedArray()) expected(name_, "an object", value);
  object_ = value.As<Napi::Object>();
}

bool Fields::has(const char* field) const {
  return !object_.Get(field).IsUndefined();
}

Napi::Value Fields::get(const char* field) const {
  return object_.Get(field);
}

int64_t Fields::integer(const char* field, int64_t least, int64_t most) const {
  return read_integer(get(field), name_of(field), least, most);
}

int Fields::size(const char* field, int64_t least, int64_t most) const {
  return static_cast<int>(integer(field, least, most));
}

uint64_t Fields::seed(const char* field) const {
  return static_cast<uint64_t>(integer(field, 0, kSafeInteger));
}

float Fields::number(const char* field, double least, double most) const {
  return static_cast<float>(read_number(get(field), name_of(field), least, most));
}

float Fields::number_or(const char* field, float otherwise, double least, double most) const {
  return has(field) ? number(field, least, most) : otherwise;
}

void expect_range(const std::vector<int32_t>& values, const std::string& name, int64_t least, int64_t most,
                  ErrorCode code) {
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i] < least || values[i] > most)
      throw Error(code, "Expected `" + name + "` to hold numbers from " + std::to_string(least) + " to " +
                            std::to_string(most) + ", got " + std::to_string(values[i]) + " at " +
                            std::to_string(i) + ".");
}

void expect_length(size_t got, int64_t wanted, const std::string& name) {
  if (static_cast<int64_t>(got) != wanted)
    fail("Expected `" + name + "` to hold " + std::to_string(wanted) + " numbers, got " +
         std::to_string(got) + ".");
}

int64_t expect_rows(size_t size, int64_t cols, const std::string& name) {
  const auto count = static_cast<int64_t>(size);
  if (count % cols != 0)
    fail("Expected `" + name + "` to hold rows of " + std::to_string(cols) + " numbers, got " +
         std::to_string(count) + " numbers.");
  return count / cols;
}

Napi::Value to_js(Napi::Env env, const std::vector<float>& values) {
  Napi::Float32Array array = Napi::Float32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(float));
  return array;
}

Napi::Value to_js(Napi::Env env, const std::vector<int32_t>& values) {
  Napi::Int32Array array = Napi::Int32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(int32_t));
  return array;
}

Napi::Value to_js(Napi::Env env, std::vector<float>&& values) {
  // Copying hundreds of megabytes would hold up the event loop. What is small is copied: only JavaScript's
  // own memory can be transferred to another thread.
  constexpr size_t kHandedOver = size_t{1} << 22;
  if (values.size() < kHandedOver) return to_js(env, static_cast<const std::vector<float>&>(values));
  auto owner = std::make_unique<std::vector<float>>(std::move(values));
  napi_value buffer = nullptr;
  const auto finalize = [](napi_env, void*, void* hint) { delete static_cast<std::vector<float>*>(hint); };
  const napi_status status = napi_create_external_arraybuffer(
      env, owner->data(), owner->size() * sizeof(float), finalize, owner.get(), &buffer);
  // Some runtimes keep all buffers in a place of their own.
  if (status != napi_ok) return to_js(env, static_cast<const std::vector<float>&>(*owner));
  const size_t length = owner.release()->size();
  return Napi::Float32Array::New(env, length, Napi::ArrayBuffer(env, buffer), 0);
}

Napi::Value to_js(Napi::Env env, const std::map<std::string, double>& values) {
  Napi::Object object = Napi::Object::New(env);
  for (const auto& [name, value] : values) object.Set(name, value);
  return object;
}

Napi::Value to_js(Napi::Env env, const std::map<std::string, std::string>& values) {
  Napi::Object object = Napi::Object::New(env);
  for (const auto& [name, value] : values) object.Set(name, value);
  return object;
}

Napi::Value to_js(Napi::Env env, const std::vector<int64_t>& shape) {
  Napi::Array array = Napi::Array::New(env, shape.size());
  for (size_t i = 0; i < shape.size(); ++i)
    array.Set(static_cast<uint32_t>(i), static_cast<double>(shape[i]));
  return array;
}

Napi::Value to_js(Napi::Env env, double value) {
  return Napi::Number::New(env, value);
}

const char* code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return "ERR_ALLMREC_INVALID_ARGUMENT";
    case ErrorCode::file_not_found:
      return "ERR_ALLMREC_FILE_NOT_FOUND";
    case ErrorCode::checkpoint:
      return "ERR_ALLMREC_CHECKPOINT";
    case ErrorCode::unsupported:
      return "ERR_ALLMREC_UNSUPPORTED";
    case ErrorCode::unknown_item:
      return "ERR_ALLMREC_UNKNOWN_ITEM";
    case ErrorCode::out_of_memory:
      return "ERR_ALLMREC_OUT_OF_MEMORY";
    case ErrorCode::write:
      return "ERR_ALLMREC_WRITE";
    case ErrorCode::device:
      return "ERR_ALLMREC_DEVICE";
    case ErrorCode::device_lost:
      return "ERR_ALLMREC_DEVICE_LOST";
    case ErrorCode::numeric:
      return "ERR_ALLMREC_NUMERIC";
    case ErrorCode::cancelled:
      return "ERR_ALLMREC_CANCELLED";
    case ErrorCode::disposed:
      return "ERR_ALLMREC_DISPOSED";
    case ErrorCode::internal:
      break;
  }
  return "ERR_ALLMREC_INTERNAL";
}

Napi::Value current_exception_to_js(Napi::Env env) {
  auto make = [env](ErrorCode code, const std::string& message) -> Napi::Value {
    Napi::Error error = Napi::Error::New(env, message);
    error.Set("code", Napi::String::New(env, code_name(code)));
    return error.Value();
  };
  try {
    throw;
  } catch (const Napi::Error& error) {
    return error.Value();
  } catch (const Error& error) {
    return make(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return make(ErrorCode::out_of_memory, "Out of memory in the native code. " + memory_text() + ".");
  } catch (const std::length_error&) {
    return make(ErrorCode::out_of_memory, "Out of memory: the array asked for is too long.");
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::resource_unavailable_try_again)
      return make(ErrorCode::out_of_memory, "The system gives this process no further thread (" +
                                                std::string(error.what()) + "). " + memory_text() + ".");
    return make(ErrorCode::internal, error.what());
  } catch (const std::exception& error) {
    return make(ErrorCode::internal, error.what());
  } catch (...) {
    return make(ErrorCode::internal, "Unknown error.");
  }
}

}  // namespace allmrec::binding
