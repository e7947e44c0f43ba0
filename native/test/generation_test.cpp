// Generation without Node: the cache's ranges, tries, stopping, what is drawn, beam search against an
// exhaustive one, and that a request's answer does not hang on what runs beside it or lay in memory before.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "../cpp/models/generation/generator.h"
#include "../cpp/models/generation/greedy.h"
#include "check.h"
#include "tiny_opt.h"

using namespace allmrec;
using namespace allmrec::test;

namespace {

std::map<int64_t, std::vector<GeneratedSequence>> run(Opt& model,
                                                      const std::vector<GenerationRequest>& requests,
                                                      const GeneratorOptions& options) {
  Generator generator(model, options);
  for (const GenerationRequest& request : requests) {
    generator.check(request);
    generator.submit(request);
  }
  GenerationEvents events;
  while (generator.step(events)) {
  }
  std::map<int64_t, std::vector<GeneratedSequence>> results;
  for (FinishedRequest& finished : events.finished) {
    CHECK_WHAT(results.count(finished.request) == 0, "a request finishes once");
    results[finished.request] = std::move(finished.sequences);
  }
  CHECK_WHAT(results.size() == requests.size(), "every request finishes");
  return results;
}

// log p of every token after the ids, in double.
std::vector<double> log_probs_after(Opt& model, const std::vector<int32_t>& ids) {
  Arena arena(model.parameters().device());
  Tape tape(*model.parameters().device(), arena, false);
  LlmBatch batch;
  batch.ids = ids;
  batch.offsets.push_back(static_cast<int32_t>(ids.size()));
  batch.number_positions();
  const Tensor logits =
      model.logits(tape, model.hidden(tape, batch, {}, {static_cast<int32_t>(ids.size()) - 1}));
  std::vector<float> row(static_cast<size_t>(logits.cols));
  tape.device().download(row.data(), logits.data, row.size() * sizeof(float));
  double total = 0.0;
  for (const float x : row) total += std::exp(static_cast<double>(x));
  std::vector<double> result;
  for (const float x : row) result.push_back(x - std::log(total));
  return result;
}

void cache_tests(const std::shared_ptr<Device>& device) {
  KvCache cache(device, 2, 4, ALLMREC_F32, 20);
  const int64_t a = cache.reserve(4), b = cache.reserve(6), c = cache.reserve(5);
  CHECK(a == 0 && b == 4 && c == 10 && cache.rows() >= 15);
  CHECK(cache.reserve(6) == KvCache::kNone);
  // Rows keep what they hold when the memory grows, and in every layer.
  const auto fill = [&](int64_t row, float value) {
    for (int64_t layer = 0; layer < 2; ++layer)
      device->fill(static_cast<float*>(cache.layer(layer).at(row)), 8,
                   value + 100.0f * static_cast<float>(layer));
  };
  const auto value = [&](int64_t row, int64_t layer) {
    float x[8];
    device->download(x, cache.layer(layer).at(row), sizeof x);
    for (const float y : x) CHECK(y == x[0]);
    return x[0];
  };
  for (int64_t row = 0; row < 15; ++row) fill(row, static_cast<float>(row));
  cache.grow(18);
  CHECK(cache.rows() == 18);
  for (int64_t row = 0; row < 15; ++row)
    CHECK(value(row, 0) == static_cast<float>(row) && value(row, 1) == 100.0f + static_cast<float>(row));
  cache.copy(4, 12, 3);
  CHECK(value(12, 0) == 4.0f && value(14, 1) == 106.0f);
  cache.zero(13, 2);
  CHECK(value(12, 1) == 104.0f && value(13, 0) == 0.0f && value(14, 1) == 0.0f);
  // Free neighbours become one range, whichever goes first.
  cache.release(b, 6);
  cache.release(c, 5);
  cache.release(a, 4);
  CHECK(cache.reserve(20) == 0 && cache.rows() == 20);
  cache.clear();
  CHECK(cache.rows() == 0 && cache.reserve(20) == 0);
}

void trie_tests() {
  const TokenTrie trie({0, 2, 3, 6, 8, 10}, {5, 7, 5, 9, 8, 7, 5, 7, 5, 6}, 2);
  CHECK(trie.entries() == 5 && trie.depth() == 4 && trie.largest_token() == 9);
  CHECK(trie.child_count(0) == 2 && trie.children(0)[0] == 5 && trie.children(0)[1] == 9);
  const int32_t five = trie.step(0, 5);
  CHECK(trie.child_count(five) == 3);  // the end (of 5 alone), 6 and 7
  CHECK(trie.children(five)[0] == 2 && trie.children(five)[1] == 6 && trie.children(five)[2] == 7);
  CHECK(trie.entry(trie.step(five, 2)) == 1 && trie.entry(five) == -1);
  CHECK(trie.entry(trie.step(trie.step(five, 7), 2)) == 0);  // of equal ones the first
  CHECK(trie.step(five, 8) == -1 && trie.step(0, 2) == -1);
  int32_t node = 0;
  for (const int32_t token : {9, 8, 7, 2}) node = trie.step(node, token);
  CHECK(trie.entry(node) == 2 && trie.child_count(node) == 0);
  CHECK_THROWS(TokenTrie({0}, {}, 2), "at least one");
  CHECK_THROWS(TokenTrie({0, 1, 1}, {4}, 2), "Sequence 1");
  CHECK_THROWS(TokenTrie({0, 2}, {4, 2}, 2), "token 2");
  CHECK_THROWS(TokenTrie({0, 1}, {4}, -1), "end token");
}

void stopping_tests() {
  auto bytes = std::make_shared<TokenBytes>();
  for (const char* text : {"", "ab", "c", "abcabd", "d"}) {
    bytes->bytes += text;
    bytes->offsets.push_back(static_cast<int32_t>(bytes->bytes.size()));
  }
  GenerationRequest request;
  request.bytes = bytes;
  request.options.stop_bytes = {"bcab"};
  const auto hits = [&](const std::vector<int32_t>& ids) { return hits_stop(request, ids); };
  CHECK(!hits({1, 2}) && hits({1, 2, 1}));      // ab c ab
  CHECK(hits({3}) && hits({4, 3}));             // within a token, with more behind it
  CHECK(!hits({1, 2, 1, 0}) && !hits({3, 4}));  // found before, not with the last token
  CHECK(hits({1, 0, 2, 99, 1}));                // tokens without text stand between
  CHECK(!hits({2, 1, 4}) && !hits({1, 1, 2}));
  request.options.stop_bytes.clear();
  request.options.stop_tokens = {{4, 1}, {2}};
  CHECK(hits({4, 1}) && hits({1, 4, 1}) && hits({2}) && !hits({1, 4}) && !hits({1}));
}

void drawing_tests() {
  std::vector<float> logits = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f};
  NextTokens next{nullptr, logits.data(), 5, 0.0};
  CHECK(most_likely(next) == 1);
  SamplingOptions options;
  options.enabled = true;
  const auto drawn = [&] {
    std::map<int64_t, int> count;
    for (uint64_t n = 0; n < 4000; ++n) ++count[draw(next, options, 1, n)];
    return count;
  };
  options.top_k = 1;  // equals of the k-th stay, as in transformers
  CHECK(drawn().size() == 2 && drawn().count(1) && drawn().count(3));
  options.top_k = 0;
  // Probabilities 0.390, 0.390, 0.143, 0.053, 0.007: what is left out sums to at most 1 − p.
  const std::pair<float, size_t> kept[] = {{1.0f, 5},  {0.995f, 5}, {0.99f, 4},
                                           {0.93f, 3}, {0.75f, 2},  {0.3f, 1}};
  for (const auto& [p, size] : kept) {
    options.top_p = p;
    CHECK_WHAT(drawn().size() == size,
               "top-p " + std::to_string(p) + " keeps " + std::to_string(drawn().size()));
  }
  options.top_p = 1.0f;
  options.temperature = 0.01f;
  CHECK(drawn().size() == 2);
  RepetitionPenalty penalty(5);
  penalty.apply(2.0f, {1, 4, 1}, {4, 0, 17, -3}, next, logits.data());
  CHECK(logits == std::vector<float>({0.5f, 1.5f, 2.0f, 3.0f, -2.0f}));
  const std::vector<int32_t> ids = {4, 2};
  std::vector<float> two = {3.0f, -3.0f};
  penalty.apply(2.0f, {2}, {}, {ids.data(), two.data(), 2, 0.0}, two.data());
  CHECK(two == std::vector<float>({3.0f, -6.0f}));
}

