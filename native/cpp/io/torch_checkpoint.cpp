#include "torch_checkpoint.h"

#include <algorithm>
#include <unordered_map>

#include "../core/error.h"
#include "byte_reader.h"
#include "json.h"
#include "pickle.h"
#include "pickle_globals.h"
#include "torch_object_graph.h"
#include "zip_archive.h"

namespace allmrec::io {

namespace {

using Kind = PickleValue::Kind;

// The record torch.save writes as "<name of the file>/data.pkl"; gives the part before "data.pkl".
std::string find_prefix(const ZipArchive& archive, const InputFile& file) {
  constexpr std::string_view kPickle = "data.pkl";
  std::string found;
  bool any = false;
  for (const auto& [name, record] : archive.records()) {
    if (name.size() < kPickle.size() || name.substr(name.size() - kPickle.size()) != kPickle) continue;
    const std::string prefix = name.substr(0, name.size() - kPickle.size());
    if (!prefix.empty() && prefix.back() != '/') continue;
    if (any)
      throw Error(ErrorCode::checkpoint, file.path() + ": expected one data.pkl in the zip file, found more");
    found = prefix;
    any = true;
  }
  if (!any) {
    throw Error(ErrorCode::checkpoint, file.path() +
                                           ": expected a torch checkpoint, found a zip file without a "
                                           "data.pkl");
  }
  return found;
}

void check_legacy_start(ByteReader& reader, PickleObjects& objects, const std::string& path) {
  constexpr std::string_view kMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
  constexpr int64_t kProtocolVersion = 1001;
  const PickleValue* magic = read_pickle(reader, objects);
  if (!magic->is(Kind::big_integer) || magic->text != kMagic) {
    throw Error(ErrorCode::checkpoint, path + ": expected torch's magic number, found a pickle of " +
                                           kind_name(magic->kind) +
                                           " (written by pickle.dump rather than torch.save?)");
  }
  const PickleValue* version = read_pickle(reader, objects);
  if (!version->is(Kind::integer) || version->integer != kProtocolVersion)
    reader.fail("expected torch's protocol version 1001");
  const PickleValue* system = read_pickle(reader, objects);
  if (!system->is(Kind::dict)) reader.fail("expected a dict describing the system that wrote the file");
  for (size_t i = 0; i + 1 < system->items.size(); i += 2) {
    const bool order = system->items[i]->is(Kind::text) && system->items[i]->text == "little_endian";
    if (order && (!system->items[i + 1]->is(Kind::boolean) || system->items[i + 1]->integer == 0))
      throw Error(ErrorCode::unsupported, path + ": expected a little-endian file, found a big-endian one");
  }
}

// Behind the pickles the storages follow in the order of a pickled list of keys, each led by its element
// count.
StorageBytes read_legacy_storages(ByteReader& reader, PickleObjects& objects) {
  std::unordered_map<std::string, size_t> element_sizes;
  for (const PickleValue* storage : objects.storages)
    element_sizes.emplace(storage->items[1]->text,
                          dtype_size(storage_dtype(*storage->items[0], reader.where())));
  const PickleValue* keys = read_pickle(reader, objects);
  if (!keys->is_sequence()) reader.fail("expected a list of storage keys");
  StorageBytes storages;
  for (const PickleValue* key : keys->items) {
    const auto element_size = key->is(Kind::text) ? element_sizes.find(key->text) : element_sizes.end();
    if (element_size == element_sizes.end()) reader.fail("found data of a storage that no tensor uses");
    const auto count = reader.read<uint64_t>("element count of a storage");
    if (count > reader.remaining() / element_size->second) {
      reader.fail("expected " + std::to_string(count) + " elements of storage " + quoted(key->text) +
                  ", found " + std::to_string(reader.remaining()) + " bytes (truncated or damaged)");
    }
    if (!storages.emplace(key->text, reader.skip(count * element_size->second, "storage")).second)
      reader.fail("found data of storage " + quoted(key->text) + " twice");
  }
  return storages;
}

}  // namespace

TensorFileContents read_torch_zip(const InputFile& file) {
  const ZipArchive archive(file);
  const std::string prefix = find_prefix(archive, file);
  if (archive.records().count(prefix + "constants.pkl") != 0) {
    throw Error(ErrorCode::unsupported, file.path() +
                                            ": expected a state_dict written by torch.save, found a "
                                            "TorchScript archive");
  }
  if (const ZipRecord* order = archive.find(prefix + "byteorder")) {
    ByteReader reader(file, order->bytes, file.path() + ": byteorder");
    const std::string text(reader.take_text(std::min<uint64_t>(16, reader.remaining()), "byte order"));
    if (text != "little")
      throw Error(ErrorCode::unsupported,
                  file.path() + ": expected a little-endian file, found byte order " + quoted(text));
  }
  const ZipRecord& pickle = *archive.find(prefix + "data.pkl");
  PickleObjects objects(file);
  ByteReader reader(file, pickle.bytes, file.path() + ": data.pkl");
  const PickleValue* root = read_pickle(reader, objects);

  StorageBytes storages;
  for (const PickleValue* storage : objects.storages) {
    const std::string& key = storage->items[1]->text;
    if (const ZipRecord* record = archive.find(prefix + "data/" + key)) storages.emplace(key, record->bytes);
  }
  return list_tensors(file, *root, storages);
}

TensorFileContents read_torch_legacy(const InputFile& file) {
  PickleObjects objects(file);
  ByteReader reader(file, {0, file.size()}, file.path());
  check_legacy_start(reader, objects, file.path());
  const PickleValue* root = read_pickle(reader, objects);
  return list_tensors(file, *root, read_legacy_storages(reader, objects));
}

}  // namespace allmrec::io
