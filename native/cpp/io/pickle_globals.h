#pragma once

#include <string>

#include "pickle.h"
#include "tensor_file.h"

namespace allmrec::io {

// What the few globals a checkpoint needs mean, in values instead of calls. Each throws through `reader`,
// whose position says where in the pickle it happened.

// The value standing for `module.name`; throws ErrorCode::unsupported naming it when it is not allowed.
PickleValue* find_global(const ByteReader& reader, PickleObjects& objects, const std::string& module,
                         const std::string& name);

// What calling `callable` with the tuple `arguments` would give.
PickleValue* call_global(const ByteReader& reader, PickleObjects& objects, const PickleValue& callable,
                         PickleValue& arguments);

// What cls.__new__(cls, *arguments) would give.
PickleValue* new_object(const ByteReader& reader, PickleObjects& objects, const PickleValue& type,
                        const PickleValue& arguments);

// What object.__setstate__(state) would do.
void set_state(const ByteReader& reader, PickleObjects& objects, PickleValue& object,
               const PickleValue& state);

// The dtype of "torch.FloatStorage" and its like; throws ErrorCode::unsupported for any other.
FileDType storage_dtype(const PickleValue& global, const std::string& where);

}  // namespace allmrec::io
