#include "json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <locale>
#include <sstream>
#include <unordered_set>

#include "../core/error.h"

namespace allmrec::io {

namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::string describe(char c) {
  const auto byte = static_cast<unsigned char>(c);
  if (byte >= 0x20 && byte < 0x7f) return std::string("'") + c + "'";
  constexpr char kHex[] = "0123456789abcdef";
  return std::string("byte 0x") + kHex[byte >> 4] + kHex[byte & 15];
}

class JsonParser {
 public:
  JsonParser(std::string_view text, const std::string& where, size_t value_limit)
      : text_(text), where_(where), value_limit_(value_limit), values_left_(value_limit) {}

  Json parse_document() {
    Json value = parse_value(0);
    expect_end();
    return value;
  }

  template <typename Take>
  void parse_document_members(Take&& take) {
    skip_space();
    if (peek() != '{') fail("an object");
    parse_members(0, [&](std::string key, Json value) {
      take(std::move(key), std::move(value));
      values_left_ = value_limit_;
    });
    expect_end();
  }

 private:
  [[noreturn]] void fail(const std::string& expected) const {
    const std::string found = at_ < text_.size() ? describe(text_[at_]) : "the end of the text";
    throw Error(ErrorCode::checkpoint, where_ + ": JSON: expected " + expected + " at byte " +
                                           std::to_string(at_) + ", found " + found);
  }

  [[noreturn]] void fail_with(const std::string& reason) const {
    throw Error(ErrorCode::checkpoint, where_ + ": JSON: " + reason + " at byte " + std::to_string(at_));
  }

  void expect_end() {
    skip_space();
    if (at_ != text_.size()) fail("the end of the text");
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
  }

  bool accept(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) fail("'" + std::string(word) + "'");
    at_ += word.size();
  }

  Json parse_value(int depth) {
    skip_space();
    if (values_left_-- == 0) fail_with("more than " + std::to_string(value_limit_) + " values");
    const char c = peek();
    if (c == '{' || c == '[') {
      if (depth >= Json::kDepthLimit) fail_with("nested deeper than 64 levels");
      return c == '{' ? parse_object(depth) : parse_array(depth);
    }
    if (c == '"') return Json(parse_string());
    if (c == '-' || is_digit(c)) return parse_number();
    if (c == 't') return expect_word("true"), Json(true);
    if (c == 'f') return expect_word("false"), Json(false);
    if (c == 'n') return expect_word("null"), Json();
    fail("a value");
  }

  Json parse_array(int depth) {
    ++at_;
    Json::Array items;
    if (accept(']')) return Json(std::move(items));
    do items.push_back(parse_value(depth + 1));
    while (accept(','));
    if (!accept(']')) fail("',' or ']'");
    return Json(std::move(items));
  }

  Json parse_object(int depth) {
    Json::Object members;
    parse_members(
        depth, [&](std::string key, Json value) { members.emplace_back(std::move(key), std::move(value)); });
    return Json(std::move(members));
  }

  template <typename Take>
  void parse_members(int depth, Take&& take) {
    ++at_;
    std::unordered_set<std::string> keys;
    if (accept('}')) return;
    do {
      skip_space();
      if (peek() != '"') fail("a string as key");
      std::string key = parse_string();
      if (!keys.insert(key).second) fail_with("the key " + quoted(key) + " is repeated");
      if (!accept(':')) fail("':'");
      Json value = parse_value(depth + 1);
      take(std::move(key), std::move(value));
    } while (accept(','));
    if (!accept('}')) fail("',' or '}'");
  }

  std::string parse_string() {
    const size_t begin = ++at_;
    std::string out;
    while (true) {
      if (at_ >= text_.size()) fail("'\"' closing the string");
      const char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) fail("no control character in a string");
      ++at_;
      if (c == '"') break;
      if (c == '\\')
        parse_escape(out);
      else
        out.push_back(c);
    }
    if (!is_valid_utf8(std::string_view(text_).substr(begin, at_ - 1 - begin))) {
      at_ = begin;
      fail_with("the string is not valid UTF-8");
    }
    return out;
  }

  void parse_escape(std::string& out) {
    const char c = peek();
    constexpr std::string_view kEscapes = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const size_t which = at_ < text_.size() ? kEscapes.find(c) : std::string_view::npos;
    if (which != std::string_view::npos) {
      out.push_back(kMeanings[which]);
      ++at_;
      return;
    }
    if (c != 'u') fail("an escape");
    ++at_;
    uint32_t unit = parse_hex4();
    if (unit >= 0xdc00 && unit < 0xe000) fail_with("a low surrogate without a high one");
    if (unit >= 0xd800 && unit < 0xdc00) {
      if (text_.substr(at_, 2) != "\\u") fail("the low half of a surrogate pair");
      at_ += 2;
      const uint32_t low = parse_hex4();
      if (low < 0xdc00 || low >= 0xe000) fail_with("a high surrogate without a low one");
      unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(out, unit);
  }

  uint32_t parse_hex4() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      uint32_t digit;
      if (is_digit(c))
        digit = static_cast<uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f')
        digit = static_cast<uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F')
        digit = static_cast<uint32_t>(c - 'A' + 10);
      else
        fail("a hexadecimal digit");
      value = value * 16 + digit;
    }
    return value;
  }

  Json parse_number() {
    const size_t begin = at_;
    const bool negative = peek() == '-';
    if (negative) ++at_;
    if (!is_digit(peek())) fail("a digit");
    bool fits = true;
    uint64_t magnitude = 0;
    if (peek() == '0') {
      ++at_;
      if (is_digit(peek())) fail("no digit after a leading zero");
    } else {
      for (; is_digit(peek()); ++at_) {
        const auto digit = static_cast<uint64_t>(peek() - '0');
        if (magnitude > (UINT64_MAX - digit) / 10) fits = false;
        magnitude = magnitude * 10 + digit;
      }
    }
    bool whole = true;
    if (peek() == '.') {
      whole = false;
      ++at_;
      if (!is_digit(peek())) fail("a digit after the point");
      while (is_digit(peek())) ++at_;
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      if (!is_digit(peek())) fail("a digit in the exponent");
      while (is_digit(peek())) ++at_;
    }
    constexpr auto kMax = static_cast<uint64_t>(INT64_MAX);
    const bool negative_zero = negative && magnitude == 0 && fits;  // an integer has none
    if (whole && fits && magnitude <= kMax && !negative_zero) {
      const auto value = static_cast<int64_t>(magnitude);
      return Json(negative ? -value : value);
    }
    if (whole && fits && negative && magnitude == kMax + 1) return Json(INT64_MIN);
    return Json(parse_double(begin));
  }

  // std::from_chars for doubles is missing from libraries still in use, and strtod follows the locale.
  double parse_double(size_t begin) {
    std::istringstream stream{std::string(text_.substr(begin, at_ - begin))};
    stream.imbue(std::locale::classic());
    double value = 0;
    stream >> value;
    // A stream also fails on underflow in some libraries; then the value is zero or subnormal, and right.
    if (stream.fail() && std::abs(value) >= 1) fail_with("a number beyond the range of a double");
    return value;
  }

  std::string_view text_;
  const std::string& where_;
  const size_t value_limit_;
  size_t values_left_;
  size_t at_ = 0;
};

