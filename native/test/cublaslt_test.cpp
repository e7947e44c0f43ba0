// Finding, refusing and using cuBLASLt: cublaslt_test <stand-in library> (fake_cublaslt.cpp).
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

#include "../cuda/cublaslt.h"
#include "check.h"

using allmrec::cuda::configure_cublas_lt;
using allmrec::cuda::cublas_lt_candidates;
using allmrec::cuda::CublasLt;

namespace {

std::string reason() {
  std::string why = "nothing";
  CHECK(CublasLt::open(why) == nullptr);
  return why;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A folder that goes when the test ends.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/cublaslt_test_XXXXXX";
    const char* made = mkdtemp(name);
    CHECK(made != nullptr);
    path_ = made ? made : "";
  }
  ~Folder() { CHECK(std::system(("rm -r '" + path_ + "'").c_str()) == 0); }
  const std::string& path() const { return path_; }
  // An empty file with all the folders above it.
  std::string file(const std::string& name, int mode = 0644) {
    const std::string full = path_ + "/" + name;
    for (size_t slash = full.find('/', 1); slash != std::string::npos; slash = full.find('/', slash + 1))
      mkdir(full.substr(0, slash).c_str(), 0755);
    std::FILE* f = std::fopen(full.c_str(), "wb");
    CHECK(f != nullptr);
    if (f) std::fclose(f);
    chmod(full.c_str(), static_cast<mode_t>(mode));
    return full;
  }

 private:
  std::string path_;
};

int place(const std::vector<std::string>& paths, const std::string& path) {
  for (size_t i = 0; i < paths.size(); ++i) {
    if (paths[i] == path) return static_cast<int>(i);
  }
  return -1;
}

void opening_tests(const std::string& fake) {
  std::string why;
  configure_cublas_lt(fake.c_str());
  CHECK(cublas_lt_candidates() == std::vector<std::string>{fake});
  {
    const auto library = CublasLt::open(why);
    CHECK(library != nullptr);
    CHECK(why.empty());
    CHECK(library && library->description() == fake + ", 13.0.2");
    const auto second = CublasLt::open(why);  // one for each device
    CHECK(second != nullptr);
  }
  // As the library writes it, and as people do.
  const std::pair<const char*, const char*> versions[] = {
      {"11605", ", 11.6.5"}, {"12103", ", 11.11.3"}, {"120805", ", 12.8.5"}, {"130101", ", 13.1.1"}};
  for (const auto& [number, text] : versions) {
    setenv("FAKE_CUBLASLT_VERSION", number, 1);
    const auto library = CublasLt::open(why);
    CHECK(library != nullptr);
    CHECK(library && contains(library->description(), text));
  }
  setenv("FAKE_CUBLASLT_VERSION", "140000", 1);
  CHECK(contains(reason(), "is version 14.0.0, not 11 to 13"));
  setenv("FAKE_CUBLASLT_VERSION", "10204", 1);
  CHECK(contains(reason(), "is version 10.2.4, not 11 to 13"));
  unsetenv("FAKE_CUBLASLT_VERSION");
  setenv("FAKE_CUBLASLT_NO_START", "1", 1);
  CHECK(contains(reason(), "does not start: status 1"));
  CHECK(contains(reason(), "for CUDA 13.0"));
  unsetenv("FAKE_CUBLASLT_NO_START");
}

void refusal_tests(Folder& folder) {
  configure_cublas_lt("off");
  CHECK(cublas_lt_candidates().empty());
  CHECK(reason() == "cuBLASLt is switched off.");
  configure_cublas_lt("/nowhere/libcublasLt.so.13");
  CHECK(contains(reason(), "/nowhere/libcublasLt.so.13"));
  const std::string empty = folder.file("empty.so");
  configure_cublas_lt(empty.c_str());
  CHECK(contains(reason(), "cannot be opened"));
  configure_cublas_lt("libm.so.6");  // a library, but another one
  CHECK(contains(reason(), "lacks cublasLtGetVersion"));
}

void environment_tests(const std::string& fake) {
  configure_cublas_lt("auto");
  setenv("ALLMREC_CUBLASLT", fake.c_str(), 1);
  CHECK(cublas_lt_candidates() == std::vector<std::string>{fake});
  std::string why;
  CHECK(CublasLt::open(why) != nullptr);
  configure_cublas_lt("off");  // the setting comes first
  CHECK(reason() == "cuBLASLt is switched off.");
  configure_cublas_lt("auto");
  setenv("ALLMREC_CUBLASLT", "off", 1);
  CHECK(reason() == "cuBLASLt is switched off.");
  setenv("ALLMREC_CUBLASLT", "auto", 1);
  CHECK(!cublas_lt_candidates().empty());
  unsetenv("ALLMREC_CUBLASLT");
}

void search_tests(Folder& folder) {
  const std::string venv = folder.file("venv/lib/python3.11/site-packages/nvidia/cu13/lib/libcublasLt.so.13");
  const std::string conda =
      folder.file("conda/lib/python3.12/site-packages/nvidia/cublas/lib/libcublasLt.so.12");
  const std::string home =
      folder.file("home/.local/lib/python3.9/site-packages/nvidia/cublas/lib/libcublasLt.so.11");
  const std::string python =
      folder.file("python/lib/python3.10/site-packages/nvidia/cublas/lib/libcublasLt.so.12");
  folder.file("python/bin/python3", 0755);
  folder.file("plain/bin/python3", 0644);  // not a program
  setenv("VIRTUAL_ENV", (folder.path() + "/venv").c_str(), 1);
  setenv("CONDA_PREFIX", (folder.path() + "/conda").c_str(), 1);
  setenv("HOME", (folder.path() + "/home").c_str(), 1);
  setenv("PATH",
         ("relative::" + folder.path() + "/plain/bin:" + folder.path() + "/python/bin:/usr/bin").c_str(), 1);
  configure_cublas_lt("auto");
  const std::vector<std::string> paths = cublas_lt_candidates();
  CHECK(paths.size() >= 4 && paths[0] == "libcublasLt.so.13" && paths[3] == "libcublasLt.so");
  CHECK(place(paths, venv) > 3);
  CHECK(place(paths, conda) > place(paths, venv));
  CHECK(place(paths, python) > place(paths, conda));
  CHECK(place(paths, home) > place(paths, python));
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX", "HOME", "PATH"}) unsetenv(name);
  CHECK(place(cublas_lt_candidates(), venv) == -1);
  // An empty file among the candidates is passed over, and does not end the search.
  std::string why;
  setenv("VIRTUAL_ENV", (folder.path() + "/venv").c_str(), 1);
  const auto found = CublasLt::open(why);
  CHECK(found != nullptr || contains(why, "cuBLASLt"));
  unsetenv("VIRTUAL_ENV");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::printf("usage: cublaslt_test <path of the stand-in library>\n");
    return 2;
  }
  const std::string path = std::getenv("PATH") ? std::getenv("PATH") : "";
  {
    Folder folder;
    opening_tests(argv[1]);
    refusal_tests(folder);
    environment_tests(argv[1]);
    search_tests(folder);
    setenv("PATH", path.c_str(), 1);
  }
  return allmrec::test::report();
}
