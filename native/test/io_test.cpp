// Readers and writers of checkpoint files. Usage: io_test [fixtures folder], or ALLMREC_FIXTURES.

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "../cpp/core/error.h"
#include "../cpp/io/float_bits.h"
#include "../cpp/io/json.h"
#include "../cpp/io/safetensors.h"
#include "../cpp/io/tensor_file.h"
#include "check.h"
#include "io_test_files.h"
#include "io_test_support.h"

using namespace allmrec;
using namespace allmrec::io;
using namespace allmrec::test;
namespace fs = std::filesystem;

namespace {

void test_json() {
  const Json value = Json::parse(
      " {\"a\": [1, -9223372036854775808, 2.5e-3, true, null], \"b\\u00e9\\ud83d\\ude00\\n\": \"x\"} ", "t");
  CHECK(value.to_text() ==
        "{\"a\":[1,-9223372036854775808,0.0025,true,null],\"b\xc3\xa9\xf0\x9f\x98\x80\\u000a\":\"x\"}");
  CHECK(*value.find("a")->if_array()->front().if_int() == 1);
  CHECK(Json::parse("18446744073709551616", "t").if_double() != nullptr);
  CHECK(Json(0.1).to_text() == "0.1" && Json(1.0 / 3).to_text() == "0.3333333333333333");
  for (const char* bad : {"",
                          "{",
                          "[1,]",
                          "{\"a\":1,}",
                          "01",
                          "1.",
                          "-",
                          "+1",
                          ".5",
                          "1e",
                          "1e999",
                          "nul",
                          "'a'",
                          "\"a",
                          "\"\\x\"",
                          "\"\\ud800\"",
                          "\"\\ud800\\u0041\"",
                          "\"\\udc00\"",
                          "\"\\u12g4\"",
                          "\"\n\"",
                          "\"\xff\"",
                          "\"\xc0\x80\"",
                          "\"\xed\xa0\x80\"",
                          "{\"a\":1,\"a\":2}",
                          "{1:2}",
                          "[1 2]",
                          "1 1",
                          "NaN",
                          "[1]x"}) {
    CHECK_WHAT(!message_of([&] { Json::parse(bad, "t"); }).empty(), std::string("refuses ") + bad);
  }
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(Json::parse(nested(64), "t").if_array() != nullptr);
  CHECK_THROWS(Json::parse(nested(65), "t"), "deeper than 64");
  CHECK_THROWS(Json::parse(std::string(1000000, '['), "t"), "deeper than 64");
  CHECK_THROWS(Json::parse("[0,0,0,0]", "t", 4), "more than 4 values");
}

// Every half, against its definition; and each way back, with the points halfway to its neighbour.
void test_float_conversions() {
  long wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
    const float value = float_from_half(half);
    if (exponent == 31 && fraction != 0) {
      wrong += !std::isnan(value) || !std::isnan(float_from_half(half_from_float(value)));
      continue;
    }
    const double expected = exponent == 31  ? sign * INFINITY
                            : exponent == 0 ? sign * std::ldexp(fraction, -24)
                                            : sign * std::ldexp(1024 + fraction, exponent - 25);
    wrong += static_cast<double>(value) != expected || std::signbit(value) != (sign < 0);
    wrong += half_from_float(value) != half;
    if (exponent == 31) continue;
    const double up = exponent == 30 && fraction == 1023 ? sign * 65536.0
                                                         : float_from_half(static_cast<uint16_t>(bits + 1));
    const auto middle = static_cast<float>((expected + up) / 2);
    wrong += half_from_float(middle) != half + (half & 1);
    wrong += half_from_float(std::nextafter(middle, value)) != half;
    wrong += half_from_float(std::nextafter(middle, static_cast<float>(up))) != half + 1;
  }
  CHECK_WHAT(wrong == 0, std::to_string(wrong) + " conversions of halfs are wrong");

  wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto brain = static_cast<uint16_t>(bits);
    const float value = float_from_bfloat16(brain);
    if (std::isnan(value)) {
      wrong += !std::isnan(float_from_bfloat16(bfloat16_from_float(value)));
      continue;
    }
    wrong += bits_of_float(value) != bits << 16 || bfloat16_from_float(value) != brain;
    if (std::isinf(value)) continue;
    wrong += bfloat16_from_float(float_from_bits(bits << 16 | 0x7fff)) != brain;
    wrong += bfloat16_from_float(float_from_bits(bits << 16 | 0x8000)) != brain + (brain & 1);
    wrong += bfloat16_from_float(float_from_bits(bits << 16 | 0x8001)) != brain + 1;
  }
  CHECK_WHAT(wrong == 0, std::to_string(wrong) + " conversions of bfloat16 are wrong");
  CHECK(std::isnan(float_from_bfloat16(bfloat16_from_float(float_from_bits(0x7f800001)))));
  CHECK(half_from_float(float_from_bits(0x7f800001)) == 0x7e00);
}

void test_safetensors_round_trip(const fs::path& folder) {
  const Samples samples;
  std::vector<TensorToWrite> tensors = samples.all();
  const std::string path = (folder / "round.safetensors").string();
  write_safetensors(path, tensors, {{"format", "pt"}, {"a", "\xc3\xa9"}});
  const std::string bytes = read_whole(path);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  CHECK(header % 8 == 0);
  std::reverse(tensors.begin(), tensors.end());
  write_safetensors(path, tensors, {{"a", "\xc3\xa9"}, {"format", "pt"}});
  CHECK(read_whole(path) == bytes);
  CHECK(std::distance(fs::directory_iterator(folder), fs::directory_iterator()) == 1);  // no temporary left

  const auto file = TensorFile::open(path);
  CHECK(std::string(file->format()) == "safetensors" && file->tensors().size() == tensors.size());
  CHECK(file->metadata().at("format") == "pt" && file->metadata().at("a") == "\xc3\xa9");
  for (const TensorToWrite& written : tensors) {
    const TensorInfo& read = file->require(written.name);
    CHECK(read.dtype == written.dtype && read.shape == written.shape);
    CHECK(read.offset % dtype_size(read.dtype) == 0);
  }
  CHECK(floats(*file, "f32") == samples.f32);
  CHECK((floats(*file, "f16") == std::vector<float>{1, -0.0f, 65504, INFINITY, 5.9604645e-8f, 0.099975586f}));
  CHECK((floats(*file, "bf16") == std::vector<float>{1, -0.0f, 65536, 65536, 5.9604645e-8f, 0.10009765625f}));
  CHECK((floats(*file, "f64") == std::vector<float>{0.1f, -INFINITY}));
  CHECK((floats(*file, "i32") == std::vector<float>{-7, 16777216}));
  CHECK((floats(*file, "i16") == std::vector<float>{-32768}));
  CHECK((floats(*file, "u8") == std::vector<float>{255}));
  CHECK((floats(*file, "flags") == std::vector<float>{1, 0, 1}));
  CHECK((integers(*file, "i64") == std::vector<int64_t>{INT64_MIN, 5}));
  CHECK((integers(*file, "i32") == std::vector<int64_t>{-7, 16777217}));
  CHECK((integers(*file, "i8") == std::vector<int64_t>{-128, 127, 3}));
  CHECK((integers(*file, "flags") == std::vector<int64_t>{1, 0, 1}));
  CHECK_THROWS(integers(*file, "f16"), "expected an integer tensor \"f16\", found dtype F16");
  float two[2];
  file->read_f32(file->require("f32"), 4, 2, two);
  CHECK(two[1] == 0.1f);
  CHECK_THROWS(file->read_f32(file->require("f32"), 5, 2, two), "expected a range");
  CHECK(file->find("absent") == nullptr);
  CHECK_THROWS(file->require("absent"), "expected a tensor \"absent\"");

  // The open file keeps its bytes when a new one takes the name; a failing write leaves the old file.
  write_safetensors(path, {{"only", FileDType::F32, {1}, samples.f32.data()}});
  CHECK(floats(*file, "f32") == samples.f32);
  CHECK_THROWS(write_safetensors(path, {{"a", FileDType::U8, {1}, nullptr}}), "has no data");
  CHECK_THROWS(write_safetensors(path, {tensors[0], tensors[0]}), "unique tensor names");
  CHECK_THROWS(write_safetensors((folder / "absent" / "x").string(), tensors), "No such file");
  CHECK(TensorFile::open(path)->tensors().size() == 1);

  // A full disk, played by a limit on the size of files.
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small = {1000, before.rlim_max};
  std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::vector<float> large(1000000, 1.0f);
  const std::string refusal = message_of([&] {
    write_safetensors(path, {{"a", FileDType::F32, {1000000}, large.data()}});
  });
  ::setrlimit(RLIMIT_FSIZE, &before);
  CHECK_WHAT(refusal.find("cannot write the file") != std::string::npos,
             "a full disk gave \"" + refusal + "\"");
  CHECK(TensorFile::open(path)->tensors().size() == 1);
  CHECK(std::distance(fs::directory_iterator(folder), fs::directory_iterator()) == 1);
}

