#pragma once

#include <napi.h>

#include <string>

#include "convert.h"

namespace allmrec::binding {

// The C++ object behind a JavaScript one. The tag tells our classes apart: unwrapping anything else would be
// undefined behaviour.
template <typename Wrap>
Wrap* unwrap(Napi::Value value, const napi_type_tag& tag, const std::string& name, const std::string& what) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&tag)) expected(name, what, value);
  return Wrap::Unwrap(value.As<Napi::Object>());
}

}  // namespace allmrec::binding
