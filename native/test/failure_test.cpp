// Memory that is not to be had, at every allocation there is: operator new is replaced and refuses the n-th
// request, for every n, while a tiny model is made, trained, scored with and generated with. Each refusal
// must be an Error out_of_memory (or bad_alloc, which the binding makes one), give back what was taken, and
// leave a model that works as before. Numbers that are not finite must name their op, and leave the weights
// alone.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <thread>

#include "../cpp/core/memory_limit.h"
#include "../cpp/core/thread_pool.h"
#include "../cpp/models/alignment.h"
#include "../cpp/models/backbone_trainer.h"
#include "../cpp/models/backbones/sas_rec.h"
#include "../cpp/models/candidate_scoring.h"
#include "../cpp/models/generation/generator.h"
#include "../cpp/models/generation/greedy.h"
#include "../cpp/models/projector.h"
#include "../cpp/nn/weight_loader.h"
#include "check.h"

using namespace allmrec;
using namespace allmrec::test;

namespace {

std::atomic<int64_t> allocations{0}, alive{0};
std::atomic<int64_t> refuse_from{INT64_MAX}, refuse_to{INT64_MAX};  // numbers of the requests refused

void* take(size_t bytes, size_t alignment) noexcept {
  const int64_t number = allocations.fetch_add(1);
  if (number >= refuse_from && number < refuse_to) return nullptr;
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory) alive.fetch_add(1);
  return memory;
}

void give(void* memory) noexcept {
  if (memory) alive.fetch_sub(1);
  std::free(memory);
}

constexpr size_t kPlain = 16;

}  // namespace