void test_hostile_safetensors() {
  const std::string w = "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}", four(4, 'x');
  CHECK(parse(with_header("{\"w\":" + w + "}", four))->tensors().size() == 1);
  CHECK(parse(with_header("{}"))->tensors().empty());
  // Legal though unaligned, as early writers left it: the header is 57 bytes long.
  const auto unaligned = parse(with_header("{\"w\":" + w + "}", raw(2.5f)));
  CHECK(floats(*unaligned, "w") == std::vector<float>{2.5f});
  const auto entry = [](const char* dtype, const char* shape, const char* offsets) {
    return std::string("{\"w\":{\"dtype\":\"") + dtype + "\",\"shape\":" + shape +
           ",\"data_offsets\":" + offsets + "}}";
  };
  const struct {
    std::string header, expected;
  } cases[] = {
      {"{\"w\":" + w + ",\"w\":" + w + "}", "repeated"},
      {"{\"w\":" + w + ",\"v\":" + w + "}", "expected its data at offset 4"},
      {"{}", "expected 0 bytes of data after the header, found 4"},
      {"{\"w\":4}", "expected an object"},
      {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}", "expected the key \"data_offsets\""},
      {entry("F99", "[1]", "[0,4]"), "found \"F99\""},
      {entry("F32", "[-1]", "[0,4]"), "integers of 0 or more"},
      {entry("F32", "[1.0]", "[0,4]"), "integers of 0 or more"},
      {entry("F32", "1", "[0,4]"), "to be an array"},
      {entry("F32", "[1]", "[0]"), "two data_offsets"},
      {entry("F32", "[2]", "[0,4]"), "8 bytes apart"},
      {entry("F32", "[1]", "[4,0]"), "4 bytes apart"},
      {entry("F32", "[2]", "[0,8]"), "of 4, found offsets 0 to 8"},
      {entry("U8", "[3]", "[1,4]"), "at offset 0"},
      {entry("F32", "[4611686018427387904,4]", "[0,0]"), "overflows"},
      {entry("F32", "[0,4611686018427387904,4]", "[0,0]"), "overflows"},
      {entry("F32", "[4611686018427387904]", "[0,0]"), "overflows"},
      {entry("U8", "[9223372036854775807]", "[0,9223372036854775807]"), "of 4, found offsets"},
      {"{\"__metadata__\":{\"a\":1},\"w\":" + w + "}", "expected \"a\" to be a string"},
      {"{\"__metadata__\":[],\"w\":" + w + "}", "expected an object"},
      {"{\"w\":" + w, "',' or '}'"},
      {"{\"w\":" + std::string(100, '['), "deeper than 64"},
      {"{\"w\":[" + std::string(100, '0') + "]}", "leading zero"},
  };
  for (const auto& hostile : cases) CHECK_THROWS(parse(with_header(hostile.header, four)), hostile.expected);
  std::string lengths = with_header("{\"w\":" + w + "}", four);
  for (const uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{62}, uint64_t{1} << 40, UINT64_MAX}) {
    std::memcpy(&lengths[0], &length, 8);
    CHECK_WHAT(!message_of([&] { parse(lengths); }).empty(), "a header length of " + std::to_string(length));
  }
}