// With as many beams as there are continuations nothing is cut: every sequence of three tokens, by its score.
void exhaustive_beams(Opt& model) {
  OptConfig config = model.config();
  const std::vector<int32_t> prompt = {5, 17, 30, 8};
  const std::vector<std::vector<int32_t>> answers = {{4, 9},       {4, 9, 11}, {6},
                                                     {6, 4, 4, 4}, {21, 22},   {21, 9}};
  std::vector<int32_t> offsets{0}, values;
  for (const auto& answer : answers) {
    values.insert(values.end(), answer.begin(), answer.end());
    offsets.push_back(static_cast<int32_t>(values.size()));
  }
  GenerationRequest request;
  request.ids = prompt;
  request.trie = std::make_shared<TokenTrie>(offsets, values, 2);
  request.options.eos_id = 2;
  request.options.beam.beams = 6;
  request.options.beam.early_stopping = EarlyStopping::never;
  request.options.beam.length_penalty = 0.7f;
  request.options.sequences = 6;
  const std::vector<GeneratedSequence> found = run(model, {request}, {})[0];
  CHECK(found.size() == answers.size());
  double last = std::numeric_limits<double>::infinity();
  for (const GeneratedSequence& sequence : found) {
    CHECK(sequence.reason == FinishReason::eos && sequence.entry >= 0 && sequence.score <= last);
    last = sequence.score;
    double log_prob = 0.0;
    std::vector<int32_t> ids = prompt;
    int32_t node = 0;
    for (const int32_t token : sequence.ids) {
      const std::vector<double> all = log_probs_after(model, ids);
      double children = 0.0;
      for (int32_t c = 0; c < request.trie->child_count(node); ++c)
        children += std::exp(all[request.trie->children(node)[c]]);
      log_prob += all[token] - std::log(children);
      ids.push_back(token);
      node = request.trie->step(node, token);
    }
    // A few float32 log-probabilities of some units each.
    CHECK(std::fabs(sequence.log_prob - log_prob) < 1e-5);
    const double score = log_prob / std::pow(static_cast<double>(sequence.ids.size()), 0.7);
    CHECK(std::fabs(sequence.score - score) < 1e-5);
  }
  CHECK(config.vocab_size == 72);
}

