#include "batches.h"

namespace allmrec::binding {

Sequences read_sequences(Napi::Value value, const std::string& name, int64_t num_items) {
  Ragged ragged = read_ragged(value, name);
  expect_range(ragged.values, name + ".values", 1, num_items, ErrorCode::unknown_item);
  Sequences sequences;
  sequences.offsets.assign(ragged.offsets.begin(), ragged.offsets.end());
  sequences.items = std::move(ragged.values);
  return sequences;
}

SequenceBatch read_sequence_batch(Napi::Value value, const std::string& name, const Backbone& model) {
  Ragged ragged = read_ragged(value, name);
  expect_range(ragged.values, name + ".values", 1, model.num_items(), ErrorCode::unknown_item);
  for (int64_t r = 0; r < ragged.rows(); ++r)
    if (ragged.offsets[r + 1] - ragged.offsets[r] > model.max_length())
      fail("Expected every row of `" + name + "` to hold at most " + std::to_string(model.max_length()) +
           " items (`maxLength`), got " + std::to_string(ragged.offsets[r + 1] - ragged.offsets[r]) + ".");
  SequenceBatch batch;
  batch.items = std::move(ragged.values);
  batch.offsets = std::move(ragged.offsets);
  return batch;
}

TokenBatch to_token_batch(Ragged ragged) {
  TokenBatch batch;
  batch.ids = std::move(ragged.values);
  batch.offsets = std::move(ragged.offsets);
  return batch;
}

LlmBatch read_llm_batch(Napi::Value value, const std::string& name) {
  const Fields fields(value, name);
  LlmBatch batch;
  batch.ids = fields.ints("ids");
  batch.offsets = fields.ints("offsets");
  const auto tokens = static_cast<int64_t>(batch.ids.size());
  int32_t last = 0;
  bool ascending = !batch.offsets.empty() && batch.offsets.front() == 0;
  for (int32_t offset : batch.offsets) {
    ascending = ascending && offset >= last;
    last = offset;
  }
  if (!ascending || last != tokens)
    fail("Expected `" + name + ".offsets` to start at 0, ascend and end with the number of ids (" +
         std::to_string(tokens) + ").");
  auto optional = [&](const char* field, std::vector<int32_t>& into) {
    if (!fields.has(field)) return false;
    into = fields.ints(field);
    expect_length(into.size(), tokens, fields.name_of(field));
    return true;
  };
  if (!optional("positions", batch.positions)) batch.number_positions();
  optional("prefix", batch.prefix);
  optional("ownBegin", batch.own_begin);
  return batch;
}

TokenTargets read_targets(Napi::Value value, const std::string& name, int64_t tokens) {
  const Fields fields(value, name);
  TokenTargets targets;
  targets.rows = fields.ints("rows");
  targets.tokens = fields.ints("tokens");
  expect_range(targets.rows, fields.name_of("rows"), 0, tokens - 1);
  expect_length(targets.tokens.size(), static_cast<int64_t>(targets.rows.size()), fields.name_of("tokens"));
  return targets;
}

std::vector<float> read_soft(Napi::Value value, const std::string& name, const OptConfig& config) {
  std::vector<float> soft = read_floats(value, name);
  expect_rows(soft.size(), config.embed_size, name);
  return soft;
}

int read_activation(const Fields& fields) {
  return fields.choice<int>("activation", {{"none", ALLMREC_ACT_NONE},
                                           {"relu", ALLMREC_ACT_RELU},
                                           {"leaky_relu", ALLMREC_ACT_LEAKY_RELU},
                                           {"gelu", ALLMREC_ACT_GELU},
                                           {"gelu_tanh", ALLMREC_ACT_GELU_TANH},
                                           {"sigmoid", ALLMREC_ACT_SIGMOID},
                                           {"tanh", ALLMREC_ACT_TANH}});
}

int32_t read_dtype(const Fields& fields, const char* field, bool quantized) {
  if (!fields.has(field)) return ALLMREC_F32;
  if (!quantized)
    return fields.choice<int32_t>(
        field, {{"float32", ALLMREC_F32}, {"bfloat16", ALLMREC_BF16}, {"float16", ALLMREC_F16}});
  return fields.choice<int32_t>(field, {{"float32", ALLMREC_F32},
                                        {"bfloat16", ALLMREC_BF16},
                                        {"float16", ALLMREC_F16},
                                        {"int8", ALLMREC_I8},
                                        {"int4", ALLMREC_I4}});
}

}  // namespace allmrec::binding
