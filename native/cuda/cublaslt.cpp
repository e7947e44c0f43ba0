// Finding and opening cuBLASLt. Plain C++: nothing here knows of CUDA.

#include "cublaslt.h"

#include <cstdlib>
#include <iterator>
#include <mutex>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <glob.h>
#include <unistd.h>
#endif

namespace allmrec::cuda {

namespace {

constexpr size_t kOldest = 11, kNewest = 13;  // major versions
const char* const kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11",
                              "libcublasLt.so"};

struct Setting {
  std::mutex mutex;
  std::string value = "auto";
};
Setting& setting() {
  static Setting* instance = new Setting;  // outlives whatever may still configure at exit
  return *instance;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// "auto", "off" or a path. The setting comes before the environment.
std::string wish() {
  Setting& s = setting();
  std::lock_guard<std::mutex> lock(s.mutex);
  if (s.value != "auto") return s.value;
  const std::string value = environment("ALLMREC_CUBLASLT");
  return value.empty() ? "auto" : value;
}

#if defined(__unix__) || defined(__APPLE__)

void add_matches(std::vector<std::string>& paths, const std::string& pattern) {
  glob_t found = {};
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc; ++i) paths.push_back(found.gl_pathv[i]);
  }
  globfree(&found);
}

// NVIDIA's packages in a folder of Python packages.
void add_packages(std::vector<std::string>& paths, const std::string& site) {
  for (const char* folder : {"/nvidia/cu13/lib", "/nvidia/cublas/lib"}) {
    for (const char* version : {"13", "12", "11"})
      add_matches(paths, site + folder + "/libcublasLt.so." + version);
  }
}

// The installation that the first python3 of PATH belongs to.
std::string python_prefix() {
  const std::string path = environment("PATH");
  for (size_t begin = 0; begin <= path.size();) {
    size_t end = path.find(':', begin);
    if (end == std::string::npos) end = path.size();
    const std::string program = path.substr(begin, end - begin) + "/python3";
    begin = end + 1;
    if (program[0] != '/' || access(program.c_str(), X_OK) != 0) continue;
    // The folder itself, not where a link leads: a virtual environment's python3 is a link out of it.
    const size_t folder = program.rfind("/bin/python3");
    if (folder != std::string::npos) return program.substr(0, folder);
  }
  return "";
}

std::vector<std::string> find_candidates() {
  std::vector<std::string> paths(std::begin(kNames), std::end(kNames));  // the loader's own places
  for (const std::string& prefix :
       {environment("VIRTUAL_ENV"), environment("CONDA_PREFIX"), python_prefix(), std::string("/usr"),
        std::string("/usr/local"), environment("HOME").empty() ? "" : environment("HOME") + "/.local"}) {
    if (prefix.empty()) continue;
    add_packages(paths, prefix + "/lib/python3*/site-packages");
    add_packages(paths, prefix + "/lib/python3*/dist-packages");
  }
  for (const char* name : kNames) {
    add_matches(paths, std::string("/usr/local/cuda/lib64/") + name);
    add_matches(paths, std::string("/usr/local/cuda-*/lib64/") + name);
  }
  return paths;
}

std::string library_error() {
  const char* text = dlerror();
  return text ? text : "unknown error";
}

#else  // no dlopen: our own kernels

constexpr int RTLD_NOW = 0, RTLD_LOCAL = 0;
std::vector<std::string> find_candidates() {
  return {};
}
std::string library_error() {
  return "not supported on this system";
}
void* dlopen(const char*, int) {
  return nullptr;
}
void* dlsym(void*, const char*) {
  return nullptr;
}
void dlclose(void*) {}

#endif

template <typename Function>
bool find(void* library, const char* name, Function& function, std::string& missing) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function && missing.empty()) missing = name;
  return function != nullptr;
}

