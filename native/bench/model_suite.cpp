// The models' steps as users run them: SASRec's training step, the sentence encoder, and the language model's
// prefill, decoding and stage-2 step. Names, shapes and units are those of scripts/gpu/peers.py.

#include <chrono>

#include "../cpp/models/backbone_trainer.h"
#include "../cpp/models/backbones/sas_rec.h"
#include "../cpp/models/generation/greedy.h"
#include "../cpp/models/projector.h"
#include "../cpp/models/sentence_encoder.h"
#include "language_model.h"

namespace allmrec::bench {
namespace {

using Clock = std::chrono::steady_clock;

double total_of(double n) {
  return n * (n + 1) / 2;
}

RowName model_row(const std::string& name, const std::string& shape, int32_t dtype, const std::string& unit) {
  RowName row;
  row.suite = "models", row.op = "", row.name = name, row.shape = shape, row.dtype = dtype, row.unit = unit;
  return row;
}

// One training step, drawing its users and negatives on the host included; ten are run at a time, as the
// training loop does between two looks at the clock.
void sasrec(Bench& bench, bool sparse) {
  const int64_t batch = bench.quick() ? 8 : 128, length = bench.quick() ? 12 : 50;
  const int64_t hidden = bench.quick() ? 16 : 50, items = bench.quick() ? 100 : 24000;
  const int64_t users = bench.quick() ? 20 : 4096,
                filled = sparse ? std::max<int64_t>(1, length / 8) : length;
  const std::string shape =
      std::to_string(batch) + "x" + std::to_string(length) + "x" + std::to_string(hidden);
  const auto name =
      model_row(sparse ? "sasrec step sparse" : "sasrec step", shape, ALLMREC_F32, "sequences/s");
  const int64_t steps = bench.quick() ? 1 : 10;
  bench.row(name, [&] {
    SasRecConfig config;
    config.num_items = items, config.max_length = static_cast<int>(length);
    config.hidden_units = static_cast<int>(hidden), config.dropout_rate = 0.2f;
    auto model = std::make_shared<SasRec>(bench.shared_device(), config);
    model->initialise(1);
    Sequences histories;
    uint32_t state = 99;
    for (int64_t u = 0; u < users; ++u) {
      for (int64_t i = 0; i <= filled; ++i) {
        state = state * 1664525u + 1013904223u;
        histories.items.push_back(1 + static_cast<int32_t>((static_cast<uint64_t>(state) * items) >> 32));
      }
      histories.offsets.push_back(static_cast<int64_t>(histories.items.size()));
    }
    Sequences known = histories;
    known.sort();
    BackboneTrainOptions options;
    options.batch_size = static_cast<int>(batch), options.seed = 1;
    auto trainer = std::make_shared<BackboneTrainer>(*model, histories, known, options);
    Work work;
    const auto c = static_cast<double>(hidden), tokens = static_cast<double>(batch * filled);
    const double pairs = static_cast<double>(batch) * total_of(static_cast<double>(filled));
    const double forward = config.num_blocks * (2 * tokens * 6 * c * c + 4 * pairs * c) + 4 * tokens * c;
    // Adam passes over all of the item table; the activations are a tenth of that and stay in caches.
    const double parameters = static_cast<double>(model->parameters().count());
    work.cost = {static_cast<double>(steps) * 3 * forward, static_cast<double>(steps) * 32 * parameters};
    work.units = static_cast<double>(steps * batch);
    work.calls.emplace_back([model, trainer, steps] { trainer->run(steps); });
    return work;
  });
}

void encoder(Bench& bench, bool backward, int32_t dtype) {
  const bool quick = bench.quick();
  const int64_t texts = quick ? 4 : bench.on_cpu() ? 16 : 120, tokens = quick ? 16 : 128;
  const std::string shape = std::to_string(texts) + "x" + std::to_string(tokens);
  bench.row(
      model_row(backward ? "distilbert forward+backward" : "distilbert forward", shape, dtype, "texts/s"),
      [&] {
        EncoderConfig config;
        config.activation_dtype = dtype;  // training keeps float32 weights
        if (!backward) config.weight_dtype = dtype;
        if (quick) {
          config.vocab_size = 500, config.hidden_size = 64, config.num_layers = 2, config.num_heads = 4;
          config.intermediate_size = 128;
        }
        auto model = std::make_shared<SentenceEncoder>(bench.shared_device(), config);
        model->initialise(1, 0.02f);
        model->parameters().set_trainable(backward);
        auto arena = std::make_shared<Arena>(bench.shared_device());
        TokenBatch batch;
        for (int64_t b = 0; b < texts; ++b) {
          for (int64_t t = 0; t < tokens; ++t)
            batch.ids.push_back(static_cast<int32_t>((b * 7919 + t * 104729) % config.vocab_size));
          batch.offsets.push_back(static_cast<int32_t>(batch.ids.size()));
        }
        Work work;
        const double c = config.hidden_size, f = config.intermediate_size;
        const auto all = static_cast<double>(texts * tokens);
        const double forward = config.num_layers * (2 * all * (4 * c * c + 2 * c * f) +
                                                    4 * all * static_cast<double>(tokens) * c);
        const double weights = config.num_layers * (4 * c * c + 2 * c * f) * 4;
        work.cost = {(backward ? 3 : 1) * forward, (backward ? 4 : 1) * weights};
        work.units = static_cast<double>(texts);
        const std::vector<float> ones(static_cast<size_t>(texts) * static_cast<size_t>(config.hidden_size),
                                      1.0f);
        work.calls.emplace_back([&bench, model, arena, batch, backward, ones, config, texts] {
          arena->reset();
          Tape tape(bench.device(), *arena, backward, 1, 1);
          const Tensor pooled = model->pooled(tape, batch);
          if (!backward) return;
          const Tensor w = tape.from_host(ones.data(), texts, config.hidden_size);
          ops::weighted_sum_loss(tape, "sum", pooled, w, 1.0f);
          tape.backward();
        });
        return work;
      });
}

void prefill(Bench& bench, const OptSize& size, int32_t dtype) {
  const int64_t tokens = bench.quick() ? 40 : bench.on_cpu() ? 512 : 700;
  bench.row(model_row(size.name + " prefill", "1x" + std::to_string(tokens), dtype, "tokens/s"), [&] {
    Opt& model = random_opt(bench, size, dtype);
    auto arena = std::make_shared<Arena>(bench.shared_device());
    const LlmBatch batch = random_prompts(size, 1, tokens);
    const auto t = static_cast<double>(tokens);
    Work work;
    work.cost = forward_cost(size, dtype, {t, total_of(t), 1, t, 0});
    work.units = t;
    work.calls.emplace_back([&bench, &model, arena, batch, tokens] {
      arena->reset();
      Tape tape(bench.device(), *arena, false);
      model.logits(tape, model.hidden(tape, batch, {}, {static_cast<int32_t>(tokens - 1)}));
    });
    return work;
  });
}

// Greedy decoding at a context of 512: the time between the first and the last token, the prefill left out.
void decode(Bench& bench, const OptSize& size, int32_t dtype, int64_t sequences) {
  const int64_t context = bench.quick() ? 32 : 512, steps = bench.quick() ? 3 : 32;
  const std::string shape = std::to_string(sequences) + " sequence" + (sequences > 1 ? "s" : "") +
                            ", context " + std::to_string(context);
  const auto n = static_cast<double>(sequences), keys = n * static_cast<double>(context);
  const Cost cost = forward_cost(size, dtype, {n, keys, n, keys, keys});
  const auto seconds = [&] {
    Opt& model = random_opt(bench, size, dtype);
    const LlmBatch prompts = random_prompts(size, sequences, context);
    GreedyOptions options;
    options.max_new_tokens = static_cast<int>(steps + 1), options.eos_id = -1;
    std::vector<double> times;
    for (int repetition = 0; repetition < (bench.quick() ? 1 : 4); ++repetition) {
      Clock::time_point first, last;
      bool begun = false;
      generate_greedy(model, prompts, {}, {}, options, [&] {
        last = Clock::now();
        if (!begun) first = last;
        return begun = true;
      });
      times.push_back(std::chrono::duration<double>(last - first).count() / static_cast<double>(steps));
    }
    if (times.size() > 1) times.erase(times.begin());  // records the graph, sizes the arena
    return median(times);
  };
  bench.timed_row(model_row(size.name + " decode", shape, dtype, "tokens/s"), n, cost, seconds);
}

void stage_two(Bench& bench, const OptSize& size, int32_t dtype) {
  const bool quick = bench.quick();
  const int64_t sequences = 2, tokens = quick ? 48 : bench.on_cpu() ? 512 : 1000;
  const int64_t targets = quick ? 4 : 12, soft_items = quick ? 5 : 31;
  const std::string shape = std::to_string(sequences) + "x" + std::to_string(tokens);
  bench.row(model_row(size.name + " stage 2", shape, dtype, "sequences/s"), [&] {
    Opt& model = random_opt(bench, size, dtype);
    ProjectorConfig config;
    config.token_size = size.hidden;
    auto projector = std::make_shared<Projector>(bench.shared_device(), config);
    projector->initialise(1, 1.0f);
    auto trainer = std::make_shared<ProjectionTrainer>(*projector, model, AdamOptions{}, 1);
    LlmBatch batch = random_prompts(size, sequences, tokens);
    SoftInputs soft;
    soft.users.assign(static_cast<size_t>(sequences * config.user_size), 0.1f);
    soft.items.assign(static_cast<size_t>(sequences * soft_items * config.joint_size), 0.1f);
    TokenTargets wanted;
    const int64_t stride = (tokens - targets - 1) / (soft_items + 1);
    for (int64_t s = 0; s < sequences; ++s) {
      int32_t* ids = batch.ids.data() + s * tokens;
      for (int64_t t = tokens - targets; t < tokens; ++t) {
        wanted.rows.push_back(static_cast<int32_t>(s * tokens + t - 1));
        wanted.tokens.push_back(ids[t]);
      }
      ids[0] = static_cast<int32_t>(-s - 1);
      for (int64_t i = 0; i < soft_items; ++i)
        ids[(i + 1) * stride] = static_cast<int32_t>(-(sequences + s * soft_items + i) - 1);
    }
    const auto n = static_cast<double>(sequences), t = static_cast<double>(tokens);
    const auto rows = static_cast<double>(targets);
    Work work;
    work.cost = frozen_backward_cost(size, dtype, {n * t, n * total_of(t), n * rows, n * rows * t, 0});
    work.units = n;
    work.calls.emplace_back(
        [projector, trainer, batch, soft, wanted] { trainer->step(batch, soft, wanted); });
    return work;
  });
}

}  // namespace

void model_suite(Bench& bench) {
  for (bool sparse : {false, true}) sasrec(bench, sparse);
  for (bool backward : {true, false}) {
    encoder(bench, backward, ALLMREC_F32);
    if (!bench.on_cpu()) encoder(bench, backward, ALLMREC_BF16);
  }
  for (const OptSize& size : opt_sizes(bench)) {
    for (int32_t dtype : weight_dtypes(bench)) {
      prefill(bench, size, dtype);
      for (int64_t sequences : {1, 8}) decode(bench, size, dtype, sequences);
      // Gradients need bfloat16 activations, or float32 ones, which a processor has with any weights.
      if (bench.on_cpu() || dtype == ALLMREC_F32 || dtype == ALLMREC_BF16) stage_two(bench, size, dtype);
    }
  }
  forget_opt();
}

}  // namespace allmrec::bench
