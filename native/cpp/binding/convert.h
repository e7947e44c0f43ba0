#pragma once

#include <napi.h>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "../core/error.h"

// JavaScript values to C++ and back. Everything read is copied, so that nothing of JavaScript's memory is
// used after the call; whatever does not fit throws ErrorCode::invalid_argument: Expected `x` to be …, got ….
namespace allmrec::binding {

constexpr int64_t kSafeInteger = (int64_t{1} << 53) - 1;
constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();

[[noreturn]] void fail(const std::string& message);
[[noreturn]] void expected(const std::string& name, const std::string& what, Napi::Value got);

std::string read_string(Napi::Value value, const std::string& name);
bool read_bool(Napi::Value value, const std::string& name);
double read_number(Napi::Value value, const std::string& name, double least, double most);
int64_t read_integer(Napi::Value value, const std::string& name, int64_t least, int64_t most);
// finite: NaN and infinities are refused.
std::vector<float> read_floats(Napi::Value value, const std::string& name, bool finite = true);
std::vector<int32_t> read_ints(Napi::Value value, const std::string& name);
std::vector<std::string> read_strings(Napi::Value value, const std::string& name);
std::map<std::string, std::string> read_metadata(Napi::Value value, const std::string& name);

// Rows of different lengths: row r is values[offsets[r]] … values[offsets[r + 1] − 1]; the offsets start at
// 0, ascend and end with the number of values.
struct Ragged {
  std::vector<int32_t> offsets;
  std::vector<int32_t> values;
  int64_t rows() const { return static_cast<int64_t>(offsets.size()) - 1; }
};
Ragged read_ragged(Napi::Value value, const std::string& name);

// The fields of an options object; `undefined` counts as absent.
class Fields {
 public:
  Fields(Napi::Value value, std::string name);

  bool has(const char* field) const;
  Napi::Value get(const char* field) const;
  std::string name_of(const char* field) const { return name_ + "." + field; }

  int64_t integer(const char* field, int64_t least, int64_t most = kInt32Max) const;
  // An integer that is kept as int.
  int size(const char* field, int64_t least = 1, int64_t most = int64_t{1} << 24) const;
  uint64_t seed(const char* field) const;
  float number(const char* field, double least, double most = std::numeric_limits<float>::max()) const;
  float number_or(const char* field, float otherwise, double least, double most) const;
  bool boolean(const char* field) const { return read_bool(get(field), name_of(field)); }
  std::string string(const char* field) const { return read_string(get(field), name_of(field)); }
  std::vector<float> floats(const char* field, bool finite = true) const {
    return read_floats(get(field), name_of(field), finite);
  }
  std::vector<int32_t> ints(const char* field) const { return read_ints(get(field), name_of(field)); }
  Ragged ragged(const char* field) const { return read_ragged(get(field), name_of(field)); }

  template <typename T>
  T choice(const char* field, std::initializer_list<std::pair<const char*, T>> choices) const {
    const Napi::Value value = get(field);
    std::string names;
    for (const auto& [text, meaning] : choices) {
      if (value.IsString() && value.As<Napi::String>().Utf8Value() == text) return meaning;
      names += (names.empty() ? "" : ", ") + std::string(text);
    }
    expected(name_of(field), "one of " + names, value);
  }

 private:
  Napi::Object object_;
  std::string name_;
};

// Every number must lie in [least, most].
void expect_range(const std::vector<int32_t>& values, const std::string& name, int64_t least, int64_t most,
                  ErrorCode code = ErrorCode::invalid_argument);
void expect_length(size_t got, int64_t wanted, const std::string& name);
// The number of rows of `cols` numbers.
int64_t expect_rows(size_t size, int64_t cols, const std::string& name);

Napi::Value to_js(Napi::Env env, const std::vector<float>& values);
// Without a copy where the array is large.
Napi::Value to_js(Napi::Env env, std::vector<float>&& values);
Napi::Value to_js(Napi::Env env, const std::vector<int32_t>& values);
Napi::Value to_js(Napi::Env env, const std::map<std::string, double>& values);
Napi::Value to_js(Napi::Env env, const std::map<std::string, std::string>& values);
Napi::Value to_js(Napi::Env env, const std::vector<int64_t>& shape);
Napi::Value to_js(Napi::Env env, double value);

const char* code_name(ErrorCode code);
// A JavaScript Error with the `code` of the exception that is being handled. Call it in a catch block.
Napi::Value current_exception_to_js(Napi::Env env);

// Runs a synchronous method, its exceptions thrown as JavaScript errors.
template <typename Fn>
auto guarded(Napi::Env env, Fn&& fn) -> decltype(fn()) {
  try {
    return fn();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw Napi::Error(env, current_exception_to_js(env));
  }
}

}  // namespace allmrec::binding