void refill_tests(Opt& model, bool exact_ids) {
  const std::vector<GenerationRequest> requests = mixed_requests();
  std::map<int64_t, std::vector<GeneratedSequence>> alone;
  for (const GenerationRequest& request : requests) alone[request.id] = run(model, {request}, {})[request.id];
  for (const int64_t slots : {4, 7, 64})
    for (const int64_t prompt_tokens : {1, 4096}) {
      GeneratorOptions options;
      options.slots = slots;
      options.prompt_tokens = prompt_tokens;
      const auto together = run(model, requests, options);
      for (const auto& [id, sequences] : together) {
        CHECK(sequences.size() == alone[id].size());
        for (size_t s = 0; s < sequences.size() && exact_ids; ++s) {
          CHECK_WHAT(sequences[s].ids == alone[id][s].ids, "ids of request " + std::to_string(id));
          CHECK(sequences[s].reason == alone[id][s].reason);
          // The order of float32 sums may differ with the batch: up to 16 log-probabilities of about 4.
          CHECK(std::fabs(sequences[s].log_prob - alone[id][s].log_prob) < 1e-4);
        }
      }
    }
}

// Memory that held NaN before must not be seen: beams leave gaps between a prompt's keys and their own.
void poisoned_memory(const std::shared_ptr<Device>& device, Opt& model) {
  GenerationRequest request;
  request.ids = {5, 17, 30};
  request.options.beam.beams = 4;
  request.options.sequences = 4;
  request.options.max_new_tokens = 12;
  const auto expected = run(model, {request}, {})[0];
  device->trim();
  {
    std::vector<DeviceBuffer> blocks;
    for (int64_t i = 0; i < 64; ++i) {
      const int64_t floats = int64_t{256} << (i % 12);
      blocks.emplace_back(device, static_cast<size_t>(floats) * sizeof(float));
      device->fill(blocks.back().as<float>(), floats, std::numeric_limits<float>::quiet_NaN());
    }
  }
  const auto found = run(model, {request}, {})[0];
  for (size_t s = 0; s < found.size(); ++s) CHECK(found[s].ids == expected[s].ids);
}

