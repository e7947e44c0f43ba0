// A language model's memory: arenas, what a pass without gradients takes and gives, and weights read into
// every dtype.
#include "../cpp/models/opt.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <random>

#include "../cpp/io/safetensors.h"
#include "../cpp/models/opt_memory.h"
#include "../cpp/nn/weight_loader.h"
#include "check.h"

using namespace allmrec;

namespace {

void test_arena(const std::shared_ptr<Device>& device) {
  Arena arena(device);
  auto* first = static_cast<char*>(arena.alloc(1));
  std::shared_ptr<void> second = arena.take(100), third = arena.take(64);
  CHECK(second.get() == first + 64 && third.get() == first + 192);
  CHECK(arena.in_use_bytes() == 256);
  // A piece is used again when its last owner lets go, and not before.
  std::shared_ptr<void> owner = second;
  second.reset();
  CHECK(arena.take(100).get() == first + 256);
  owner.reset();
  CHECK(arena.in_use_bytes() == 128 && arena.peak_bytes() == 384);
  second = arena.take(10);
  CHECK(second.get() == first + 64);
  // Neighbours that are free are one piece; what does not fit before comes behind.
  second.reset();
  third.reset();
  second = arena.take(192);
  CHECK(second.get() == first + 64);
  // After a reset nothing that was taken before gives anything back.
  arena.reset();
  CHECK(arena.in_use_bytes() == 0);
  CHECK(arena.alloc(256) == first);
  second.reset();
  CHECK(arena.in_use_bytes() == 256 && arena.take(64).get() == first + 256);
  // Several blocks become one, in which the same steps find the same places.
  const auto step = [&arena] {
    const std::shared_ptr<void> a = arena.take(size_t{3} << 20), b = arena.take(size_t{9} << 20);
    return static_cast<char*>(b.get()) - static_cast<char*>(a.get());
  };
  step();
  arena.reset();
  CHECK(step() == 3 << 20);
  const size_t capacity = arena.capacity_bytes();
  arena.reset();
  CHECK(step() == 3 << 20 && arena.capacity_bytes() == capacity);
  // What is reserved lies in one piece, before and after a reset.
  for (int round = 0; round < 2; ++round) {
    arena.reset();
    arena.alloc(64);
    arena.reserve(size_t{40} << 20);
    auto* piece = static_cast<char*>(arena.alloc(size_t{20} << 20));
    CHECK(arena.alloc(size_t{20} << 20) == piece + (size_t{20} << 20));
  }
  CHECK(arena.peak_bytes() == (size_t{40} << 20) + 64);
}

OptConfig small() {
  OptConfig c;
  c.vocab_size = 96;
  c.hidden_size = c.embed_size = 64;
  c.num_layers = 3;
  c.num_heads = 4;
  c.ffn_size = 160;
  c.max_positions = 64;
  return c;
}

std::vector<OptConfig> variants() {
  std::vector<OptConfig> all(6, small());
  all[1].norm_before = all[1].final_norm = false;
  all[1].embed_size = 32;
  all[2].activation = ALLMREC_ACT_GELU;
  all[2].bias = false;
  all[3].norm_affine = false;
  all[3].tied_head = false;
  all[4].embed_size = 96;
  all[4].final_norm = false;
  all[5].ffn_size = 512;
  return all;
}

LlmBatch batch_of(const std::vector<int32_t>& lengths) {
  LlmBatch batch;
  for (int32_t length : lengths) {
    for (int32_t t = 0; t < length; ++t) batch.ids.push_back((7 * t + length) % 96);
    batch.offsets.push_back(batch.offsets.back() + length);
  }
  batch.number_positions();
  return batch;
}

std::vector<float> to_host(Tape& tape, const Tensor& t) {
  std::vector<float> host(static_cast<size_t>(t.size()));
  tape.device().download(host.data(), t.data, host.size() * sizeof(float));
  return host;
}

void randomise(ParameterSet& parameters) {
  for (const auto& p : parameters.all()) parameters.normal(*p, 5, p->shape.size() > 1 ? 0.15f : 0.4f);
}

// Without gradients layers work in place and share memory; the numbers are those of a tape that keeps all,
// and what was reserved is enough.
void test_passes(const std::shared_ptr<Device>& device) {
  int number = 0;
  for (const OptConfig& variant : variants())
    for (int32_t dtype : {ALLMREC_F32, ALLMREC_BF16, ALLMREC_I8, ALLMREC_I4}) {
      OptConfig config = variant;
      config.dtype = dtype;
      const std::string what = "variant " + std::to_string(number++ / 4) + ", dtype " + std::to_string(dtype);
      Opt model(device, config);
      randomise(model.parameters());
      model.parameters().set_trainable(false);
      const LlmBatch batch = batch_of({17, 1, 40});
      const std::vector<int32_t> some{3, 16, 17, 50}, every = [&] {
        std::vector<int32_t> rows(batch.ids.size());
        for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
        return rows;
      }();
      for (const std::vector<int32_t>& rows : {some, every}) {
        Arena kept(device), shared(device);
        Tape recording(*device, kept, dtype == ALLMREC_F32 || dtype == ALLMREC_BF16);
        Tape inference(*device, shared, false);
        const std::vector<float> expected = to_host(recording, model.hidden(recording, batch, {}, rows));
        const Tensor hidden = model.hidden(inference, batch, {}, rows);
        CHECK_WHAT(to_host(inference, hidden) == expected, what);
        const OptPass pass{static_cast<int64_t>(batch.ids.size()), static_cast<int64_t>(rows.size()), 3,
                           false};
        const size_t reserved = opt_hidden_bytes(config, true, pass);
        CHECK_WHAT(
            shared.capacity_bytes() == Arena::rounded(reserved) && shared.peak_bytes() > reserved / 2,
            what + ": took " + std::to_string(shared.peak_bytes()) + " of " + std::to_string(reserved));
        std::vector<int32_t> pair_rows, targets;
        for (size_t i = 0; i < rows.size(); ++i) {
          pair_rows.push_back(static_cast<int32_t>(i));
          targets.push_back(static_cast<int32_t>(i % 96));
        }
        const std::vector<float> log_probs = model.log_probs(inference, hidden, pair_rows, targets);
        CHECK(log_probs ==
              model.log_probs(
                  recording, [&] { return recording.from_host(expected.data(), hidden.rows, hidden.cols); }(),
                  pair_rows, targets));
      }
      KvCache cache(device, config.num_layers, config.hidden_size, model.cache_dtype(), 64);
      const CachedBatch cached_batch{cache, {{cache.reserve(17)}, {cache.reserve(1)}, {cache.reserve(40)}}};
      Arena arena(device);
      Tape tape(*device, arena, false);
      model.hidden(tape, batch, {}, {16, 17, 57}, &cached_batch);
      const size_t cached = opt_hidden_bytes(config, true, {58, 3, 3, true});
      CHECK_WHAT(
          arena.capacity_bytes() == Arena::rounded(cached) && arena.peak_bytes() > cached / 2,
          what + ", cached: took " + std::to_string(arena.peak_bytes()) + " of " + std::to_string(cached));
    }
}

// A file as large as several blocks, in rows of an odd length; every value counts.
void test_loading(const std::shared_ptr<Device>& device) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("opt_test." + std::to_string(getpid()))).string();
  const int64_t rows = 20000, cols = 352;  // 28 MB of float32
  std::mt19937 engine(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (float& value : values) value = normal(engine);
  const std::shared_ptr<Device> plain = Device::open("cpu", 1);
  for (io::FileDType file : {io::FileDType::F32, io::FileDType::F16, io::FileDType::BF16}) {
    io::write_safetensors(path, {{"w", file, {rows, cols}, values.data()}});
    std::vector<float> stored(values.size());
    const auto written = io::TensorFile::open(path);
    written->read_f32(written->require("w"), stored.data());
    for (int32_t dtype : {ALLMREC_F32, ALLMREC_F16, ALLMREC_BF16, ALLMREC_I8, ALLMREC_I4}) {
      const auto names = [](const std::string& name) { return std::vector<std::string>{name}; };
      ParameterSet expected(plain), loaded(device);
      expected.upload(expected.add("w", {rows, cols}, dtype), stored.data());
      loaded.add("w", {rows, cols}, dtype);
      loaded.load(open_files({path}), names);
      const std::string what = std::string(io::dtype_name(file)) + " to " + std::to_string(dtype);
      CHECK_WHAT(loaded.value_to_host(*loaded.find("w")) == expected.value_to_host(*expected.find("w")),
                 what);
      // Stored as it is and read again, bit by bit the same.
      const std::string again = path + ".stored";
      io::write_safetensors(again, tensors_as_stored(device, *loaded.find("w")));
      ParameterSet reread(device);
      reread.add("w", {rows, cols}, dtype);
      reread.load(open_files({again}), names);
      CHECK_WHAT(reread.value_to_host(*reread.find("w")) == loaded.value_to_host(*loaded.find("w")), what);
      std::remove(again.c_str());
    }
  }
  // One bad value, in the last block.
  values.back() = std::numeric_limits<float>::quiet_NaN();
  io::write_safetensors(path, {{"w", io::FileDType::F32, {rows, cols}, values.data()}});
  ParameterSet parameters(device);
  parameters.add("w", {rows, cols}, ALLMREC_I8);
  const std::string message = test::message_of([&] {
    parameters.load(open_files({path}),
                    [](const std::string& name) { return std::vector<std::string>{name}; });
  });
  CHECK_WHAT(message.find("NaN or an infinity") != std::string::npos, message);
  std::remove(path.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  const std::shared_ptr<Device> device = Device::open("cpu", 2);
  test_arena(device);
  test_passes(device);
  // Another back end by name: the weights then go through its own memory.
  test_loading(argc > 1 ? Device::open(argv[1], 0) : device);
  return test::report();
}
