#pragma once

#include <napi.h>

#include <cstdint>
#include <string>

#include "convert.h"

namespace allmrec::binding {

// The tag of a class's objects. Another copy of the addon in the process has other tags, since it may be of
// another version, with other layouts.
inline napi_type_tag own_tag(napi_type_tag tag) {
  static const char copy = 0;
  tag.upper ^= reinterpret_cast<uintptr_t>(&copy);
  return tag;
}

inline void set_tag(Napi::Value object, const napi_type_tag& tag) {
  const napi_type_tag own = own_tag(tag);
  object.As<Napi::Object>().TypeTag(&own);
}

// The C++ object behind a JavaScript one. The tag tells our classes apart: unwrapping anything else would be
// undefined behaviour.
template <typename Wrap>
Wrap* unwrap(Napi::Value value, const napi_type_tag& tag, const std::string& name, const std::string& what) {
  const napi_type_tag own = own_tag(tag);
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&own)) expected(name, what, value);
  return Wrap::Unwrap(value.As<Napi::Object>());
}

}  // namespace allmrec::binding