void check_torch_state(const TensorFile& file) {
  const std::vector<float> whole = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  CHECK(floats(file, "whole") == whole);
  CHECK((floats(file, "transposed") == std::vector<float>{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}));
  CHECK((file.require("transposed").shape == std::vector<int64_t>{4, 3}));
  CHECK((floats(file, "part") == std::vector<float>{5, 6, 9, 10}));
  CHECK((floats(file, "row") == std::vector<float>{8, 9, 10, 11}));
  CHECK((floats(file, "repeated") == std::vector<float>{1, 1, 1, 1, 1, 1}));
  CHECK((floats(file, "half") == std::vector<float>{1.5f, -2, 65504}));
  CHECK((floats(file, "brain") == std::vector<float>{1.5f, -3}));
  CHECK((floats(file, "double") == std::vector<float>{0.1f}));
  CHECK((integers(file, "long") == std::vector<int64_t>{-5, int64_t{1} << 40}));
  CHECK((integers(file, "short") == std::vector<int64_t>{-3}));
  CHECK((integers(file, "byte") == std::vector<int64_t>{255, 7}));
  CHECK((integers(file, "flag") == std::vector<int64_t>{1, 0}));
  CHECK(integers(file, "scalar") == std::vector<int64_t>{7} && file.require("scalar").shape.empty());
  CHECK(file.require("empty").bytes == 0 && file.require("empty").shape.size() == 2);
  CHECK((floats(file, "parameter") == std::vector<float>{4}));
  CHECK(file.require("tied").offset == file.require("whole").offset);
  CHECK(file.tensors().size() == 16);
}

void test_torch_files() {
  const auto zipped = parse(from_base64(kZipFile));
  CHECK(std::string(zipped->format()) == "torch zip");
  check_torch_state(*zipped);
  const std::map<std::string, std::string> expected = {
      {"user_num", "3"},   {"args.lr", "0.001"}, {"args.device", "cpu"},     {"args.layers", "[2,null]"},
      {"args.on", "true"}, {"score", "0.25"},    {"dtype", "torch.float16"}, {"where", "cuda:1"}};
  CHECK(zipped->metadata() == expected);

  const auto legacy = parse(from_base64(kLegacyFile));
  CHECK(std::string(legacy->format()) == "torch legacy");
  check_torch_state(*legacy);
  CHECK((legacy->metadata() == std::map<std::string, std::string>{{"epoch", "3"}}));

  const auto newer = parse(from_base64(kProtocol4File));  // two containers of tensors, so both are named
  CHECK((floats(*newer, "model.w") == std::vector<float>{0, 4, 1, 5}));
  CHECK((integers(*newer, "model.b") == std::vector<int64_t>{1, 2}));
  CHECK((floats(*newer, "other.m") == std::vector<float>{0.5f}) && newer->tensors().size() == 3);
  CHECK_THROWS(parse(from_base64(kModuleFile)), "\"torch.nn.modules.linear.Linear\"");
  CHECK_THROWS(parse(from_base64(kModuleFile)), "save model.state_dict()");
}

void test_built_pickles() {
  for (const bool zip64 : {false, true}) {
    const auto file = parse(checkpoint(named(tensor({3, 4}, {4, 1})), zip64));
    CHECK(floats(*file, "w")[11] == 11);
  }
  const std::string one = tensor({1}, {1});
  CHECK(parse(checkpoint(one))->require("tensor").shape.size() == 1);
  CHECK(parse(checkpoint("]" + one + "a" + one + "a"))->require("1").shape.size() == 1);
  CHECK(parse(checkpoint("}K\x05" + named(one) + "sK\x06" + one + "s"))->require("5.w").bytes == 4);
  CHECK(parse(checkpoint(named(tensor({1}, {-9}, 11))))->tensors().size() == 1);  // no step is ever taken
  CHECK(parse(checkpoint(named(tensor({3, 0}, {1, 1}, 99))))->require("w").bytes == 0);
  const std::string pairs =
      "ccollections\nOrderedDict\n(](" + text("w") + one + "tatR";  // as Python 2 wrote it
  CHECK(parse(checkpoint(pairs))->require("w").bytes == 4);
}

