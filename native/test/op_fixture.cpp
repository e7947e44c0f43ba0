#include "op_fixture.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "../cpp/io/float_bits.h"

namespace allmrec::test {

namespace {
constexpr size_t kMargin = 64;  // bytes, keeps the alignment of alloc
constexpr unsigned char kMarginByte = 0xa5;
}  // namespace

Fixture::Fixture(const allmrec_backend& backend, allmrec_device* device, std::string name, double tolerance)
    : backend_(backend), device_(device), name_(std::move(name)), tolerance_(tolerance) {
  // Seeded by the name, so that a case keeps its numbers when others come and go.
  uint64_t seed = 1469598103934665603u;
  for (char c : name_) seed = (seed ^ static_cast<unsigned char>(c)) * 1099511628211u;
  engine_.seed(seed);
}

Fixture::~Fixture() {
  for (const Block& block : blocks_) backend_.free(device_, block.memory);
}

void Fixture::fail(const std::string& what) {
  failures_ += "\n    " + what;
}

Values Fixture::uniform(int64_t n, double low, double high) {
  Values values(static_cast<size_t>(n));
  for (double& v : values) {
    const double u = static_cast<double>(engine_() >> 11) * 0x1p-53;
    v = static_cast<float>(low + (high - low) * u);
  }
  return values;
}

Ints Fixture::integers(int64_t n, int32_t low, int32_t high) {
  Ints values(static_cast<size_t>(n));
  for (int32_t& v : values) v = low + static_cast<int32_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  return values;
}

void* Fixture::allocate(size_t bytes, bool guarded, const void* content) {
  std::vector<unsigned char> image(bytes + 2 * kMargin, kMarginByte);
  if (bytes > 0) std::memcpy(image.data() + kMargin, content, bytes);
  void* memory = nullptr;
  if (backend_.alloc(device_, image.size(), &memory) != ALLMREC_OK) {
    fail("alloc failed");
    return nullptr;
  }
  blocks_.push_back({static_cast<unsigned char*>(memory), bytes, guarded});
  if (backend_.upload(device_, memory, image.data(), image.size()) != ALLMREC_OK) fail("upload failed");
  return static_cast<unsigned char*>(memory) + kMargin;
}

float* Fixture::upload(const Values& values) {
  if (values.empty()) return nullptr;
  const std::vector<float> floats(values.begin(), values.end());
  return static_cast<float*>(allocate(floats.size() * sizeof(float), true, floats.data()));
}

int32_t* Fixture::upload(const Ints& values) {
  if (values.empty()) return nullptr;
  return static_cast<int32_t*>(allocate(values.size() * sizeof(int32_t), true, values.data()));
}

uint16_t* Fixture::upload(const std::vector<uint16_t>& values) {
  if (values.empty()) return nullptr;
  return static_cast<uint16_t*>(allocate(values.size() * sizeof(uint16_t), true, values.data()));
}

namespace {

// The bytes of values in a dtype; the values become what was stored.
std::vector<unsigned char> stored(int32_t dtype, Values& values) {
  std::vector<unsigned char> bytes(values.size() * (dtype == ALLMREC_F32 ? 4 : 2));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == ALLMREC_F32) {
      const auto x = static_cast<float>(values[i]);
      std::memcpy(&bytes[4 * i], &x, 4);
      values[i] = x;
      continue;
    }
    const auto x = static_cast<float>(values[i]);
    const uint16_t h = dtype == ALLMREC_F16 ? io::half_from_float(x) : io::bfloat16_from_float(x);
    std::memcpy(&bytes[2 * i], &h, 2);
    values[i] = dtype == ALLMREC_F16 ? io::float_from_half(h) : io::float_from_bfloat16(h);
  }
  return bytes;
}

}  // namespace

void* Fixture::upload_as(int32_t dtype, Values& values) {
  if (values.empty()) return nullptr;
  const std::vector<unsigned char> bytes = stored(dtype, values);
  return allocate(bytes.size(), true, bytes.data());
}

void* Fixture::output_as(int32_t dtype, int64_t n) {
  return output_bytes(n * (dtype == ALLMREC_F32 ? 4 : 2));
}

void* Fixture::output_as(int32_t dtype, Values& values) {
  const std::vector<unsigned char> bytes = stored(dtype, values);
  return allocate(bytes.size(), true, bytes.data());
}

void* Fixture::output_bytes(int64_t n) {
  const std::vector<unsigned char> poison(static_cast<size_t>(n), 0xff);
  return allocate(poison.size(), true, poison.data());
}

float* Fixture::output(int64_t n) {
  const std::vector<float> poison(static_cast<size_t>(n), std::numeric_limits<float>::quiet_NaN());
  return static_cast<float*>(allocate(poison.size() * sizeof(float), true, poison.data()));
}

float* Fixture::output(const Values& values) {
  const std::vector<float> floats(values.begin(), values.end());
  return static_cast<float*>(allocate(floats.size() * sizeof(float), true, floats.data()));
}

int32_t* Fixture::output_integers(int64_t n) {
  const Ints poison(static_cast<size_t>(n), std::numeric_limits<int32_t>::min());
  return static_cast<int32_t*>(allocate(poison.size() * sizeof(int32_t), true, poison.data()));
}