void* operator new(size_t bytes) {
  if (void* memory = take(bytes, kPlain)) return memory;
  throw std::bad_alloc();
}
void* operator new[](size_t bytes) {
  return operator new(bytes);
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return take(bytes, kPlain);
}
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept {
  return take(bytes, kPlain);
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  if (void* memory = take(bytes, static_cast<size_t>(alignment))) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return take(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept {
  give(memory);
}
void operator delete[](void* memory) noexcept {
  give(memory);
}
void operator delete(void* memory, size_t) noexcept {
  give(memory);
}
void operator delete[](void* memory, size_t) noexcept {
  give(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  give(memory);
}
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  give(memory);
}

namespace {

// Runs fn with the requests [from, to) behind this moment refused. True when it came to its end; a refusal
// that is no out-of-memory error is a failure of the test.
bool survives(const char* what, int64_t from, int64_t to, const std::function<void()>& fn) {
  const int64_t now = allocations.load();
  refuse_to = to == INT64_MAX ? to : now + to;
  refuse_from = now + from;
  bool done = false, right = true;
  char message[256] = "";
  try {
    fn();
    done = true;
  } catch (const Error& error) {
    right = error.code() == ErrorCode::out_of_memory;
    std::snprintf(message, sizeof message, "%s", error.what());
  } catch (const std::bad_alloc&) {
  } catch (const std::exception& error) {
    right = false;
    std::snprintf(message, sizeof message, "%s", error.what());
  }
  refuse_from = refuse_to = INT64_MAX;
  if (!right) CHECK_WHAT(false, std::string(what) + " at " + std::to_string(from) + ": " + message);
  return done;
}

// fn with its n-th request refused, and with all from the n-th on, for every n until it needs no more. Behind
// each, `check` runs with all memory.
void sweep(const char* what, const std::function<void()>& fn, const std::function<void()>& check) {
  fn();
  check();
  int64_t refused = 0;
  for (int64_t n = 0;; ++n) {
    const int64_t begin = allocations.load();
    const bool once = survives(what, n, n + 1, fn);
    const bool reached = allocations.load() - begin > n;
    check();
    survives(what, n, INT64_MAX, fn);
    check();
    if (!reached) break;
    refused += !once;
  }
  std::printf("%s: %lld requests refused\n", what, static_cast<long long>(refused));
  CHECK_WHAT(refused >= 5, what);
}

void fill(ParameterSet& parameters, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  for (const auto& p : parameters.all()) {
    std::vector<float> values(static_cast<size_t>(p->value.size()));
    const bool norm =
        p->name.find("norm") != std::string::npos && p->name.find("weight") != std::string::npos;
    for (float& x : values) x = 0.2f * normal(engine) + (norm ? 1.0f : 0.0f);
    parameters.upload(*p, values.data());
  }
}

std::vector<float> weights_of(ParameterSet& parameters) {
  std::vector<float> all;
  for (const auto& p : parameters.all()) {
    const std::vector<float> values = parameters.value_to_host(*p);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

OptConfig opt_config(int32_t dtype = ALLMREC_F32) {
  OptConfig config;
  config.vocab_size = 40;
  config.hidden_size = config.embed_size = 32;
  config.num_layers = 2;
  config.num_heads = 2;
  config.ffn_size = 48;
  config.max_positions = 32;
  config.dtype = dtype;
  return config;
}

SasRecConfig sasrec_config() {
  SasRecConfig config;
  config.num_items = 12;
  config.max_length = 6;
  config.hidden_units = 16;
  config.num_blocks = 1;
  config.num_heads = 2;
  config.dropout_rate = 0.2f;
  return config;
}

Sequences sequences() {
  Sequences s;
  for (int u = 0; u < 6; ++u) {
    for (int i = 0; i < 4; ++i) s.items.push_back(1 + (u * 2 + i * 3) % 12);
    s.offsets.push_back(static_cast<int64_t>(s.items.size()));
  }
  return s;
}

BackboneTrainOptions sasrec_options() {
  BackboneTrainOptions options;
  options.batch_size = 3;
  options.adam.learning_rate = 1e-2f;
  return options;
}

LlmBatch prompts() {
  LlmBatch batch;
  batch.ids = {3, 7, 9, 4, 11, 5, 6};
  batch.offsets = {0, 4, 7};
  batch.number_positions();
  return batch;
}

// A step that fails leaves weights, moments and the number of steps as they were, so that a training whose
// every step failed once ends as one that was never disturbed.
void training_test(const std::shared_ptr<Device>& device) {
  const auto trained = [&](const std::function<void(BackboneTrainer&)>& step) {
    SasRec model(device, sasrec_config());
    model.initialise(5);
    BackboneTrainer trainer(model, sequences(), sequences(), sasrec_options());
    step(trainer);
    return weights_of(model.parameters());
  };
  const std::vector<float> expected = trained([](BackboneTrainer& t) { t.run(3); });
  for (const bool all : {false, true}) {
    int64_t refused = 0;
    for (int64_t n = 0;; ++n) {
      bool reached = false, moved = false;
      const std::vector<float> weights = trained([&](BackboneTrainer& t) {
        t.run(2);
        const int64_t begin = allocations.load();
        moved = survives("training step", n, all ? INT64_MAX : n + 1, [&] { t.run(1); });
        reached = allocations.load() - begin > n;
        for (const Parameter* p : t.optimizer().parameters())
          device->fill(p->grad, p->value.size(), 0.0f);  // as the binding does behind a step that failed
        CHECK(t.optimizer().steps() == (moved ? 3 : 2));
        if (!moved) t.run(1);
      });
      if (!same(weights, expected)) {
        CHECK_WHAT(false, "weights behind request " + std::to_string(n) + " that was refused");
        return;
      }
      if (!reached) break;
      refused += !moved;
    }
    std::printf("training step: %lld requests refused\n", static_cast<long long>(refused));
    CHECK(refused > 20);
  }
}

void inference_test(const std::shared_ptr<Device>& device) {
  Opt opt(device, opt_config());
  fill(opt.parameters(), 3);
  const std::vector<std::vector<int32_t>> answers{{5, 6, 2}, {7, 2}, {9, 10, 11, 2}};
  std::vector<float> expected;
  for (const int64_t tokens : {int64_t{4096}, int64_t{4}}) {
    const auto score = [&] { return score_answers(opt, {3, 4, 5, 8}, {}, answers, tokens).sum; };
    expected = score();
    sweep(
        tokens > 4 ? "scoring at once" : "scoring in groups", [&] { score(); },
        [&] { CHECK(same(score(), expected)); });
  }
  GreedyOptions greedy;
  greedy.max_new_tokens = 5;
  greedy.eos_id = -1;
  const auto generate = [&] { return generate_greedy(opt, prompts(), {}, {}, greedy, nullptr); };
  const auto generated = generate();
  sweep(
      "generation", [&] { generate(); }, [&] { CHECK(generate() == generated); });

  SasRec model(device, sasrec_config());
  model.initialise(1);
  const std::vector<float> users = user_vectors(model, sequences());
  const auto rank = [&] { return rank_catalogue(model, users, {}, sequences(), 3).top; };
  const std::vector<int32_t> top = rank();
  sweep(
      "ranking", [&] { rank(); }, [&] { CHECK(rank() == top); });

  for (const int32_t dtype : {ALLMREC_F32, ALLMREC_I8})
    sweep(
        "making a model", [&] { Opt made(device, opt_config(dtype)); }, [] {});
  sweep(
      "opening a device", [] { Device::open("cpu", 2); }, [] {});
}

// A model whose load was refused is loaded as any other afterwards; a file whose writing was refused is not
// there.
void file_test(const std::shared_ptr<Device>& device) {
  Opt opt(device, opt_config());
  fill(opt.parameters(), 3);
  const std::string path =
      (std::filesystem::temp_directory_path() / ("allmrec-failure-" + std::to_string(std::random_device()())))
          .string();
  const auto save = [&] {
    std::vector<io::TensorToWrite> tensors;
    for (const auto& p : opt.parameters().all())
      for (io::TensorToWrite& tensor : tensors_as_stored(device, *p)) tensors.push_back(std::move(tensor));
    io::write_safetensors(path, tensors);
  };
  const std::vector<float> expected = weights_of(opt.parameters());
  sweep("saving", save, [] {});
  for (const int32_t dtype : {ALLMREC_F32, ALLMREC_BF16}) {
    Opt loaded(device, opt_config(dtype));
    loaded.load({path});
    const std::vector<float> weights = weights_of(loaded.parameters());
    CHECK(dtype != ALLMREC_F32 || same(weights, expected));
    sweep(
        "loading", [&] { loaded.load({path}); },
        [&] {
          loaded.load({path});
          CHECK(same(weights_of(loaded.parameters()), weights));
        });
  }
  std::filesystem::remove(path);
}

void encoder_test(const std::shared_ptr<Device>& device) {
  EncoderConfig config;
  config.vocab_size = 30;
  config.hidden_size = 16;
  config.num_layers = 1;
  config.num_heads = 2;
  config.intermediate_size = 32;
  config.max_positions = 8;
  SentenceEncoder encoder(device, config);
  encoder.initialise(1, 0.2f);
  TokenBatch texts;
  texts.ids = {1, 2, 3, 4, 5, 6, 7};
  texts.offsets = {0, 3, 7};
  const auto encode = [&] { return encoder.encode(texts, 4); };
  const std::vector<float> expected = encode();
  sweep(
      "encoding", [&] { encode(); }, [&] { CHECK(same(encode(), expected)); });
}

// What is refused to a generator's cache and arena is all given back.
void generator_test(const std::shared_ptr<Device>& device) {
  Opt opt(device, opt_config());
  fill(opt.parameters(), 3);
  Generator generator(opt, {});
  const auto request = [](int64_t id) {
    GenerationRequest r;
    r.id = id;
    r.ids = {3, 4, 5};
    r.options.max_new_tokens = 4;
    r.options.eos_id = -1;
    r.options.sequences = r.options.beam.beams = 2;
    return r;
  };
  const auto run = [&] {
    GenerationEvents events;
    try {
      generator.submit(request(1));
      while (generator.step(events)) {
      }
    } catch (...) {
      generator.clear();
      throw;
    }
    return std::move(events.finished.front().sequences.front().ids);
  };
  const std::vector<int32_t> expected = run();
  sweep(
      "beam search", [&] { run(); },
      [&] {
        CHECK(generator.idle());
        CHECK(run() == expected);
      });
  const auto before = device->memory().in_use;
  survives("beam search", 30, INT64_MAX, [&] { run(); });
  CHECK(device->memory().in_use <= before);
}

// The objects a failure has left behind: none.
void leak_test(const std::shared_ptr<Device>& device) {
  Opt opt(device, opt_config());
  fill(opt.parameters(), 3);
  const auto fail = [&](int64_t n) {
    survives("scoring", n, n + 1, [&] { score_answers(opt, {3, 4, 5, 8}, {}, {{5, 6, 2}, {7, 2}}, 4); });
    survives("a model", n, n + 1, [&] {
      SasRec model(device, sasrec_config());
      model.initialise(2);
      BackboneTrainer trainer(model, sequences(), sequences(), sasrec_options());
      trainer.run(1);
    });
  };
  for (int64_t n = 0; n < 400; ++n) fail(n);  // scratch memory grows to its size
  device->trim();
  const int64_t before = alive.load();
  for (int64_t n = 0; n < 400; ++n) fail(n);
  device->trim();
  const int64_t left = alive.load() - before;
  CHECK_WHAT(left <= 0, std::to_string(left) + " objects left behind");
}

// A worker's exception reaches the caller, and the team goes on.
void pool_test() {
  ThreadPool pool(3);
  for (int round = 0; round < 50; ++round) {
    bool thrown = false;
    try {
      pool.run(64, [&](int64_t task, int) {
        if (task % 7 == 3) throw std::bad_alloc();
        std::this_thread::yield();
      });
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    CHECK(thrown);
    std::atomic<int> done{0};
    pool.run(64, [&](int64_t, int) { ++done; });
    CHECK(done == 64);
  }
}

// More than the machine has is refused before the system is asked, with the numbers.
void limit_test(const std::shared_ptr<Device>& device) {
  const int64_t existing = memory_limits().existing();
  CHECK(existing > 0 && existing < INT64_MAX);
  const std::string message =
      message_of([&] { DeviceBuffer(device, static_cast<size_t>(existing) + 1, "the weights"); });
  CHECK_WHAT(message.find("not to be had for the weights") != std::string::npos &&
                 message.find("in use on this device") != std::string::npos &&
                 message.find("resident") != std::string::npos &&
                 message.find("in the machine") != std::string::npos,
             message);
  CHECK(bytes_text(999) == "999 bytes" && bytes_text(1'500'000) == "1.5 MB" &&
        bytes_text(24'000'000'000) == "24.00 GB");

  // Limits of control groups, of both versions; the least one counts, with its swap.
  const std::filesystem::path root =
      std::filesystem::temp_directory_path() / ("allmrec-limits-" + std::to_string(std::random_device()()));
  const auto put = [&](const char* file, const std::string& text) {
    std::filesystem::create_directories((root / file).parent_path());
    std::ofstream(root / file) << text;
  };
  put("proc/meminfo", "MemTotal:       4000 kB\nMemFree: 1 kB\nSwapTotal:      1000 kB\n");
  CHECK(memory_limits(root.string()).machine == 5000 * 1024);
  CHECK(memory_limits(root.string()).container == MemoryLimits::kUnlimited);
  put("proc/self/cgroup", "0::/a/b\n");
  put("sys/fs/cgroup/a/b/memory.max", "max\n");
  put("sys/fs/cgroup/a/memory.max", "700000\n");
  put("sys/fs/cgroup/a/memory.swap.max", "0\n");
  CHECK(memory_limits(root.string()).container == 700000);
  put("sys/fs/cgroup/a/memory.swap.max", "50000\n");
  CHECK(memory_limits(root.string()).existing() == 750000);
  put("proc/self/cgroup", "3:cpu:/x\n2:memory:/y\n");
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  CHECK(memory_limits(root.string()).container == MemoryLimits::kUnlimited);
  put("sys/fs/cgroup/memory/y/memory.limit_in_bytes", "300000\n");
  CHECK(memory_limits(root.string()).container == 300000 + 1000 * 1024);
  std::filesystem::remove_all(root);
}

std::string message_of_step(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::numeric);
    return error.what();
  }
  return "";
}

void expect_message(const std::string& message, const std::vector<const char*>& parts) {
  for (const char* part : parts)
    CHECK_WHAT(message.find(part) != std::string::npos, std::string("expected ") + part + " in: " + message);
}

// Weights that are finite but so large that a product of them is not.
void make_huge(ParameterSet& parameters, const char* name) {
  Parameter* p = parameters.find(name);
  std::vector<float> values(static_cast<size_t>(p->value.size()), 3e38f);
  parameters.upload(*p, values.data());
}

void finite_test(const std::shared_ptr<Device>& device) {
  {  // a loss that is not finite, found in the forward pass
    SasRec model(device, sasrec_config());
    model.initialise(5);
    BackboneTrainer trainer(model, sequences(), sequences(), sasrec_options());
    trainer.run(2);
    make_huge(model.parameters(), "forward_layers.0.conv1.weight");
    const std::vector<float> before = weights_of(model.parameters());
    const std::string message = message_of_step([&] { trainer.run(1); });
    expect_message(message, {"SASRec's loss is not finite at step 3 (bce = ", "the op `gemm`",
                             "with the weight `forward_layers.0.conv1.weight`", "× 16", "after step 2"});
    CHECK(same(weights_of(model.parameters()), before) && trainer.optimizer().steps() == 2);
  }
  {  // a finite loss whose gradients are not
    ProjectorConfig config;
    config.user_size = 4;
    config.joint_size = 4;
    config.token_size = 32;
    Projector projector(device, config);
    projector.initialise(1, 1.0f);
    Opt opt(device, opt_config());
    fill(opt.parameters(), 3);
    ProjectionTrainer trainer(projector, opt, {}, 0);
    LlmBatch batch;
    batch.ids = {3, -1, 5, -2};
    batch.offsets = {0, 4};
    batch.number_positions();
    SoftInputs soft{{1.0f, 2.0f, 3.0f, 4.0f}, {1.0f, 2.0f, 3.0f, 1.0f}};
    const TokenTargets targets{{2, 3}, {5, 6}};
    trainer.step(batch, soft, targets);
    // A layer norm of nearly constant rows: its gradient is that of its input, times a large number.
    Parameter* w0 = projector.parameters().find("log_emb_proj.0.weight");
    projector.parameters().fill(*w0, 0.0f);
    projector.parameters().fill(*projector.parameters().find("log_emb_proj.1.weight"), 1e36f);
    projector.parameters().fill(*projector.parameters().find("log_emb_proj.3.weight"), 1e-3f);
    const std::vector<float> before = weights_of(projector.parameters());
    const std::string message = message_of_step([&] { trainer.step(batch, soft, targets); });
    expect_message(message, {"Stage 2's gradients are not finite at step 2 (crossEntropy = "});
    CHECK(same(weights_of(projector.parameters()), before) && trainer.optimizer().steps() == 1);
    // What is given to it may be at fault, too.
    projector.initialise(1, 1.0f);
    soft.users[1] = std::numeric_limits<float>::infinity();
    expect_message(message_of_step([&] { trainer.step(batch, soft, targets); }),
                   {"Stage 2's loss is not finite at step 2", "what it is computed from is not finite"});
    CHECK(trainer.optimizer().steps() == 1);
  }
  {  // stage 1, and a loss that overflows although every number before it is finite
    AlignmentConfig config;
    config.item_size = config.text_size = config.joint_size = 4;
    config.activation = ALLMREC_ACT_NONE;
    Alignment alignment(device, config);
    alignment.initialise(1);
    AlignmentTrainer trainer(alignment, nullptr, false, {}, 0);
    AlignmentBatch batch;
    batch.users.assign(8, 0.1f);
    batch.positive_items.assign(8, 0.2f);
    batch.negative_items.assign(8, 0.3f);
    batch.positive_texts.assign(8, 0.4f);
    trainer.step(batch);
    alignment.parameters().fill(*alignment.parameters().find("mlp2.fc2.weight"), 1e25f);
    expect_message(message_of_step([&] { trainer.step(batch); }),
                   {"Stage 1's loss is not finite at step 2", "textReconstruction = inf", "the op `mse`"});
  }
  {  // generation and scoring
    Opt opt(device, opt_config());
    fill(opt.parameters(), 3);
    make_huge(opt.parameters(), "model.decoder.layers.1.fc2.weight");
    GreedyOptions greedy;
    greedy.max_new_tokens = 3;
    expect_message(message_of_step([&] { generate_greedy(opt, prompts(), {}, {}, greedy, nullptr); }),
                   {"logits are not finite", "the op `gemm`", "layers.1.fc2.weight"});
    expect_message(message_of_step([&] {
                     score_answers(opt, {3, 4}, {}, {{5, 6}}, 4096);
                   }),
                   {"log-probabilities are not finite", "the op `gemm`", "layers.1.fc2.weight"});
  }
  {  // a recommender
    SasRec model(device, sasrec_config());
    model.initialise(1);
    make_huge(model.parameters(), "last_layernorm.weight");
    expect_message(message_of_step([&] { user_vectors(model, sequences()); }),
                   {"user vectors are not finite", "the op `layer_norm`", "last_layernorm.weight"});
    const std::vector<float> huge(16, 3e38f);
    Sequences none;
    none.offsets = {0, 0};
    expect_message(message_of_step([&] { rank_catalogue(model, huge, {}, none, 3); }),
                   {"scores are not finite", "the op `gemm`", "item_emb.weight"});
    expect_message(message_of_step([&] { rank_catalogue(model, huge, {2}, none, 0); }),
                   {"scores are not finite"});
    expect_message(message_of_step([&] {
                     score_candidates(model, huge, {1, 2}, 2);
                   }),
                   {"scores are not finite", "the op `row_dot`"});
  }
}

}  // namespace

int main() {
  limit_test(Device::open("cpu", 1));
  pool_test();
  for (const int threads : {1, 3}) {
    const std::shared_ptr<Device> device = Device::open("cpu", threads);
    finite_test(device);
    training_test(device);
    inference_test(device);
    generator_test(device);
    file_test(device);
    encoder_test(device);
    leak_test(device);
  }
  return report();
}