void test_hostile_pickles() {
  const std::string one = tensor({1}, {1});
  const auto deep = [&](int depth) {
    std::string body = one;
    for (int i = 0; i < depth; ++i) body = named(body);
    return body;
  };
  // Each list holds the one before it twice: 2^60 paths to one tensor.
  std::string laughs = "]" + one + "aq\x01";
  for (char i = 1; i <= 60; ++i)
    laughs += std::string("0](h") + i + "h" + i + "eq" + static_cast<char>(i + 1);
  std::string copies =
      "NN\x86q\x03"
      "0](";
  for (int i = 0; i < 100000; ++i) copies += "h\x03";
  copies +=
      "eq\x01"
      "0ccollections\nOrderedDict\nq\x02";
  for (int i = 0; i < 400; ++i) copies += "0h\x02h\x01\x85R";
  std::string states = "}q\x01(" + std::string(100000, 'N') + "u0cargparse\nNamespace\n)\x81";
  for (int i = 0; i < 400; ++i) states += "h\x01" + std::string("b");
  const int64_t huge = int64_t{1} << 62;
  const struct {
    std::string body, expected;
  } cases[] = {
      {"cposix\nsystem\n(" + text("touch /tmp/allmrec_executed") + "tR", "\"posix.system\""},
      {text("posix") + text("system") + "\x93", "\"posix.system\""},
      {"cbuiltins\neval\n(" + text("1") + "tR", "\"builtins.eval\""},
      {"ctorch\nComplexFloatStorage\n", "\"torch.ComplexFloatStorage\""},
      {"ctorch.storage\n_load_from_bytes\n", "_load_from_bytes"},
      {"(i" + std::string("os\nsystem\n"), "opcode 0x69"},
      {"(" + text("a") + "o", "opcode 0x6f"},
      {"P0\n", "opcode 0x50"},
      {"\x82\x01", "opcode 0x82"},
      {"", "found none"},
      {"NN", "found more"},
      {"(", "found none"},
      {"a", "found none"},
      {"t", "expected a mark"},
      {"h\x07", "refers to object 7"},
      {"N(NNu", "expected a dict"},
      {"}(Nu", "odd number"},
      {"NNa", "expected a list"},
      {"NNR", "expected a global"},
      {"ccollections\nOrderedDict\nNR", "expected a global"},
      {"ccollections\nOrderedDict\n(NtR", "arguments of collections.OrderedDict"},
      {"cargparse\nNamespace\n(NtR", "arguments of argparse.Namespace"},
      {"NNb", "expected the state"},
      {"NQ", "persistent id"},
      {std::string("\x95\xff\xff\xff\xff\xff\xff\xff\x7f", 9), "expected a frame"},
      {"X\xff\xff\xff\xff", "truncated"},
      {std::string("\x8d\0\0\0\0\0\0\0\x80", 9), "truncated"},
      {"X" + raw(2) + "\xc3(", "UTF-8"},
      {"c" + std::string(300, 'a'), "within 256"},
      {named(tensor({13}, {1})), "reaches element 12"},
      {named(tensor({2}, {1}, 11)), "reaches element 12"},
      {named(tensor({2}, {-1}, 5)), "stride of -1"},
      {named(tensor({2}, {huge}, 0)), "reaches element"},
      {named(tensor({3, 3}, {huge, huge}, 0)), "out of range"},
      {named(tensor({1}, {1}, INT64_MAX)), "reaches element"},
      {named(tensor({1}, {1}, -1)), "arguments of torch._utils._rebuild_tensor_v2"},
      {named(tensor({1}, {1}).replace(tensor({1}, {1}).size() - 2, 2, "]}" + text("neg") + "\x88stR")),
       "a list, a dict)"},
      {named(tensor({1}, {1, 1})), "arguments of torch._utils._rebuild_tensor_v2"},
      {named(tensor({-1}, {1})), "0 or more"},
      {named(tensor({huge, 4}, {0, 0})), "overflows"},
      {named(tensor({0, huge, 4}, {0, 0, 0})), "overflows"},
      {named(tensor({int64_t{1} << 40}, {0})), "out of proportion"},
      {named(tensor(std::vector<int64_t>(65, 1), std::vector<int64_t>(65, 1))), "64 dimensions"},
      {named(tensor({1}, {1}, 0, 13)), "expected 13 elements"},
      {named(tensor({1}, {1}, 0, 7, "DoubleStorage")), "expected 7 elements"},
      {named(tensor({1}, {1}, 0, INT64_MAX)), "elements from 0"},
      {named(tensor({1}, {1}, 0, -1)), "persistent id"},
      {named(tensor({1}, {1}, 0, 12, "FloatStorage", "9")), "data of storage \"9\""},
      {"}" + text("w") + one + "s" + text("w") + one + "s", "two tensors are named \"w\""},
      {"]q\x01h\x01" + one + "\x86" + "a", "contains itself"},
      {deep(70), "deeper than 64"},
      {std::string(100000, ']') + std::string(99999, 'a'), "deeper than 64"},
      {std::string(1000000, ']') + std::string(999999, 'a'), "too many objects"},
      {laughs, "names and values in the checkpoint are too long"},
      {copies, "refers to its own objects too often"},
      {states, "refers to its own objects too often"},
      {std::string(5000000, '('), "too many marks"},
      {std::string(5000000, 'N'), "too many objects on the pickle's stack"},
      {"N" + std::string(5000000, '\x94'), "too many objects in the pickle's memo"},
  };
  for (const auto& hostile : cases) {
    const std::string found = message_of([&] { parse(checkpoint(hostile.body)); });
    CHECK_WHAT(found.find(hostile.expected) != std::string::npos,
               "expected \"" + hostile.expected + "\", got \"" + found + "\"");
  }
  CHECK(!fs::exists("/tmp/allmrec_executed"));
  touch(*parse(checkpoint(deep(40))));
}