void control_tests(Opt& model) {
  std::mt19937_64 engine(5);
  GeneratorOptions options;
  options.slots = 2;
  Generator generator(model, options);
  GenerationRequest request;
  request.options.max_new_tokens = 10;
  request.options.stream = true;
  for (request.id = 0; request.id < 4; ++request.id) {
    request.ids = tokens(engine, 3);
    generator.submit(request);
  }
  GenerationEvents events;
  CHECK(generator.step(events) && generator.step(events));
  CHECK(events.tokens.size() == 4 && events.finished.empty());  // two slots, two steps
  generator.abort(0, events);
  generator.abort(3, events);
  generator.abort(99, events);
  CHECK(events.finished.size() == 2);
  CHECK(events.finished[0].sequences[0].reason == FinishReason::abort &&
        events.finished[0].sequences[0].ids.size() == 2);
  CHECK(events.finished[1].sequences[0].ids.empty());
  CHECK(generator.step(events) && events.tokens.back().request == 2);  // the free slot is taken at once
  while (generator.step(events)) {
  }
  CHECK(events.finished.size() == 4 && generator.idle());
  CHECK(events.finished.back().sequences[0].reason == FinishReason::length);

  const auto rejected = [&](const char* part, const std::function<void(GenerationRequest&)>& change) {
    GenerationRequest wrong;
    wrong.ids = {3, 4};
    change(wrong);
    CHECK_THROWS(generator.check(wrong), part);
  };
  rejected("empty prompt", [](GenerationRequest& r) { r.ids.clear(); });
  rejected("Token 72", [](GenerationRequest& r) { r.ids[0] = 72; });
  rejected("soft tokens", [](GenerationRequest& r) { r.ids[0] = -1; });
  rejected("shorten", [](GenerationRequest& r) { r.ids.assign(64, 5); });
  rejected("slots", [](GenerationRequest& r) { r.options.beam.beams = 3; });
  rejected("sample",
           [](GenerationRequest& r) { r.options.beam.beams = 2, r.options.sampling.enabled = true; });
  rejected("temperature", [](GenerationRequest& r) {
    r.options.sampling.enabled = true;
    r.options.sampling.temperature = std::numeric_limits<float>::quiet_NaN();
  });
  rejected("bytes", [](GenerationRequest& r) { r.options.stop_bytes = {"x"}; });
  rejected("another end token", [](GenerationRequest& r) {
    r.trie = std::make_shared<TokenTrie>(std::vector<int32_t>{0, 1}, std::vector<int32_t>{4}, 2);
  });
}

// Soft tokens of several requests lie in one batch.
void soft_tests(Opt& model) {
  const std::vector<float> table = model.parameters().value_to_host(model.head());
  LlmBatch plain, soft;
  plain.ids = {5, 9, 30, 6, 30, 12, 9};
  plain.offsets = soft.offsets = {0, 3, 7};
  plain.number_positions();
  soft = plain;
  soft.ids[1] = -2, soft.ids[4] = -1, soft.ids[6] = -2;
  std::vector<float> rows(table.begin() + 30 * 32, table.begin() + 31 * 32);
  rows.insert(rows.end(), table.begin() + 9 * 32, table.begin() + 10 * 32);
  GreedyOptions options;
  options.max_new_tokens = 8;
  options.eos_id = -1;
  const auto expected = generate_greedy(model, plain, {}, {}, options, {});
  CHECK(expected.size() == 2 && expected[0].size() == 8);
  CHECK(generate_greedy(model, soft, rows, {}, options, {}) == expected);
  int steps = 0;
  const auto partial = generate_greedy(model, plain, {}, {}, options, [&] { return ++steps < 3; });
  CHECK(steps == 3 && partial[0] == std::vector<int32_t>(expected[0].begin(), expected[0].begin() + 3));
}

void numeric_tests(const std::shared_ptr<Device>& device) {
  const std::unique_ptr<Opt> model = tiny_model(device);
  Parameter* norm = model->parameters().find("model.decoder.final_layer_norm.weight");
  model->parameters().upload(
      *norm, std::vector<float>(static_cast<size_t>(norm->value.size()), std::nanf("")).data());
  for (GenerationRequest& request : mixed_requests()) {
    if (request.trie) request.options.max_new_tokens = 16;
    CHECK_THROWS(run(*model, {request}, {}), "the weight `model.decoder.final_layer_norm.weight` holds nan");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 2 && std::string(argv[1]) == "--device" ? argv[2] : "cpu";
  const std::shared_ptr<Device> device = Device::open(name, 2);
  cache_tests(device);
  trie_tests();
  stopping_tests();
  drawing_tests();
  const std::unique_ptr<Opt> model = tiny_model(device);
  exhaustive_beams(*model);
  refill_tests(*model, true);
  poisoned_memory(device, *model);
  control_tests(*model);
  soft_tests(*model);
  numeric_tests(device);
  for (const int32_t dtype : {ALLMREC_BF16, ALLMREC_F16, ALLMREC_I8, ALLMREC_I4})
    refill_tests(*tiny_model(device, dtype), false);
  return report();
}
