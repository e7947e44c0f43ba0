#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace allmrec::io {

// A JSON value. Objects keep the order of the text; a repeated key is a parse error.
class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;

  static constexpr int kDepthLimit = 64;

  Json() = default;  // null
  Json(bool value) : value_(value) {}
  Json(int64_t value) : value_(value) {}
  Json(double value) : value_(value) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(Array value) : value_(std::move(value)) {}
  Json(Object value) : value_(std::move(value)) {}

  // `where` opens every error message. `value_limit` bounds the number of values, because one byte of text
  // can become tens of bytes of memory.
  static Json parse(std::string_view text, const std::string& where, size_t value_limit = SIZE_MAX);

  // Takes an object apart, one member after another, so that no more than one is in memory; `value_limit` is
  // of each.
  static void parse_members(std::string_view text, const std::string& where, size_t value_limit,
                            const std::function<void(std::string key, Json value)>& take);

  // The pointer is null when the value is of another type.
  const bool* if_bool() const { return std::get_if<bool>(&value_); }
  const int64_t* if_int() const { return std::get_if<int64_t>(&value_); }
  const double* if_double() const { return std::get_if<double>(&value_); }
  const std::string* if_string() const { return std::get_if<std::string>(&value_); }
  const Array* if_array() const { return std::get_if<Array>(&value_); }
  const Object* if_object() const { return std::get_if<Object>(&value_); }
  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }

  // The member of an object, or null when it is missing or this is no object.
  const Json* find(std::string_view key) const;

  const char* type_name() const;  // "null", "boolean", "integer", "number", "string", "array", "object"

  std::string to_text() const;  // no white space; numbers round-trip

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

bool is_valid_utf8(std::string_view text);

void append_utf8(std::string& out, uint32_t code_point);

// Appends `text` (UTF-8) in quotes, escaping only what JSON demands.
void append_json_string(std::string& out, std::string_view text);

// A name out of a file, for a message: in quotes, escaped, and cut where it is long.
std::string quoted(std::string_view name);

// The shortest of 15, 16 or 17 digits that reads back as the same double; "NaN", "Infinity" and "-Infinity"
// as Python's json writes them.
std::string number_to_text(double value);

}  // namespace allmrec::io
