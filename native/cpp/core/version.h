#pragma once

namespace allmrec {

// Of the package; every build of it says so.
#ifdef ALLMREC_VERSION
constexpr const char* kVersion = ALLMREC_VERSION;
#else
constexpr const char* kVersion = "unknown";
#endif

}  // namespace allmrec
