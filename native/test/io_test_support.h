#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../cpp/core/error.h"
#include "../cpp/io/safetensors.h"
#include "../cpp/io/tensor_file.h"
#include "check.h"

// Builders of files for io_test.cpp, good and hostile, and what damages them.
namespace allmrec::test {

namespace fs = std::filesystem;
using namespace allmrec::io;

inline std::string from_base64(const char* text) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  int held = 0;
  for (; *text != '\0' && *text != '='; ++text) {
    bits = bits << 6 | static_cast<uint32_t>(digits.find(*text));
    held += 6;
    if (held >= 8) bytes.push_back(static_cast<char>(bits >> (held -= 8)));
  }
  return bytes;
}

inline std::shared_ptr<const TensorFile> parse(const std::string& bytes) {
  return TensorFile::from_bytes(bytes.data(), bytes.size(), "test file");
}

inline std::vector<float> floats(const TensorFile& file, const TensorInfo& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.element_count()), NAN);
  file.read_f32(tensor, values.data());
  return values;
}

inline std::vector<float> floats(const TensorFile& file, const char* name) {
  return floats(file, file.require(name));
}

inline std::vector<int64_t> integers(const TensorFile& file, const char* name) {
  const TensorInfo& tensor = file.require(name);
  std::vector<int64_t> values(static_cast<size_t>(tensor.element_count()), -77);
  file.read_i64(tensor, values.data());
  return values;
}

template <typename T>
inline std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

inline std::string with_header(const std::string& header, const std::string& data = "") {
  return raw(static_cast<uint64_t>(header.size())) + header + data;
}

