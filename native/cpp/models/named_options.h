#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace allmrec {

// Numbers and words by name: how a backbone is configured by whoever knows only its kind. A value that is
// missing or does not fit throws ErrorCode::invalid_argument: Expected `config.x` to be …, got ….
class NamedOptions {
 public:
  using Value = std::variant<double, std::string>;

  // title: what messages call the whole.
  explicit NamedOptions(std::string title = "config") : title_(std::move(title)) {}
  NamedOptions(std::string title, std::map<std::string, Value> values)
      : title_(std::move(title)), values_(std::move(values)) {}

  NamedOptions& set(const std::string& name, Value value);
  bool has(const std::string& name) const { return values_.count(name) > 0; }

  int64_t integer(const std::string& name, int64_t least,
                  int64_t most = std::numeric_limits<int32_t>::max()) const;
  int size(const std::string& name, int64_t least = 1, int64_t most = int64_t{1} << 24) const;
  float number(const std::string& name, double least, double most = std::numeric_limits<float>::max()) const;
  float number_or(const std::string& name, float otherwise, double least,
                  double most = std::numeric_limits<float>::max()) const;
  // The place of a word among the choices.
  size_t choice(const std::string& name, const std::vector<std::string>& choices) const;

 private:
  [[noreturn]] void fail(const std::string& name, const std::string& expected) const;
  double value_of(const std::string& name, const std::string& expected) const;

  std::string title_;
  std::map<std::string, Value> values_;
};

}  // namespace allmrec