// The name of the first entry point that is not there, or nothing.
std::string find_all(void* library, lt::Functions& f) {
  std::string missing;
  find(library, "cublasLtGetVersion", f.get_version, missing);
  find(library, "cublasLtGetCudartVersion", f.get_cudart_version, missing);
  find(library, "cublasLtCreate", f.create, missing);
  find(library, "cublasLtDestroy", f.destroy, missing);
  find(library, "cublasLtMatmulDescCreate", f.desc_create, missing);
  find(library, "cublasLtMatmulDescDestroy", f.desc_destroy, missing);
  find(library, "cublasLtMatmulDescSetAttribute", f.desc_set, missing);
  find(library, "cublasLtMatrixLayoutCreate", f.layout_create, missing);
  find(library, "cublasLtMatrixLayoutDestroy", f.layout_destroy, missing);
  find(library, "cublasLtMatmulPreferenceCreate", f.preference_create, missing);
  find(library, "cublasLtMatmulPreferenceDestroy", f.preference_destroy, missing);
  find(library, "cublasLtMatmulPreferenceSetAttribute", f.preference_set, missing);
  find(library, "cublasLtMatmulAlgoGetHeuristic", f.heuristic, missing);
  find(library, "cublasLtMatmul", f.matmul, missing);
  return missing;
}

struct Version {
  size_t major, minor, patch;
  std::string text() const {
    return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
  }
};

// From 12 on 120103 is 12.1.3. Before, minor versions from 10 on ran into the major's digit: 12103
// is 11.11.3.
Version version_of(size_t number) {
  if (number >= 100000) return {number / 10000, number / 100 % 100, number % 100};
  if (number >= 11000) return {11, (number - 11000) / 100, number % 100};
  return {number / 1000, number / 100 % 10, number % 100};
}

std::string cudart_text(size_t version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

void configure_cublas_lt(const char* value) {
  Setting& s = setting();
  std::lock_guard<std::mutex> lock(s.mutex);
  s.value = value && *value ? value : "auto";
}

std::vector<std::string> cublas_lt_candidates() {
  const std::string wanted = wish();
  if (wanted == "off") return {};
  if (wanted != "auto") return {wanted};
  return find_candidates();
}

std::unique_ptr<CublasLt> CublasLt::open(std::string& why) {
  const std::string wanted = wish();
  if (wanted == "off") {
    why = "cuBLASLt is switched off.";
    return nullptr;
  }
  const bool named = wanted != "auto";
  std::string refused;  // the first library that is there but cannot be used says more than all that are not
  for (const std::string& path : cublas_lt_candidates()) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      const std::string error = library_error();
      if (named) refused = "cuBLASLt cannot be opened: " + error + ".";
      continue;
    }
    lt::Functions functions = {};
    const std::string missing = find_all(library, functions);
    std::string problem;
    lt::Handle handle = nullptr;
    Version version = {};
    if (!missing.empty()) {
      problem = "lacks " + missing;
    } else {
      version = version_of(functions.get_version());
      if (version.major < kOldest || version.major > kNewest) {
        problem = "is version " + version.text() + ", not 11 to 13";
      } else if (const lt::Status status = functions.create(&handle)) {
        problem = "(version " + version.text() + ", for CUDA " + cudart_text(functions.get_cudart_version()) +
                  ") does not start: status " + std::to_string(status) + "; the driver may be too old for it";
      }
    }
    if (problem.empty()) {
      why.clear();
      return std::unique_ptr<CublasLt>(
          new CublasLt(library, functions, handle, path + ", " + version.text()));
    }
    dlclose(library);
    if (refused.empty()) refused = "cuBLASLt at " + path + " " + problem + ".";
  }
  why = !refused.empty()
            ? refused
            : "cuBLASLt was not found; install the Python package nvidia-cublas or name the library by "
              "ALLMREC_CUBLASLT.";
  return nullptr;
}

CublasLt::~CublasLt() {
  for (auto& entry : plans_) {
    Plan& plan = entry.second;
    for (lt::MatrixLayout layout : {plan.a, plan.b, plan.c, plan.d}) {
      if (layout) functions_.layout_destroy(layout);
    }
    if (plan.desc) functions_.desc_destroy(plan.desc);
  }
  functions_.destroy(handle_);
}

}  // namespace allmrec::cuda
