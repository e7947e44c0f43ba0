#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "pickle.h"
#include "tensor_file.h"

namespace allmrec::io {

using StorageBytes = std::unordered_map<std::string, ByteRange>;  // by storage key

// Names every tensor below `root` and checks it against the bytes of its storage.
TensorFileContents list_tensors(const InputFile& file, const PickleValue& root, const StorageBytes& storages);

}  // namespace allmrec::io