void test_other_files(const fs::path& folder) {
  CHECK_THROWS(TensorFile::open((folder / "absent").string()), "No such file");
  CHECK_THROWS(TensorFile::open(folder.string()), "found a folder");
  const fs::path pipe = folder / "pipe";
  if (::mkfifo(pipe.c_str(), 0600) == 0) CHECK_THROWS(TensorFile::open(pipe.string()), "a device or pipe");
  write_whole(folder / "empty", "");
  CHECK_THROWS(TensorFile::open((folder / "empty").string()), "a file of 0 bytes");
  CHECK_THROWS(parse("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull");
  CHECK_THROWS(parse("\x80\x04]."), "expected torch's magic number, found a pickle of a list");
  CHECK_THROWS(parse("\x80\x04\x95garbage and more garbage"), "expected a frame");
  CHECK_THROWS(parse(zip({{"a.txt", "hello"}})), "without a data.pkl");
  CHECK_THROWS(parse(zip({{"x/data.pkl", ""}, {"y/data.pkl", ""}})), "found more");
  CHECK_THROWS(parse(zip({{"x/data.pkl", ""}, {"x/data.pkl", ""}})), "two records are named");
  CHECK_THROWS(parse(zip({{"x/data.pkl", ""}, {"x/constants.pkl", ""}})), "TorchScript");
  CHECK_THROWS(parse(zip({{"x/data.pkl", ""}, {"x/byteorder", "big"}})), "byte order \"big\"");
  std::string compressed = zip({{"x/data.pkl", "abc"}});
  compressed[compressed.find("PK\x01\x02") + 10] = 8;
  CHECK_THROWS(parse(compressed), "expected a stored record");
  try {
    TensorFile::open((folder / "absent").string());
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::file_not_found);
  }
}

// What another process does to a file that is open here.
void test_changing_files(const fs::path& folder) {
  const Samples samples;
  const std::string path = (folder / "changing.safetensors").string();
  const std::vector<float> large(100000, 0.5f);
  write_safetensors(path, {{"w", FileDType::F32, {100000}, large.data()}});
  const auto file = TensorFile::open(path);
  const uintmax_t size = fs::file_size(path);
  fs::resize_file(path, size + 1000);
  CHECK(floats(*file, "w") == large);
  for (const uintmax_t left : {size - 1, size / 2, uintmax_t{100}, uintmax_t{0}}) {
    fs::resize_file(path, left);
    const std::string said = message_of([&] { floats(*file, "w"); });
    CHECK_WHAT(said.find(path + ": the file became shorter while it was read") == 0,
               "a file cut to " + std::to_string(left) + " bytes gave \"" + said + "\"");
  }
  fs::remove(path);
}

