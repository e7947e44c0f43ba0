#include "projector.h"

#include <algorithm>
#include <cmath>

namespace allmrec {
namespace {

constexpr float kEps = 1e-5f;

}  // namespace

void target_loss(Tape& tape, Opt& llm, const Tensor& hidden, const TokenTargets& targets,
                 int64_t total_targets) {
  const auto own = static_cast<int64_t>(targets.rows.size());
  const float scale =
      1.0f / static_cast<float>(std::max<int64_t>(1, total_targets > 0 ? total_targets : own));
  const WithPrecision with(tape, llm.precision(tape));
  ops::linear_cross_entropy_loss(tape, "crossEntropy", hidden, &llm.head(), tape.ints(targets.tokens), scale,
                                 1.0f);
}

void expect_targets(const TokenTargets& targets, const OptConfig& config) {
  if (targets.rows.size() != targets.tokens.size() || targets.rows.empty())
    throw Error(ErrorCode::invalid_argument,
                "A language-model step needs one target token for every row, and at least one.");
  for (int32_t token : targets.tokens)
    if (token < 0 || token >= config.vocab_size)
      throw Error(ErrorCode::invalid_argument, "Target token " + std::to_string(token) +
                                                   " is outside the vocabulary of " +
                                                   std::to_string(config.vocab_size) + ".");
}

Projector::Projector(std::shared_ptr<Device> device, const ProjectorConfig& config)
    : config_(config), parameters_(std::move(device)) {
  user_ = add("log_emb_proj", config.user_size);
  item_ = add("item_emb_proj", config.joint_size);
}

Projector::Mlp Projector::add(const std::string& name, int64_t in) {
  const int64_t h = config_.token_size;
  Mlp m{};
  if (config_.kind == ProjectorKind::linear) {
    m.w3 = &parameters_.add(name + ".weight", {h, in});
    m.b3 = &parameters_.add(name + ".bias", {h});
    return m;
  }
  m.w0 = &parameters_.add(name + ".0.weight", {h, in});
  m.b0 = &parameters_.add(name + ".0.bias", {h});
  m.norm_w = &parameters_.add(name + ".1.weight", {h});
  m.norm_b = &parameters_.add(name + ".1.bias", {h});
  m.w3 = &parameters_.add(name + ".3.weight", {h, h});
  m.b3 = &parameters_.add(name + ".3.bias", {h});
  return m;
}

void Projector::initialise(uint64_t seed, float scale) {
  for (const auto& p : parameters_.all()) parameters_.fill(*p, 0.0f);
  for (const Mlp* m : {&user_, &item_}) {
    if (m->w0) {
      parameters_.xavier_normal(*m->w0, seed);
      parameters_.fill(*m->norm_w, 1.0f);
    }
    parameters_.xavier_normal(*m->w3, seed);
    if (scale != 1.0f)
      parameters_.device()->add(
          {m->w3->value.size(), scale, m->w3->value.data, 0.0f, nullptr, m->w3->value.data, 0, ALLMREC_F32});
  }
}

void Projector::load(const std::vector<std::string>& paths) {
  parameters_.load(open_files(paths), [](const std::string& name) {
    // The authors save each projection in a file of its own, without its name.
    return std::vector<std::string>{name};
  });
}

Tensor Projector::run(Tape& tape, const Mlp& m, const Tensor& x, int activation) {
  if (m.w0 == nullptr) return ops::linear(tape, x, m.w3, m.b3);
  const Tensor normed = ops::layer_norm(tape, ops::linear(tape, x, m.w0, m.b0), *m.norm_w, *m.norm_b, kEps);
  return ops::linear(tape, ops::activation(tape, activation, normed), m.w3, m.b3);
}

Tensor Projector::users(Tape& tape, const Tensor& x) {
  return run(tape, user_, x, ALLMREC_ACT_LEAKY_RELU);
}

Tensor Projector::items(Tape& tape, const Tensor& e) {
  return run(tape, item_, e, ALLMREC_ACT_GELU);
}

ProjectionTrainer::ProjectionTrainer(Projector& projector, Opt& llm, const AdamOptions& options,
                                     uint64_t seed)
    : projector_(projector),
      llm_(llm),
      seed_(seed),
      arena_(projector.parameters().device()),
      adam_(projector.parameters().device(), projector.parameters().train_all(), options) {
  llm.parameters().set_trainable(false);
}

std::map<std::string, double> ProjectionTrainer::forward(Tape& tape, const LlmBatch& batch,
                                                         const SoftInputs& soft, const TokenTargets& targets,
                                                         int64_t total_targets, bool backward) {
  expect_targets(targets, llm_.config());
  auto matrix = [&tape](const std::vector<float>& values, int64_t cols) {
    return tape.from_host(values.data(), static_cast<int64_t>(values.size()) / cols, cols);
  };
  Tensor users, items;
  if (!soft.users.empty()) users = projector_.users(tape, matrix(soft.users, projector_.config().user_size));
  if (!soft.items.empty()) items = projector_.items(tape, matrix(soft.items, projector_.config().joint_size));
  const Tensor hidden = llm_.hidden(tape, batch, ops::concat_rows(tape, users, items), targets.rows);
  target_loss(tape, llm_, hidden, targets, total_targets);
  if (backward) tape.backward();
  return tape.read_losses();
}

Training ProjectionTrainer::training() {
  return {"Stage 2", adam_, {&projector_.parameters(), &llm_.parameters()}};
}

std::map<std::string, double> ProjectionTrainer::gradients(const LlmBatch& batch, const SoftInputs& soft,
                                                           const TokenTargets& targets,
                                                           int64_t total_targets) {
  arena_.reset();
  Tape tape(*projector_.parameters().device(), arena_, true, seed_, static_cast<uint64_t>(adam_.steps()));
  return forward(tape, batch, soft, targets, total_targets, true);
}

std::map<std::string, double> ProjectionTrainer::step(const LlmBatch& batch, const SoftInputs& soft,
                                                      const TokenTargets& targets, int64_t total_targets) {
  return finite_step(training(), [&] { return gradients(batch, soft, targets, total_targets); });
}

std::map<std::string, double> ProjectionTrainer::accumulate(const LlmBatch& batch, const SoftInputs& soft,
                                                            const TokenTargets& targets,
                                                            int64_t total_targets) {
  return finite_losses(training(), [&] { return gradients(batch, soft, targets, total_targets); });
}

std::map<std::string, double> ProjectionTrainer::evaluate(const LlmBatch& batch, const SoftInputs& soft,
                                                          const TokenTargets& targets, bool keep_gradients) {
  return finite_losses(training(), [&] {
    arena_.reset();
    Tape tape(*projector_.parameters().device(), arena_, keep_gradients, seed_, 0);
    return forward(tape, batch, soft, targets, 0, keep_gradients);
  });
}

namespace {

std::vector<Parameter*> all_but(ParameterSet& parameters, const std::vector<std::string>& frozen) {
  for (const std::string& name : frozen)
    if (parameters.find(name) == nullptr)
      throw Error(ErrorCode::invalid_argument, "There is no weight `" + name + "` to freeze.");
  std::vector<Parameter*> result;
  for (Parameter* p : parameters.train_all())
    if (std::find(frozen.begin(), frozen.end(), p->name) == frozen.end()) result.push_back(p);
  return result;
}

}  // namespace

LlmTrainer::LlmTrainer(Opt& llm, const AdamOptions& options, const std::vector<std::string>& frozen)
    : llm_(llm),
      arena_(llm.parameters().device()),
      adam_(llm.parameters().device(), all_but(llm.parameters(), frozen), options) {}

LlmTrainer::Result LlmTrainer::forward(Tape& tape, const LlmBatch& batch, const std::vector<float>& soft,
                                       const TokenTargets& targets, bool backward, bool soft_gradient) {
  expect_targets(targets, llm_.config());
  Tensor soft_rows;
  if (!soft.empty()) {
    const int64_t width = llm_.config().embed_size;
    soft_rows = tape.from_host(soft.data(), static_cast<int64_t>(soft.size()) / width, width);
    if (soft_gradient) soft_rows = tape.variable(soft_rows);
  }
  target_loss(tape, llm_, llm_.hidden(tape, batch, soft_rows, targets.rows), targets);
  if (backward) tape.backward();
  Result result;
  result.losses = tape.read_losses();
  if (backward && soft_gradient) result.soft_gradient = tape.grad_to_host(soft_rows);
  return result;
}

LlmTrainer::Result LlmTrainer::step(const LlmBatch& batch, const std::vector<float>& soft,
                                    const TokenTargets& targets) {
  Result result;
  result.losses = finite_step({"The language model", adam_, {&llm_.parameters()}}, [&] {
    arena_.reset();
    Tape tape(*llm_.parameters().device(), arena_, true, 0, 0);
    return forward(tape, batch, soft, targets, true, false).losses;
  });
  return result;
}

LlmTrainer::Result LlmTrainer::evaluate(const LlmBatch& batch, const std::vector<float>& soft,
                                        const TokenTargets& targets, bool keep_gradients) {
  Result result;
  finite_losses({"The language model", adam_, {&llm_.parameters()}}, [&] {
    arena_.reset();
    Tape tape(*llm_.parameters().device(), arena_, keep_gradients, 0, 0);
    result = forward(tape, batch, soft, targets, keep_gradients, keep_gradients);
    return result.losses;
  });
  return result;
}

}  // namespace allmrec
