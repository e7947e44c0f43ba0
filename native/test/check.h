#pragma once

#include <atomic>
#include <cstdio>
#include <exception>
#include <string>

#include "../cpp/core/error.h"

// Counts what passed and prints what did not. A native test program ends with `return
// allmrec::test::report();`.

namespace allmrec::test {

struct Counts {
  std::atomic<long> passed{0}, failed{0};  // tests of threads check on each
};

inline Counts& counts() {
  static Counts instance;
  return instance;
}

inline bool record(bool ok, const char* file, int line, const std::string& what) {
  if (ok) {
    ++counts().passed;
  } else {
    ++counts().failed;
    std::printf("FAIL %s:%d: %s\n", file, line, what.c_str());
  }
  return ok;
}

// The message of the Error that fn throws, empty when it throws none. Any other exception is a failure.
template <typename Fn>
std::string message_of(Fn&& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    record(false, __FILE__, __LINE__, std::string("not an allmrec::Error: ") + error.what());
    return error.what();
  }
  return "";
}

// Says loudly what did not run.
inline void skip(const std::string& why) {
  std::printf("SKIP: %s\n", why.c_str());
}

inline int report() {
  std::printf("%ld passed, %ld failed\n", counts().passed.load(), counts().failed.load());
  return counts().failed == 0 ? 0 : 1;
}

}  // namespace allmrec::test

#define CHECK(...) ::allmrec::test::record(static_cast<bool>(__VA_ARGS__), __FILE__, __LINE__, #__VA_ARGS__)
#define CHECK_WHAT(condition, what) \
  ::allmrec::test::record(static_cast<bool>(condition), __FILE__, __LINE__, what)
// The expression throws an Error whose message contains `part`.
#define CHECK_THROWS(expression, part)                                                               \
  do {                                                                                               \
    const std::string message_ = ::allmrec::test::message_of([&] { (void)(expression); });           \
    ::allmrec::test::record(!message_.empty() && message_.find(part) != std::string::npos, __FILE__, \
                            __LINE__, #expression " threw \"" + message_ + "\"");                    \
  } while (false)