void append_text(std::string& out, const Json& value) {
  if (value.is_null()) out += "null";
  if (const bool* flag = value.if_bool()) out += *flag ? "true" : "false";
  if (const int64_t* integer = value.if_int()) out += std::to_string(*integer);
  if (const double* number = value.if_double()) out += number_to_text(*number);
  if (const std::string* text = value.if_string()) append_json_string(out, *text);
  if (const Json::Array* items = value.if_array()) {
    out.push_back('[');
    for (size_t i = 0; i < items->size(); ++i) {
      if (i > 0) out.push_back(',');
      append_text(out, (*items)[i]);
    }
    out.push_back(']');
  }
  if (const Json::Object* members = value.if_object()) {
    out.push_back('{');
    for (size_t i = 0; i < members->size(); ++i) {
      if (i > 0) out.push_back(',');
      append_json_string(out, (*members)[i].first);
      out.push_back(':');
      append_text(out, (*members)[i].second);
    }
    out.push_back('}');
  }
}

}  // namespace

Json Json::parse(std::string_view text, const std::string& where, size_t value_limit) {
  return JsonParser(text, where, value_limit).parse_document();
}

void Json::parse_members(std::string_view text, const std::string& where, size_t value_limit,
                         const std::function<void(std::string key, Json value)>& take) {
  JsonParser(text, where, value_limit).parse_document_members(take);
}

const Json* Json::find(std::string_view key) const {
  if (const Object* members = if_object()) {
    for (const Member& member : *members)
      if (member.first == key) return &member.second;
  }
  return nullptr;
}

const char* Json::type_name() const {
  constexpr const char* kNames[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
  return kNames[value_.index()];
}

std::string Json::to_text() const {
  std::string out;
  append_text(out, *this);
  return out;
}

bool is_valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80) continue;
    const int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4 || text.size() - i < static_cast<size_t>(more)) return false;
    uint32_t code = lead & (0x3f >> more);
    for (int k = 0; k < more; ++k) {
      const auto next = static_cast<unsigned char>(text[i++]);
      if ((next & 0xc0) != 0x80) return false;
      code = code << 6 | (next & 0x3f);
    }
    constexpr uint32_t kSmallest[] = {0, 0x80, 0x800, 0x10000};
    if (code < kSmallest[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
  }
  return true;
}

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
    return;
  }
  if (code < 0x800) {
    out.push_back(static_cast<char>(0xc0 | code >> 6));
  } else {
    if (code < 0x10000) {
      out.push_back(static_cast<char>(0xe0 | code >> 12));
    } else {
      out.push_back(static_cast<char>(0xf0 | code >> 18));
      out.push_back(static_cast<char>(0x80 | (code >> 12 & 0x3f)));
    }
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3f)));
  }
  out.push_back(static_cast<char>(0x80 | (code & 0x3f)));
}

void append_json_string(std::string& out, std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  out.push_back('"');
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (byte < 0x20) {
      out += "\\u00";
      out.push_back(kHex[byte >> 4]);
      out.push_back(kHex[byte & 15]);
    } else {
      out.push_back(c);
    }
  }
  out.push_back('"');
}

std::string quoted(std::string_view name) {
  constexpr size_t kLongest = 120;
  std::string text;
  if (!is_valid_utf8(name)) return "(a name that is not UTF-8)";
  size_t length = std::min(name.size(), kLongest);
  while (length < name.size() && (static_cast<unsigned char>(name[length]) & 0xc0) == 0x80) --length;
  append_json_string(text, name.substr(0, length));
  if (length < name.size()) text.insert(text.size() - 1, "…");
  return text;
}

std::string number_to_text(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  for (int digits = 15;; ++digits) {
    std::ostringstream writer;
    writer.imbue(std::locale::classic());
    writer.precision(digits);
    writer << value;
    std::string text = writer.str();
    std::istringstream reader(text);
    reader.imbue(std::locale::classic());
    double back = 0;
    reader >> back;
    if (back == value || digits == 17) return text;
  }
}

}  // namespace allmrec::io
