// What several engines share, and what several threads do to one: back ends and devices opened at once,
// memory taken and given back beside a step, requests that join a running batch, training in two engines,
// profiles, files. The results are those of one thread alone; the thread sanitizer sees the rest.
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <random>
#include <thread>

#include "../cpp/backend/profile.h"
#include "../cpp/backend/registry.h"
#include "../cpp/core/cancellation.h"
#include "../cpp/io/safetensors.h"
#include "../cpp/models/backbone_trainer.h"
#include "../cpp/models/backbones/sas_rec.h"
#include "../cpp/models/generation/shared_generator.h"
#include "check.h"
#include "tiny_opt.h"

using namespace allmrec;
using namespace allmrec::test;

namespace {

template <typename Fn>
void in_threads(int threads, const Fn& fn) {
  std::vector<std::thread> team;
  for (int t = 0; t < threads; ++t) team.emplace_back([&fn, t] { fn(t); });
  for (std::thread& thread : team) thread.join();
}

// Back ends are found, named and opened in every thread, as `listDevices` and new engines do in workers.
void registry_tests() {
  in_threads(4, [](int t) {
    for (int round = 0; round < 10; ++round) {
      if (t % 2) set_backend_library("cudaemu", "/nowhere/allmrec_" + std::to_string(t) + ".so");
      const std::vector<DeviceDescription> devices = Device::list();
      CHECK(!devices.empty() && devices.front().backend == "cpu" && devices.front().available);
      CHECK(find_backend("cpu") != nullptr);
      CHECK_THROWS(Device::open("tpu", 1), "`tpu`");
      const std::shared_ptr<Device> device = Device::open("cpu", 1 + (t + round) % 3);
      DeviceBuffer buffer(device, 4096);
      device->fill(buffer.as<float>(), 1024, static_cast<float>(t));
      std::vector<float> values(1024);
      device->download(values.data(), buffer.as<void>(), 4096);
      CHECK(values.front() == static_cast<float>(t) && values.back() == static_cast<float>(t));
    }
  });
}

// Models are made and dropped on one thread while another computes; either fails with its own sentence.
void memory_tests() {
  const std::shared_ptr<Device> device = Device::open("cpu", 3);
  std::atomic<bool> done{false};
  std::thread computing([&] {
    constexpr int64_t kSize = 96;
    DeviceBuffer a(device, kSize * kSize * 4), c(device, kSize * kSize * 4);
    device->fill(a.as<float>(), kSize * kSize, 0.5f);
    allmrec_gemm_args args{};
    args.m = args.n = args.k = args.lda = args.ldb = args.ldc = kSize;
    args.a = args.b = a.as<void>(), args.c = c.as<void>(), args.alpha = 1;
    for (int round = 0; round < 200; ++round) {
      device->gemm(args);
      DeviceBuffer scratch(device, size_t{1} << (10 + round % 10));
      allmrec_gemm_args wrong = args;
      wrong.m = -1;
      CHECK_THROWS(device->gemm(wrong), "gemm");
    }
    float corner = 0;
    device->download(&corner, c.as<void>(), sizeof corner);
    CHECK(corner == 0.25f * kSize);
    done = true;
  });
  const auto others = [&](int t) {
    std::vector<DeviceBuffer> kept;
    for (size_t round = 0; !done.load() || round < 50; ++round) {
      const auto own = -static_cast<int64_t>(2 + 3 * round) - 3 * int64_t{t} * 1000000;
      allmrec_gemm_args wrong{};
      wrong.m = own;
      CHECK_THROWS(device->gemm(wrong), "is " + std::to_string(own));
      CHECK_THROWS(device->alloc(SIZE_MAX / 8, "a test"), "not to be had for a test");
      kept.emplace_back(device, size_t{1} << (round % 18));
      if (round % 5 == 0) kept.clear();
      CHECK(device->memory().in_use >= 0);
    }
  };
  in_threads(2, others);
  computing.join();
}

// — samplers and trainers —

Sequences histories(int64_t users, int64_t items) {
  std::mt19937_64 engine(29);
  Sequences all;
  for (int64_t u = 0; u < users; ++u) {
    const auto length = static_cast<int64_t>(engine() % 12);
    for (int64_t i = 0; i < length; ++i)
      all.items.push_back(1 + static_cast<int32_t>(engine() % static_cast<uint64_t>(items)));
    all.offsets.push_back(static_cast<int64_t>(all.items.size()));
  }
  return all;
}

SasRecConfig sas_rec_config() {
  SasRecConfig config;
  config.num_items = 60;
  config.max_length = 10;
  config.hidden_units = 16;
  config.num_blocks = 2;
  config.num_heads = 2;
  config.dropout_rate = 0.2f;
  return config;
}

struct Trained {
  double loss;
  std::vector<float> table;
  std::vector<int32_t> ranks;
  bool operator==(const Trained& other) const {
    return loss == other.loss && table == other.table && ranks == other.ranks;
  }
};

Trained train(int threads, const char* loss) {
  const std::shared_ptr<Device> device = Device::open("cpu", threads);
  SasRec model(device, sas_rec_config());
  model.initialise(7);
  BackboneTrainOptions options;
  options.batch_size = 16;
  options.model.set("loss", std::string(loss));
  options.seed = 3;
  const Sequences all = histories(48, 60);
  BackboneTrainer trainer(model, all, all, options);
  Trained result;
  result.loss = trainer.run(12);
  result.table = model.parameters().value_to_host(*model.item_embedding());
  const std::vector<float> users = user_vectors(model, all);
  result.ranks = rank_catalogue(model, users, {}, all, 5).top;
  return result;
}

// Two engines train at once, each with a team; negatives, order and dropout follow from the seed alone.
void training_tests() {
  for (const char* loss : {"bce", "softmax"}) {
    const Trained alone = train(1, loss);
    CHECK(std::isfinite(alone.loss));
    std::vector<Trained> results(3);
    in_threads(3, [&](int t) { results[static_cast<size_t>(t)] = train(2 + t, loss); });
    for (const Trained& result : results) CHECK(result == alone);
  }
}

// A flag set on another thread ends a run that would take for ever.
void cancel_tests() {
  const std::shared_ptr<Device> device = Device::open("cpu", 3);
  SasRec model(device, sas_rec_config());
  model.initialise(1);
  const Sequences all = histories(48, 60);
  BackboneTrainer trainer(model, all, all, {});
  for (int round = 0; round < 5; ++round) {
    std::atomic<bool> cancelled{false};
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(2 * round));
      cancelled = true;
    });
    const Cancellation scope(&cancelled);
    CHECK_THROWS(trainer.run(int64_t{1} << 40), "cancelled");
    other.join();
  }
}