void Fixture::check_margins() {
  for (const Block& block : blocks_) {
    unsigned char margins[2 * kMargin];
    backend_.download(device_, margins, block.memory, kMargin);
    backend_.download(device_, margins + kMargin, block.memory + kMargin + block.bytes, kMargin);
    for (unsigned char byte : margins) {
      if (byte == kMarginByte) continue;
      fail("wrote outside of an array of " + std::to_string(block.bytes) + " bytes");
      return;
    }
  }
}

std::vector<unsigned char> Fixture::download_bytes(const void* p, int64_t n) {
  std::vector<unsigned char> bytes(static_cast<size_t>(n));
  if (n > 0 && backend_.download(device_, bytes.data(), p, bytes.size()) != ALLMREC_OK)
    fail("download failed");
  bits_.insert(bits_.end(), bytes.begin(), bytes.end());
  check_margins();
  return bytes;
}

Values Fixture::download(const void* p, int64_t n, int32_t dtype) {
  const std::vector<unsigned char> bytes = download_bytes(p, n * (dtype == ALLMREC_F32 ? 4 : 2));
  Values values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == ALLMREC_F32) {
      float x;
      std::memcpy(&x, &bytes[4 * i], 4);
      values[i] = x;
      continue;
    }
    uint16_t h;
    std::memcpy(&h, &bytes[2 * i], 2);
    values[i] = dtype == ALLMREC_F16 ? io::float_from_half(h) : io::float_from_bfloat16(h);
  }
  return values;
}

double Fixture::expect(const char* what, const void* p, const Values& reference, int32_t dtype) {
  const int64_t n = static_cast<int64_t>(reference.size());
  return expect_matrix(what, p, 1, n, n, reference, dtype);
}

double Fixture::expect_matrix(const char* what, const void* p, int64_t rows, int64_t cols, int64_t ld,
                              const Values& reference, int32_t dtype) {
  const int64_t total = rows > 0 ? (rows - 1) * ld + cols : 0;
  const Values values = download(p, total, dtype);
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < total; ++i) {
    const int64_t row = ld > 0 ? i / ld : 0, col = ld > 0 ? i % ld : i;
    if (col >= cols) {
      if (!std::isnan(values[i])) {
        fail(std::string(what) + ": wrote between rows, at " + std::to_string(i));
        return INFINITY;
      }
      continue;
    }
    const double x = values[i], r = reference[row * cols + col];
    if (!std::isfinite(x) || !std::isfinite(r)) {
      if ((std::isnan(x) && std::isnan(r)) || x == r) continue;
      fail(std::string(what) + ": element " + std::to_string(i) + " is " + std::to_string(x) + ", not " +
           std::to_string(r));
      return INFINITY;
    }
    difference += (x - r) * (x - r);
    norm += r * r;
  }
  // Against an all-zero reference the error is absolute.
  const double error = std::sqrt(difference) / (norm > 0 ? std::sqrt(norm) : 1.0);
  worst_ = std::fmax(worst_, error);
  if (!(error <= tolerance_)) {
    char text[160];
    std::snprintf(text, sizeof text, "%s: error %.3g > %.3g", what, error, tolerance_);
    fail(text);
  }
  return error;
}

void Fixture::expect_each(const char* what, const float* p, const Values& reference) {
  const Values values = download(p, static_cast<int64_t>(reference.size()));
  for (size_t i = 0; i < values.size(); ++i) {
    const double error = std::fabs(values[i] - reference[i]) / std::fmax(std::fabs(reference[i]), 1.2e-38);
    if (values[i] == reference[i]) continue;
    worst_ = std::fmax(worst_, error);
    if (error <= tolerance_) continue;
    char text[200];
    std::snprintf(text, sizeof text, "%s: element %zu is %.9g, not %.9g (error %.3g > %.3g)", what, i,
                  values[i], reference[i], error, tolerance_);
    return fail(text);
  }
}

void Fixture::expect_integers(const char* what, const int32_t* p, const Ints& reference) {
  Ints values(reference.size());
  if (!values.empty()) backend_.download(device_, values.data(), p, values.size() * sizeof(int32_t));
  const unsigned char* bytes = reinterpret_cast<const unsigned char*>(values.data());
  bits_.insert(bits_.end(), bytes, bytes + values.size() * sizeof(int32_t));
  check_margins();
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == reference[i]) continue;
    return fail(std::string(what) + ": element " + std::to_string(i) + " is " + std::to_string(values[i]) +
                ", not " + std::to_string(reference[i]));
  }
}

void Fixture::expect_untouched(const char* what, const float* p, int64_t n) {
  for (double value : download(p, n)) {
    if (!std::isnan(value)) return fail(std::string(what) + ": was written to");
  }
}

void Fixture::expect_true(const char* what, bool ok) {
  if (!ok) fail(what);
}

void add_cases(Cases& cases, const char* op, Tolerance tolerance, void (*test)(Fixture&, int variant),
               const std::vector<std::string>& variants) {
  for (size_t i = 0; i < variants.size(); ++i)
    cases.push_back({op, variants[i], tolerance.value, tolerance.reason, test, static_cast<int>(i)});
}

}  // namespace allmrec::test
