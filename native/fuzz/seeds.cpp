// The inputs fuzzing begins with: tiny good files of every kind, and hostile ones.

#include <map>

#include "../test/io_test_files.h"
#include "../test/io_test_support.h"
#include "targets.h"

namespace allmrec::fuzz {
namespace {

using namespace allmrec::test;
using Files = std::map<std::string, std::string>;

Files json_seeds() {
  return {{"values",
           R"({"a": [1, -9223372036854775808, 2.5e-3, true, null, false], "b\u00e9\ud83d\ude00": "x"})"},
          {"numbers", "[0, -0, 18446744073709551616, 1e308, 1e-400, 123456789.125, 1E+2]"},
          {"escapes", R"(["\"\\\/\b\f\n\r\t", "\ud83d\ude00", "é"])"},
          {"deep", std::string(64, '[') + std::string(64, ']')},
          {"too-deep", std::string(200, '[')},
          {"repeated-key", R"({"a":1,"a":2})"}};
}

Files safetensors_seeds() {
  const Samples samples;
  const fs::path path =
      fs::temp_directory_path() / ("allmrec_seed_" + std::to_string(std::random_device{}()));
  write_safetensors(path.string(), samples.all(), {{"format", "pt"}, {"a", "\xc3\xa9"}});
  const std::string good = read_whole(path);
  fs::remove(path);
  const std::string w = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", four(4, 'x');
  const auto entry = [](const std::string& shape, const std::string& offsets) {
    return R"({"w":{"dtype":"U8","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  return {{"every-dtype", good},
          {"one", with_header(w, four)},
          {"empty", with_header("{}")},
          {"shape-overflows", with_header(entry("[4611686018427387904,4]", "[0,0]"))},
          {"offsets-beyond", with_header(entry("[9223372036854775807]", "[0,9223372036854775807]"), four)},
          {"header-of-2-to-63", raw(uint64_t{1} << 63) + w},
          {"many-axes", with_header(entry("[1,1,1,1,1,1,1,1,4]", "[0,4]"), four)}};
}

std::string laughs(int depth) {
  std::string body = "]" + tensor({1}, {1}) + "aq\x01";
  for (int i = 1; i <= depth; ++i)
    body += "0](h" + std::string(1, static_cast<char>(i)) + "h" + static_cast<char>(i) + "eq" +
            static_cast<char>(i + 1);
  return body;
}

// What checkpoints hold, and what they might.
Files pickle_bodies() {
  const std::string strided = tensor({2, 2}, {1, 2}), one = tensor({1}, {1});
  return {{"named", named(tensor({3, 4}, {4, 1}))},
          {"strided", named(strided)},
          {"stretched", named(tensor({5, 5}, {0, 0}))},
          {"list", "]" + one + "a" + one + "a"},
          {"integer-keys", "}K\x05" + named(one) + "sK\x06" + one + "s"},
          {"ordered-pairs", "ccollections\nOrderedDict\n(](" + text("w") + one + "tatR"},
          {"namespace", "}" + text("args") + "cargparse\nNamespace\n)\x81}" + text("lr") + "G" +
                            std::string(8, '\x3f') + "sbs" + text("w") + one + "s"},
          {"numpy-scalar", "}" + text("x") + "cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" + text("f8") +
                               "\x89\x88\x87R(K\x03" + text("<") + "NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK" +
                               std::string(1, '\0') + "tb" + "c_codecs\nencode\n" + text("12345678") +
                               text("latin1") + "\x86R\x86Rs" + text("w") + one + "s"},
          {"system", "cposix\nsystem\n(" + text("id") + "tR"},
          {"laughs", laughs(40)},
          {"cycle", "]q\x01h\x01" + one + "\x86" + "a"},
          {"long-text", std::string("\x8d\0\0\0\0\0\0\0\x10", 9)},
          {"overlapping-views", named(tensor({3, 3, 3}, {1, 1, 1}))}};
}

Files torch_seeds() {
  Files files = {{"zip", from_base64(kZipFile)},
                 {"legacy", from_base64(kLegacyFile)},
                 {"protocol-4", from_base64(kProtocol4File)},
                 {"whole-model", from_base64(kModuleFile)}};
  for (const auto& [name, body] : pickle_bodies()) files["built-" + name] = checkpoint(body, name == "named");
  return files;
}

Files pickle_seeds() {
  Files files;
  for (const auto& [name, body] : pickle_bodies()) files[name] = "\x80\x02" + body + ".";
  // Twelve floats are 48 bytes; a short pickle gets some to point into.
  for (auto& [name, bytes] : files)
    if (bytes.size() < 64) bytes += std::string(64, '\0');
  return files;
}

Files zip_seeds() {
  const std::vector<std::pair<std::string, std::string>> records = {{"x/data.pkl", "abc"},
                                                                    {"x/data/0", "defg"}};
  std::string compressed = zip(records), repeated = zip({{"../../x", "1"}, {"../../x", "2"}});
  compressed[compressed.find("PK\x01\x02") + 10] = 8;
  return {{"plain", zip(records)},
          {"zip64", zip(records, true)},
          {"empty", zip({})},
          {"compressed", compressed},
          {"repeated-names", repeated},
          {"with-comment", zip(records).substr(0, zip(records).size() - 2) + std::string("\x05\0hello", 7)}};
}

Files weights_seeds() {
  Files files = {{"staged", "\x01"}};
  for (int what = 0; what < 6; ++what)
    files["presence-" + std::to_string(what)] = {'\0', static_cast<char>(what)};
  for (const int dtype : {0, 1, 2, 3, 4, 9})
    files["dtype-" + std::to_string(dtype)] = {'\0', '\x80', static_cast<char>(dtype)};
  files["not-a-number"] = {'\0', '\x80', '\x80', '\x80', '\xff', '\xff'};
  return files;
}

Files token_trie_seeds() {
  return {{"two", "\x02\x05\x06\xff\x05\x07"},
          {"equal", "\x02\x05\x06\xff\x05\x06"},
          {"prefix", "\x02\x05\xff\x05\x06"}};
}

}  // namespace

void write_seeds(const std::string& folder) {
  const std::map<std::string, Files> targets = {{"json", json_seeds()},
                                                {"safetensors", safetensors_seeds()},
                                                {"torch", torch_seeds()},
                                                {"pickle", pickle_seeds()},
                                                {"zip", zip_seeds()},
                                                {"weights", weights_seeds()},
                                                {"token-trie", token_trie_seeds()}};
  for (const auto& [target, files] : targets) {
    fs::create_directories(fs::path(folder) / target);
    for (const auto& [name, bytes] : files) write_whole(fs::path(folder) / target / name, bytes);
  }
}

}  // namespace allmrec::fuzz