// — generation —

using Answers = std::map<int64_t, std::vector<GeneratedSequence>>;

// Every request once, in the order in which they come.
Answers answers_of(SharedGenerator& generator, size_t expected) {
  Answers answers;
  while (answers.size() < expected) {
    GenerationEvents events = generator.advance([] { return false; });
    for (FinishedRequest& finished : events.finished) {
      CHECK(answers.count(finished.request) == 0);
      answers[finished.request] = std::move(finished.sequences);
    }
    if (events.empty()) std::this_thread::yield();
  }
  return answers;
}

// Requests come from three threads into a batch that a fourth steps, and some are aborted on the way. Beams
// and samples are drawn as if each request were alone.
void generation_tests() {
  const std::shared_ptr<Device> device = Device::open("cpu", 2);
  const std::unique_ptr<Opt> model = tiny_model(device);
  const std::vector<GenerationRequest> requests = mixed_requests();
  GeneratorOptions options;
  options.slots = 7;
  Answers alone;
  for (const GenerationRequest& request : requests) {
    SharedGenerator generator(*model, options);
    generator.submit(request);
    alone[request.id] = answers_of(generator, 1).at(request.id);
  }
  SharedGenerator generator(*model, options);
  const auto aborted = [](int64_t id) { return id % 4 == 3; };
  const auto submit = [&](int t) {
    for (size_t i = static_cast<size_t>(t); i < requests.size(); i += 3) {
      generator.submit(requests[i]);
      if (aborted(requests[i].id)) generator.abort(requests[i].id);
      GenerationRequest wrong = requests[i];
      wrong.ids = {1000};
      CHECK_THROWS(generator.submit(wrong), "Token 1000");
      std::this_thread::yield();
    }
  };
  std::vector<std::thread> submitters;
  for (int t = 0; t < 3; ++t) submitters.emplace_back([&submit, t] { submit(t); });
  const Answers together = answers_of(generator, requests.size());
  for (std::thread& thread : submitters) thread.join();
  CHECK(together.size() == requests.size());
  for (const auto& [id, sequences] : together) {
    const std::vector<GeneratedSequence>& own = alone[id];
    CHECK(sequences.size() == own.size());
    for (size_t s = 0; s < sequences.size(); ++s)
      if (sequences[s].reason != FinishReason::abort)
        CHECK_WHAT(sequences[s].ids == own[s].ids, "ids of request " + std::to_string(id));
      else
        CHECK(aborted(id) && sequences[s].ids.size() <= own[s].ids.size());
  }
}

// — profiles and files —

// What ops took is counted in each engine for itself; the table is made on the thread that ends it.
void profile_tests() {
  const std::shared_ptr<Device> device = Device::open("cpu", 4);
  Profile profile(device);
  std::thread computing([&] {
    SasRec model(device, sas_rec_config());
    model.initialise(1);
    const Sequences all = histories(48, 60);
    BackboneTrainer(model, all, all, {}).run(3);
  });
  computing.join();
  const std::string table = profile.table();
  CHECK(table.find("all ops") != std::string::npos && table.find("gemm") != std::string::npos);
}

// Checkpoints written at once, to one name and to several: each is whole.
void file_tests() {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("allmrec-thread-test-" + std::to_string(getpid()));
  std::filesystem::create_directory(folder);
  in_threads(4, [&](int t) {
    const std::vector<float> values(2000, static_cast<float>(t));
    for (int round = 0; round < 10; ++round)
      for (const std::string& name : {std::string("shared"), "own-" + std::to_string(t)})
        io::write_safetensors((folder / name).string(),
                              {{"x", io::FileDType::F32, {2000}, values.data(), nullptr}});
  });
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    ++files;
    const auto file = io::TensorFile::open(entry.path().string());
    CHECK(file->find("x") != nullptr);
  }
  CHECK(files == 5);
  std::filesystem::remove_all(folder);
}

}  // namespace

int main() {
  registry_tests();
  memory_tests();
  training_tests();
  cancel_tests();
  generation_tests();
  profile_tests();
  file_tests();
  return report();
}