// Every tensor of one file is in the other under `prefix`, shape and bits alike, and none is left over there.
void check_same(const fs::path& path, const fs::path& reference_path, const std::string& prefix, bool half) {
  const auto checkpoint = TensorFile::open(path.string());
  const auto reference = TensorFile::open(reference_path.string());
  size_t expected = 0, same = 0;
  for (const TensorInfo& tensor : reference->tensors()) {
    if (tensor.name.compare(0, prefix.size(), prefix) != 0) continue;
    ++expected;
    const TensorInfo* found = checkpoint->find(tensor.name.substr(prefix.size()));
    CHECK_WHAT(found != nullptr, path.string() + " lacks " + tensor.name);
    if (found == nullptr) continue;
    std::vector<float> values = floats(*reference, tensor);
    if (half)
      for (float& value : values) value = float_from_half(half_from_float(value));
    const bool equal = found->shape == tensor.shape &&
                       found->dtype == (half ? FileDType::F16 : tensor.dtype) &&
                       floats(*checkpoint, *found) == values;
    CHECK_WHAT(equal, path.string() + ": " + tensor.name);
    same += equal;
  }
  for (const TensorInfo& tensor : checkpoint->tensors()) {
    if (tensor.name != "lm_head.weight")  // tied, so model.safetensors leaves it out
      CHECK_WHAT(reference->find(prefix + tensor.name) != nullptr, path.string() + " has " + tensor.name);
  }
  CHECK_WHAT(same > 0 && same == expected, path.string() + " has the tensors of " + reference_path.string());
  std::printf("  %s: %zu tensors equal\n", path.c_str(), same);
}

void test_fixtures(const fs::path& folder) {
  size_t compared = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const fs::path& path = entry.path();
    const std::string name = path.string(), extension = path.extension().string();
    const auto mentions = [&](const char* part) { return name.find(part) != std::string::npos; };
    if (extension == ".safetensors") touch(*TensorFile::open(name));
    if (extension != ".bin" && extension != ".pt" && extension != ".pth") continue;
    ++compared;
    const char* prefix = mentions("opt350m_like")   ? "model."
                         : mentions("item_proj.pt") ? "item_emb_proj."
                         : mentions("log_proj.pt")  ? "log_emb_proj."
                                                    : "";
    check_same(path, path.parent_path() / "model.safetensors", prefix, mentions("fp16"));
    if (!mentions("sasrec_official")) continue;
    const auto metadata = TensorFile::open(name)->metadata();
    for (const auto& [key, text] : metadata) std::printf("    %s = %s\n", key.c_str(), text.c_str());
    CHECK(metadata.at("item_num") == "60" && metadata.at("args.hidden_units") == "50");
    CHECK(metadata.at("args.norm_first") == "false" && metadata.at("args.state_dict_path") == "null");
  }
  CHECK_WHAT(compared > 0, "checkpoints in " + folder.string());
}

}  // namespace

int main(int argc, char** argv) {
  const fs::path folder = fs::temp_directory_path() / ("allmrec_io_test_" + std::to_string(::getpid()));
  fs::create_directory(folder);
  test_json();
  test_float_conversions();
  test_safetensors_round_trip(folder);
  test_hostile_safetensors();
  test_torch_files();
  test_built_pickles();
  test_hostile_pickles();
  test_other_files(folder);
  test_changing_files(folder);
  fs::remove_all(folder);

  const Samples samples;
  write_safetensors(folder.string() + ".safetensors", samples.all(), {{"format", "pt"}});
  test_damaged("safetensors", read_whole(folder.string() + ".safetensors"));
  fs::remove(folder.string() + ".safetensors");
  test_damaged("torch zip", from_base64(kZipFile));
  test_damaged("torch legacy", from_base64(kLegacyFile));
  test_damaged("torch zip, protocol 4", from_base64(kProtocol4File));
  test_damaged("zip64", checkpoint(named(tensor({4, 3}, {1, 4})), true));

  const char* fixtures = argc > 1 ? argv[1] : std::getenv("ALLMREC_FIXTURES");
  if (fixtures != nullptr && fs::is_directory(fixtures))
    test_fixtures(fixtures);
  else
    skip("no folder of fixtures given; the comparison with PyTorch's own files did not run");
  return report();
}
