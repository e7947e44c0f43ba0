// Small steps of every model on a device and on the CPU, from the same weights: how far losses, outputs and
// gradients lie apart.
//   a-llmrec-parity [--device cuda|cudaemu|cpu]
// Ends with 1 when a float32 difference exceeds 1e-4, or a half one its own bound. With `cpu`, two threads
// are compared with one, which must agree exactly.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../cpp/models/alignment.h"
#include "../cpp/models/backbone_trainer.h"
#include "../cpp/models/backbones/sas_rec.h"
#include "../cpp/models/generation/greedy.h"
#include "../cpp/models/gru.h"
#include "../cpp/models/projector.h"

namespace {

using namespace allmrec;
using Values = std::vector<float>;

// Float32 sums in another order differ by 1e-6; two layers, forward and back, by ten times that. TF32, a mask
// that is off by one, or a missing term are far above.
constexpr double kFloat32 = 1e-4;
// A rounding to 8 bits is off by 2⁻⁹, or 0.2 %; some twenty of them lie one behind another. Weights of int8
// and int4 may meet activations of 8 bits.
constexpr double kBfloat16 = 3e-2;
// Where an activation turns on or off (ReLU), a share f of its units falls on the other side, and the
// gradient changes by √f: half a percent of error in what goes in turns some 0.3 % of the units, which is 5 %
// a layer. With GELU nothing turns.
constexpr double kBfloat16Relu = 0.15;
constexpr double kFloat16 = 1e-2;
constexpr double kQuantised = 3e-2;

double norm(const Values& x) {
  double sum = 0;
  for (float v : x) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}

// What one device computed, in order, under names.
struct Results {
  struct Item {
    std::string name;
    Values values;
    double tolerance;
    std::string group;  // gradients of one model: the smallest are compared on the scale of the largest
  };
  std::vector<Item> items;

  void add(const std::string& name, Values values, double tolerance = kFloat32) {
    items.push_back({name, std::move(values), tolerance, ""});
  }
  void add(const std::string& name, const std::map<std::string, double>& losses,
           double tolerance = kFloat32) {
    for (const auto& [term, value] : losses)
      add(name + " loss " + term, Values{static_cast<float>(value)}, tolerance);
  }
  void gradients(const std::string& name, ParameterSet& parameters, double tolerance = kFloat32) {
    for (Parameter* p : parameters.trainable())
      items.push_back({name + " gradient " + p->name, parameters.grad_to_host(*p), tolerance, name});
  }
  void weights(const std::string& name, ParameterSet& parameters) {
    for (Parameter* p : parameters.trainable())
      items.push_back(
          {name + " weight after the step " + p->name, parameters.value_to_host(*p), kFloat32, ""});
  }
};

// Random numbers that do not depend on the device.
class Numbers {
 public:
  float uniform(float low, float high) {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return low + (high - low) * static_cast<float>(state_ >> 40) * 0x1p-24f;
  }
  int32_t below(int64_t n) {
    return static_cast<int32_t>(uniform(0, 1) * static_cast<float>(n)) % static_cast<int32_t>(n);
  }
  Values values(int64_t n, float bound = 1.0f) {
    Values x(static_cast<size_t>(n));
    for (float& v : x) v = uniform(-bound, bound);
    return x;
  }
  // Matrices by fan-in, norms around one, biases small: every term of every gradient counts.
  void fill(ParameterSet& parameters) {
    for (const auto& p : parameters.all()) {
      const bool scale = p->shape.size() == 1 && p->name.find("weight") != std::string::npos;
      const float bound = p->shape.size() == 1 ? 0.1f : std::sqrt(3.0f / static_cast<float>(p->shape.back()));
      Values x = values(p->value.size(), bound);
      if (scale)
        for (float& v : x) v += 1.0f;
      parameters.upload(*p, x.data());
    }
  }

