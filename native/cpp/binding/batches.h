#pragma once

#include <napi.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "../models/backbone.h"
#include "../models/opt.h"
#include "../models/projector.h"
#include "../models/sentence_encoder.h"
#include "convert.h"

// Batches of the models, read from JavaScript and checked against a model's sizes.
namespace allmrec::binding {

// Item ids are 1 … num_items.
Sequences read_sequences(Napi::Value value, const std::string& name, int64_t num_items);
// At most max_length items for each history.
SequenceBatch read_sequence_batch(Napi::Value value, const std::string& name, const Backbone& model);
TokenBatch to_token_batch(Ragged ragged);
LlmBatch read_llm_batch(Napi::Value value, const std::string& name);
TokenTargets read_targets(Napi::Value value, const std::string& name, int64_t tokens);
std::vector<float> read_soft(Napi::Value value, const std::string& name, const OptConfig& config);
int read_activation(const Fields& fields);
// How numbers are stored, float32 where the field is missing. With `quantized`, int8 and int4 are known too.
int32_t read_dtype(const Fields& fields, const char* field, bool quantized);

}  // namespace allmrec::binding