inline std::string read_whole(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void write_whole(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// A stored zip file as torch lays it out, with every size in the zip64 fields if asked.
inline std::string zip(const std::vector<std::pair<std::string, std::string>>& records, bool zip64 = false) {
  std::string out, directory;
  const auto u16 = [](size_t v) { return raw(static_cast<uint16_t>(v)); };
  const auto u32 = [](size_t v) { return raw(static_cast<uint32_t>(v)); };
  const auto u64 = [](size_t v) { return raw(static_cast<uint64_t>(v)); };
  for (const auto& [name, data] : records) {
    const size_t offset = out.size();
    out += u32(0x04034b50) + std::string(22, '\0') + u16(name.size()) + u16(0) + name + data;
    std::string extra;
    if (zip64) extra = u16(1) + u16(24) + u64(data.size()) + u64(data.size()) + u64(offset);
    const size_t all_ones = 0xffffffff;
    directory += u32(0x02014b50) + std::string(16, '\0') + u32(zip64 ? all_ones : data.size()) +
                 u32(zip64 ? all_ones : data.size()) + u16(name.size()) + u16(extra.size()) +
                 std::string(10, '\0') + u32(zip64 ? all_ones : offset) + name + extra;
  }
  const size_t at = out.size(), count = records.size();
  out += directory;
  if (zip64) {
    const size_t end64 = out.size();
    out += u32(0x06064b50) + u64(44) + std::string(12, '\0') + u64(count) + u64(count) +
           u64(directory.size()) + u64(at);
    out += u32(0x07064b50) + u32(0) + u64(end64) + u32(1);
    return out + u32(0x06054b50) + u32(0) + std::string(12, '\xff') + u16(0);
  }
  return out + u32(0x06054b50) + u32(0) + u16(count) + u16(count) + u32(directory.size()) + u32(at) + u16(0);
}

// A checkpoint whose pickle is `body`, with one storage "0" of twelve floats 0 … 11.
inline std::string checkpoint(const std::string& body, bool zip64 = false) {
  std::string data;
  for (int i = 0; i < 12; ++i) data += raw(static_cast<float>(i));
  return zip({{"x/data.pkl", "\x80\x02" + body + "."}, {"x/data/0", data}}, zip64);
}

inline std::string text(const std::string& value) {
  return "X" + raw(static_cast<uint32_t>(value.size())) + value;
}
inline std::string integer(int32_t value) {
  return "J" + raw(value);
}
inline std::string big(int64_t value) {
  return "\x8a\x08" + raw(value);
}

inline std::string tuple(const std::vector<int64_t>& values) {
  std::string out = "(";
  for (const int64_t value : values) out += big(value);
  return out + "t";
}

inline std::string tensor(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                          int64_t offset = 0, int64_t count = 12, const std::string& type = "FloatStorage",
                          const std::string& key = "0") {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" + type + "\n" + text(key) +
         text("cpu") + big(count) + "tQ" + big(offset) + tuple(shape) + tuple(strides) + "\x89N" + "tR";
}

inline std::string named(const std::string& value) {
  return "}" + text("w") + value + "s";
}

// One tensor of every dtype.
struct Samples {
  std::vector<float> f32 = {1.0f, -0.0f, 65519.996f, 65520.0f, 5.9604645e-8f, 0.1f};
  std::vector<double> f64 = {0.1, -1e300};
  std::vector<int64_t> i64 = {INT64_MIN, 5};
  std::vector<int32_t> i32 = {-7, 16777217};
  std::vector<int16_t> i16 = {-32768};
  std::vector<int8_t> i8 = {-128, 127, 3};
  std::vector<uint8_t> u8 = {255}, flags = {1, 0, 1};

  std::vector<TensorToWrite> all() const {
    return {{"flags", FileDType::BOOL, {3}, flags.data()},
            {"u8", FileDType::U8, {1, 1}, u8.data()},
            {"i8", FileDType::I8, {3}, i8.data()},
            {"i16", FileDType::I16, {}, i16.data()},
            {"f16", FileDType::F16, {2, 3}, f32.data()},
            {"bf16", FileDType::BF16, {3, 2}, f32.data()},
            {"f32", FileDType::F32, {6}, f32.data()},
            {"i32", FileDType::I32, {2}, i32.data()},
            {"i64", FileDType::I64, {2}, i64.data()},
            {"f64", FileDType::F64, {2}, f64.data()},
            {"none \"\n\xc3\xa9", FileDType::F32, {0, 5}, nullptr}};
  }
};

// Reads everything a file gives, so that a sanitizer sees every byte it claims to have.
inline void touch(const TensorFile& file) {
  for (const TensorInfo& tensor : file.tensors()) {
    if (file.find(tensor.name) != &tensor) throw std::logic_error("a tensor is not found by its name");
    floats(file, tensor);
  }
}

enum class Outcome { read, refused, broken };

inline Outcome try_reading(const std::string& bytes) {
  try {
    touch(*parse(bytes));
    return Outcome::read;
  } catch (const Error&) {
    return Outcome::refused;
  } catch (const std::exception& error) {
    std::printf("not an allmrec::Error: %s\n", error.what());
    return Outcome::broken;
  }
}

inline void test_damaged(const std::string& name, const std::string& good) {
  CHECK_WHAT(try_reading(good) == Outcome::read, name + " is read when whole");
  long accepted = 0, broken = 0;
  for (size_t length = 0; length < good.size(); ++length) {
    const Outcome outcome = try_reading(good.substr(0, length));
    accepted += outcome == Outcome::read;
    broken += outcome == Outcome::broken;
  }
  CHECK_WHAT(broken == 0 && accepted == 0,
             name + " truncated: " + std::to_string(accepted) + " lengths accepted");

  std::string bytes = good;
  for (size_t at = 0; at < good.size(); ++at) {
    for (const unsigned mask : {0x01u, 0x02u, 0x08u, 0x20u, 0x80u, 0xffu}) {
      bytes[at] = static_cast<char>(static_cast<unsigned char>(good[at]) ^ mask);
      broken += try_reading(bytes) == Outcome::broken;
    }
    bytes[at] = good[at];
  }
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    bytes = good;
    for (auto edits = 1 + random() % 6; edits > 0; --edits) {
      const size_t at = random() % bytes.size(), other = random() % bytes.size();
      if (random() % 3 == 0)
        bytes[at] = bytes[other];
      else if (random() % 8 == 0)
        bytes.erase(at, 1 + random() % 8);
      else
        bytes[at] = static_cast<char>(random());
      if (bytes.empty()) bytes = good;
    }
    broken += try_reading(bytes) == Outcome::broken;
  }
  CHECK_WHAT(broken == 0,
             name + " damaged: " + std::to_string(broken) + " times something else than an Error");
}

}  // namespace allmrec::test