 private:
  uint64_t state_ = 20260101;
};

SequenceBatch histories(Numbers& random, int64_t items) {
  SequenceBatch batch;
  for (int32_t length : {12, 1, 7, 0, 12, 4}) {  // full, single, padded, empty
    std::vector<int32_t> history;
    for (int32_t i = 0; i < length; ++i) history.push_back(1 + random.below(items));
    batch.add(history.data(), length, 12);
  }
  return batch;
}

void sasrec(const std::shared_ptr<Device>& device, Results& results) {
  for (SasRecVariant variant : {SasRecVariant::reference, SasRecVariant::pre_norm}) {
    const std::string name = variant == SasRecVariant::reference ? "sasrec" : "sasrec pre-norm";
    Numbers random;
    SasRecConfig config;
    config.num_items = 60, config.max_length = 12, config.hidden_units = 20, config.num_heads = 2;
    config.dropout_rate = 0.2f, config.variant = variant;
    SasRec model(device, config);
    random.fill(model.parameters());
    Examples examples;
    examples.histories = histories(random, config.num_items);
    for (size_t i = 0; i < examples.histories.items.size(); ++i) {
      examples.positives.push_back(1 + random.below(config.num_items));
      examples.negatives.push_back(1 + random.below(config.num_items));
    }
    Arena arena(device);
    Tape tape(*device, arena, false);
    const Tensor last = model.user_vectors(tape, examples.histories, {});
    Values features(static_cast<size_t>(last.size()));
    device->download(features.data(), last.data, features.size() * sizeof(float));
    results.add(name + " features", features);
    if (variant != SasRecVariant::reference) continue;  // the other layouts can be used, not trained
    Sequences users;
    for (int64_t u = 0; u < 4; ++u) {
      for (int i = 0; i < 5; ++i) users.items.push_back(1 + random.below(config.num_items));
      users.offsets.push_back(static_cast<int64_t>(users.items.size()));
    }
    Sequences known = users;
    known.sort();
    BackboneTrainOptions options;
    options.l2_embedding = 0.01f;
    // A key's bias has no gradient but for rounding, which Adam would blow up to a whole step.
    options.adam.eps = 1e-3f;
    BackboneTrainer trainer(model, users, known, options);
    results.add(name, trainer.gradients(examples));
    results.gradients(name, model.parameters());
    model.parameters().zero_grad();
    for (int step = 0; step < 3; ++step) results.add(name + " step", trainer.step(examples));
    results.weights(name, model.parameters());
    const std::vector<float> vectors = user_vectors(model, users);
    results.add(name + " user vectors", vectors);
    const FullRanking ranking = rank_catalogue(model, vectors, {}, known, 5);
    results.add(name + " best scores", ranking.top_scores);
  }
}

EncoderConfig small_encoder() {
  EncoderConfig config;
  config.vocab_size = 90, config.hidden_size = 48, config.num_layers = 2, config.num_heads = 3;
  config.intermediate_size = 100, config.max_positions = 20, config.dropout_rate = 0.1f;
  return config;
}

TokenBatch texts(Numbers& random, int64_t vocabulary) {
  TokenBatch batch;
  for (int length : {17, 1, 9, 20}) {
    for (int i = 0; i < length; ++i) batch.ids.push_back(random.below(vocabulary));
    batch.offsets.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  return batch;
}

void stage_one(const std::shared_ptr<Device>& device, Results& results) {
  Numbers random;
  const EncoderConfig config = small_encoder();
  SentenceEncoder encoder(device, config);
  random.fill(encoder.parameters());
  AlignmentConfig shape;
  shape.item_size = 20, shape.text_size = config.hidden_size, shape.joint_size = 16;
  Alignment alignment(device, shape);
  random.fill(alignment.parameters());
  AlignmentBatch batch;
  batch.users = random.values(4 * 20), batch.positive_items = random.values(4 * 20);
  batch.negative_items = random.values(4 * 20);
  batch.positive_tokens = texts(random, config.vocab_size);
  batch.negative_tokens = texts(random, config.vocab_size);
  results.add("encoder texts", encoder.encode(batch.positive_tokens, 30));
  AlignmentTrainer trainer(alignment, &encoder, true, AdamOptions{}, 5);
  results.add("stage 1", trainer.evaluate(batch, true));
  results.gradients("stage 1", alignment.parameters());
  results.gradients("stage 1 encoder", encoder.parameters());
  alignment.parameters().zero_grad();
  encoder.parameters().zero_grad();
  for (int step = 0; step < 2; ++step) results.add("stage 1 step", trainer.step(batch));
}

void gru(const std::shared_ptr<Device>& device, Results& results) {
  Numbers random;
  GruConfig config;
  config.input_size = 10, config.hidden_size = 18, config.num_layers = 2;
  Gru model(device, config);
  random.fill(model.parameters());
  model.parameters().set_trainable(true);
  Arena arena(device);
  Tape tape(*device, arena, true);
  constexpr int64_t kBatch = 3, kSteps = 5;
  const Tensor x =
      tape.variable(tape.from_host(random.values(kBatch * kSteps * 10).data(), kBatch * kSteps, 10));
  std::vector<Tensor> h0;
  for (int layer = 0; layer < 2; ++layer)
    h0.push_back(tape.variable(tape.from_host(random.values(kBatch * 18).data(), kBatch, 18)));
  const Gru::Output out = model.forward(tape, x, h0, kBatch, kSteps);
  const Tensor w = tape.from_host(random.values(out.y.size()).data(), out.y.rows, out.y.cols);
  ops::weighted_sum_loss(tape, "sum", out.y, w, 1.0f);
  tape.backward();
  results.add("gru", tape.read_losses());
  results.gradients("gru", model.parameters());
  results.add("gru gradient of the inputs", tape.grad_to_host(x));
  results.add("gru gradient of the first state", tape.grad_to_host(h0[0]));
}

struct Prompts {
  LlmBatch batch;
  std::vector<int32_t> rows;
  TokenTargets targets;
};

// Two prompts with soft tokens; behind the first, two candidates that see the prompt and themselves.
Prompts prompts(Numbers& random, int64_t vocabulary) {
  Prompts p;
  LlmBatch& b = p.batch;
  const auto push = [&](int32_t id, int32_t position, int32_t prefix, int32_t begin) {
    b.ids.push_back(id), b.positions.push_back(position);
    b.prefix.push_back(prefix), b.own_begin.push_back(begin);
  };
  int32_t soft = 0;
  for (int32_t length : {19, 11}) {
    for (int32_t i = 0; i < length; ++i) push(i % 5 == 0 ? -(++soft) : random.below(vocabulary), i, 0, 0);
    const auto last = static_cast<int32_t>(b.ids.size()) - 1;
    p.rows.push_back(last);
    if (length == 19) {
      for (int32_t candidate = 0; candidate < 2; ++candidate)
        for (int32_t i = 0; i < 3; ++i) {
          push(random.below(vocabulary), length + i, length, length + 3 * candidate);
          p.rows.push_back(static_cast<int32_t>(b.ids.size()) - 1);
        }
    }
    b.offsets.push_back(static_cast<int32_t>(b.ids.size()));
  }
  p.targets.rows = p.rows;
  for (size_t i = 0; i < p.rows.size(); ++i) p.targets.tokens.push_back(random.below(vocabulary));
  return p;
}

constexpr int kSoftTokens = 7;  // of the prompts above

void language_model(const std::shared_ptr<Device>& device, Results& results, int32_t dtype, double tolerance,
                    int activation = ALLMREC_ACT_RELU) {
  constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "int8", "int4"};
  const bool relu = activation == ALLMREC_ACT_RELU;
  const std::string kind = std::string(kNames[dtype]) + (relu ? "" : " gelu"), name = "opt " + kind;
  Numbers random;
  OptConfig config;
  config.vocab_size = 120, config.hidden_size = config.embed_size = 64, config.num_layers = 3;
  config.num_heads = 4, config.ffn_size = 128, config.max_positions = 64, config.dtype = dtype;
  config.activation = activation;
  Opt model(device, config);
  random.fill(model.parameters());
  const Prompts p = prompts(random, config.vocab_size);
  const Values soft = random.values(kSoftTokens * 64);
  Arena arena(device);
  {
    Tape tape(*device, arena, false);
    const Tensor soft_rows = tape.from_host(soft.data(), kSoftTokens, 64);
    const Tensor logits = model.logits(tape, model.hidden(tape, p.batch, soft_rows, p.rows));
    Values host(static_cast<size_t>(logits.size()));
    device->download(host.data(), logits.data, host.size() * sizeof(float));
    results.add(name + " logits", host, tolerance);
    std::vector<int32_t> pair_rows, pair_targets;
    for (int32_t i = 0; i < 12; ++i) {
      pair_rows.push_back(i % static_cast<int32_t>(p.rows.size()));
      pair_targets.push_back(random.below(config.vocab_size));
    }
    const Tensor hidden = model.hidden(tape, p.batch, soft_rows, p.rows);
    results.add(name + " log-probabilities", model.log_probs(tape, hidden, pair_rows, pair_targets),
                tolerance);
  }
  if (dtype == ALLMREC_F32) {
    // Decoding goes on from a cache, and ends in tokens: equal, or not.
    LlmBatch plain;
    for (int32_t length : {9, 14}) {
      for (int32_t i = 0; i < length; ++i) plain.ids.push_back(random.below(config.vocab_size));
      plain.offsets.push_back(static_cast<int32_t>(plain.ids.size()));
    }
    plain.number_positions();
    GreedyOptions options;
    options.max_new_tokens = 6, options.eos_id = -1;
    for (float penalty : {1.0f, 1.5f}) {
      options.repetition_penalty = penalty;
      Values tokens;
      for (const auto& sequence : generate_greedy(model, plain, {}, {{1, 2}, {3}}, options, {}))
        tokens.insert(tokens.end(), sequence.begin(), sequence.end());
      results.add(penalty == 1.0f ? "opt generated tokens" : "opt generated tokens, penalty", tokens, 0);
    }
    LlmTrainer trainer(model, AdamOptions{});
    const LlmTrainer::Result step = trainer.evaluate(p.batch, soft, p.targets, true);
    results.add("opt training", step.losses);
    results.add("opt gradient of the soft tokens", step.soft_gradient);
    results.gradients("opt training", model.parameters());
    model.parameters().zero_grad();
  }
  if (dtype != ALLMREC_F32 && dtype != ALLMREC_BF16) return;
  ProjectorConfig shape;
  shape.user_size = 20, shape.joint_size = 16, shape.token_size = 64;
  Projector projector(device, shape);
  random.fill(projector.parameters());
  SoftInputs inputs;
  inputs.users = random.values(2 * 20), inputs.items = random.values((kSoftTokens - 2) * 16);
  ProjectionTrainer trainer(projector, model, AdamOptions{}, 3);
  const std::string stage = "stage 2 " + kind;
  results.add(stage, trainer.evaluate(p.batch, inputs, p.targets, true), tolerance);
  results.gradients(stage, projector.parameters(), dtype == ALLMREC_BF16 && relu ? kBfloat16Relu : tolerance);
  projector.parameters().zero_grad();
  for (int step = 0; step < 2; ++step)
    results.add(stage + " step", trainer.step(p.batch, inputs, p.targets), tolerance);
}

Results run(const std::string& name, int threads) {
  const std::shared_ptr<Device> device = Device::open(name, threads);
  Results results;
  sasrec(device, results);
  stage_one(device, results);
  gru(device, results);
  language_model(device, results, ALLMREC_F32, kFloat32);
  language_model(device, results, ALLMREC_F16, kFloat16);
  language_model(device, results, ALLMREC_BF16, kBfloat16);
  language_model(device, results, ALLMREC_BF16, kBfloat16, ALLMREC_ACT_GELU);
  language_model(device, results, ALLMREC_I8, kQuantised);
  language_model(device, results, ALLMREC_I4, kQuantised);
  return results;
}

// Prints the largest difference of every kind of result, and gives the number of those beyond their bound.
int compare(const Results& device, const Results& reference, bool exact) {
  int failed = 0;
  std::map<std::string, double> scales;
  for (const auto& item : reference.items)
    if (!item.group.empty()) scales[item.group] = std::max(scales[item.group], norm(item.values));
  struct Worst {
    double error = 0, tolerance = 0;
    std::string name;
  };
  std::map<std::string, Worst> worst;  // by what stands before " gradient ", " weight " or " loss "
  for (size_t i = 0; i < reference.items.size(); ++i) {
    const auto &mine = device.items[i], &theirs = reference.items[i];
    Values difference(theirs.values.size());
    bool same_size = mine.values.size() == theirs.values.size();
    for (size_t j = 0; same_size && j < difference.size(); ++j)
      difference[j] = mine.values[j] == theirs.values[j] ? 0.0f : mine.values[j] - theirs.values[j];
    // Some gradients are zero but for rounding (a key's bias): they are measured on the scale of the others.
    double scale = norm(theirs.values);
    if (!theirs.group.empty()) scale = std::max(scale, 1e-3 * scales[theirs.group]);
    const double distance = norm(difference);
    const double error = !same_size ? INFINITY : distance == 0 ? 0 : distance / scale;
    const double tolerance = exact ? 0 : theirs.tolerance;
    if (!(error <= tolerance)) {
      ++failed;
      std::printf("FAIL %s: relative difference %.3g, bound %.3g\n", theirs.name.c_str(), error, tolerance);
    }
    std::string kind = theirs.name;
    for (const char* part : {" gradient ", " weight ", " loss "})
      if (const size_t at = kind.find(part); at != std::string::npos)
        kind = kind.substr(0, at + std::strlen(part) - 1);
    Worst& w = worst[kind];
    if (!(error <= w.error) || w.name.empty()) w = {error, tolerance, theirs.name};
  }
  for (const auto& [kind, w] : worst)
    std::printf("%-44s %.3g (bound %.3g)\n", kind.c_str(), w.error, w.tolerance);
  std::printf("parity: %d passed, %d failed\n", static_cast<int>(reference.items.size()) - failed, failed);
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  std::string name = "cuda";
  if (argc == 3 && std::strcmp(argv[1], "--device") == 0) {
    name = argv[2];
  } else if (argc != 1) {
    std::fprintf(stderr, "Usage: a-llmrec-parity [--device cuda|cudaemu|cpu]\n");
    return 2;
  }
  try {
    const bool exact = name == "cpu";
    const Results reference = run("cpu", 1);
    return compare(run(name, exact ? 2 : 0), reference, exact) == 0 ? 0 : 1;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
