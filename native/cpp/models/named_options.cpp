#include "named_options.h"

#include <cmath>
#include <sstream>

#include "../core/error.h"

namespace allmrec {

NamedOptions& NamedOptions::set(const std::string& name, Value value) {
  values_[name] = std::move(value);
  return *this;
}

void NamedOptions::fail(const std::string& name, const std::string& expected) const {
  std::ostringstream got;
  const auto found = values_.find(name);
  if (found == values_.end())
    got << "`undefined`";
  else if (const auto* number = std::get_if<double>(&found->second))
    got << '`' << *number << '`';
  else
    got << '`' << std::get<std::string>(found->second) << "` (string)";
  throw Error(ErrorCode::invalid_argument,
              "Expected `" + title_ + "." + name + "` to be " + expected + ", got " + got.str() + ".");
}

double NamedOptions::value_of(const std::string& name, const std::string& expected) const {
  const auto found = values_.find(name);
  const auto* number = found == values_.end() ? nullptr : std::get_if<double>(&found->second);
  if (number == nullptr) fail(name, expected);
  return *number;
}

int64_t NamedOptions::integer(const std::string& name, int64_t least, int64_t most) const {
  const std::string expected = "an integer from " + std::to_string(least) + " to " + std::to_string(most);
  const double value = value_of(name, expected);
  if (!(value >= static_cast<double>(least) && value <= static_cast<double>(most)) ||
      std::floor(value) != value)
    fail(name, expected);
  return static_cast<int64_t>(value);
}

int NamedOptions::size(const std::string& name, int64_t least, int64_t most) const {
  return static_cast<int>(integer(name, least, most));
}

float NamedOptions::number(const std::string& name, double least, double most) const {
  std::ostringstream expected;
  expected << "a number from " << least << " to " << most;
  const double value = value_of(name, expected.str());
  if (!(value >= least && value <= most)) fail(name, expected.str());
  return static_cast<float>(value);
}

float NamedOptions::number_or(const std::string& name, float otherwise, double least, double most) const {
  return has(name) ? number(name, least, most) : otherwise;
}

size_t NamedOptions::choice(const std::string& name, const std::vector<std::string>& choices) const {
  std::string expected = "one of ";
  for (size_t i = 0; i < choices.size(); ++i) expected += (i ? ", " : "") + choices[i];
  const auto found = values_.find(name);
  const auto* word = found == values_.end() ? nullptr : std::get_if<std::string>(&found->second);
  for (size_t i = 0; word && i < choices.size(); ++i)
    if (*word == choices[i]) return i;
  fail(name, expected);
}

}  // namespace allmrec
