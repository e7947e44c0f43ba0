#include "sas_rec.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace allmrec {
namespace {

constexpr float kEps = 1e-8f;

SasRecConfig read_config(const NamedOptions& options) {
  SasRecConfig c;
  c.num_items = options.integer("numItems", 1, std::numeric_limits<int32_t>::max() - 1);
  c.max_length = options.size("maxLength");
  c.hidden_units = options.size("hiddenUnits");
  c.num_blocks = options.size("numBlocks", 0, 1024);
  c.num_heads = options.size("numHeads");
  c.dropout_rate = options.number("dropoutRate", 0, 1);
  c.variant = static_cast<SasRecVariant>(options.choice("variant", {"reference", "preNorm", "postNorm"}));
  return c;
}

const BackboneKind kSasRec("sasrec", construct_backbone<SasRec>);

}  // namespace

SasRec::SasRec(std::shared_ptr<Device> device, const NamedOptions& config)
    : SasRec(std::move(device), read_config(config)) {}

SasRec::SasRec(std::shared_ptr<Device> device, const SasRecConfig& config)
    : Backbone(std::move(device), config.num_items, 0, config.max_length), config_(config) {
  const int64_t c = config.hidden_units;
  if (config.num_heads < 1 || c % config.num_heads != 0)
    throw Error(ErrorCode::invalid_argument, "Expected `hiddenUnits` (" + std::to_string(c) +
                                                 ") to be a multiple of `numHeads` (" +
                                                 std::to_string(config.num_heads) + ").");
  // pmixer's tables keep row 0 for padding; the reference numbers positions from 0.
  const int64_t positions = config.max_length + (config.variant == SasRecVariant::reference ? 0 : 1);
  item_embedding_ = &parameters_.add("item_emb.weight", {config.num_items + 1, c});
  position_embedding_ = &parameters_.add("pos_emb.weight", {positions, c});
  for (int i = 0; i < config.num_blocks; ++i) {
    const std::string n = "." + std::to_string(i) + ".";
    Block b{};
    b.attention_norm_weight = &parameters_.add("attention_layernorms" + n + "weight", {c});
    b.attention_norm_bias = &parameters_.add("attention_layernorms" + n + "bias", {c});
    b.in_proj_weight = &parameters_.add("attention_layers" + n + "in_proj_weight", {3 * c, c});
    b.in_proj_bias = &parameters_.add("attention_layers" + n + "in_proj_bias", {3 * c});
    b.out_proj_weight = &parameters_.add("attention_layers" + n + "out_proj.weight", {c, c});
    b.out_proj_bias = &parameters_.add("attention_layers" + n + "out_proj.bias", {c});
    b.forward_norm_weight = &parameters_.add("forward_layernorms" + n + "weight", {c});
    b.forward_norm_bias = &parameters_.add("forward_layernorms" + n + "bias", {c});
    b.conv1_weight = &parameters_.add("forward_layers" + n + "conv1.weight", {c, c, 1});
    b.conv1_bias = &parameters_.add("forward_layers" + n + "conv1.bias", {c});
    b.conv2_weight = &parameters_.add("forward_layers" + n + "conv2.weight", {c, c, 1});
    b.conv2_bias = &parameters_.add("forward_layers" + n + "conv2.bias", {c});
    blocks_.push_back(b);
  }
  last_norm_weight_ = &parameters_.add("last_layernorm.weight", {c});
  last_norm_bias_ = &parameters_.add("last_layernorm.bias", {c});
}

void SasRec::initialise(uint64_t seed) {
  const float bound = 1.0f / std::sqrt(static_cast<float>(config_.hidden_units));
  for (const auto& p : parameters_.all()) {
    if (p->shape.size() > 1)
      parameters_.xavier_normal(*p, seed);
    else if (p->name.find("layernorm") != std::string::npos)
      parameters_.fill(*p, p->name.find("weight") != std::string::npos ? 1.0f : 0.0f);
    else if (p->name.find("conv") != std::string::npos)
      parameters_.uniform(*p, seed, bound);
    else
      parameters_.fill(*p, 0.0f);  // attention biases
  }
  Device& device = *parameters_.device();
  device.fill(item_embedding_->value.f32(), config_.hidden_units, 0.0f);
  if (config_.variant != SasRecVariant::reference)
    device.fill(position_embedding_->value.f32(), config_.hidden_units, 0.0f);
}

NegativeSampling SasRec::negatives(const NamedOptions& options) const {
  if (config_.variant != SasRecVariant::reference)
    throw Error(ErrorCode::unsupported,
                "This SASRec layout can be used but not trained; train the reference's.");
  return SequenceLoss::read(options).sampling();
}

void SasRec::start_training(const NamedOptions& options, const Sequences&) {
  loss_ = SequenceLoss::read(options);
}

void SasRec::loss(Tape& tape, const Examples& examples) {
  loss_.record(tape, features(tape, examples.histories), *item_embedding_, examples);
}

Tensor SasRec::item_table(Tape&) {
  return item_embedding_->value;
}

Tensor SasRec::features(Tape& tape, const SequenceBatch& batch) {
  return run(tape, batch, false);
}

Tensor SasRec::user_vectors(Tape& tape, const SequenceBatch& histories, const std::vector<int32_t>&) {
  return run(tape, histories, true);
}

Tensor SasRec::embed(Tape& tape, const SequenceBatch& batch, Packed& packed) {
  check(batch);
  std::vector<int32_t> positions(batch.items.size()), pads(static_cast<size_t>(batch.size()));
  const int first = config_.variant == SasRecVariant::reference ? 0 : 1;
  for (int64_t s = 0; s < batch.size(); ++s) {
    const int32_t length = batch.offsets[s + 1] - batch.offsets[s];
    pads[s] = config_.max_length - length;
    for (int32_t i = 0; i < length; ++i) positions[batch.offsets[s] + i] = first + pads[s] + i;
  }
  packed.plan = ops::self_attention_plan(tape, batch.offsets, true);
  packed.pad_count = tape.ints(pads);
  ops::EmbeddingInput in;
  in.ids = tape.ints(batch.items);
  in.table = item_embedding_;
  in.scale = std::sqrt(static_cast<float>(config_.hidden_units));
  in.positions = position_embedding_;
  in.position_ids = tape.ints(positions);
  in.dropout_rate = config_.dropout_rate;
  if (config_.variant != SasRecVariant::reference) {
    ops::EmbeddingInput pad = in;
    pad.ids = tape.ints({0});
    pad.position_ids = tape.ints({0});
    packed.pad = ops::embedding(tape, pad);
  }
  return ops::embedding(tape, in);
}

Tensor SasRec::run(Tape& tape, const SequenceBatch& batch, bool last_only) {
  Packed packed;
  Tensor x = embed(tape, batch, packed);
  if (!last_only) {
    for (const Block& b : blocks_) x = block(tape, b, x, packed, nullptr, packed.plan);
    return ops::layer_norm(tape, x, *last_norm_weight_, *last_norm_bias_, kEps);
  }
  // One query row for every sequence that is not empty.
  std::vector<int32_t> rows, begin, end, query_offsets{0};
  for (int64_t s = 0; s < batch.size(); ++s) {
    const int32_t length = batch.offsets[s + 1] - batch.offsets[s];
    if (length > 0) {
      rows.push_back(batch.offsets[s + 1] - 1);
      begin.push_back(0);
      end.push_back(length);
    }
    query_offsets.push_back(static_cast<int32_t>(rows.size()));
  }
  ops::AttentionPlan last = packed.plan;
  last.tokens = static_cast<int64_t>(rows.size());
  last.q_offsets = tape.ints(query_offsets);
  last.own_begin = tape.ints(begin);
  last.own_end = tape.ints(end);
  const IntTensor row_ids = tape.ints(rows);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const bool is_last = i + 1 == blocks_.size();
    x = block(tape, blocks_[i], x, packed, is_last ? &row_ids : nullptr, is_last ? last : packed.plan);
  }
  if (blocks_.empty()) x = ops::gather_rows(tape, x, row_ids);
  x = ops::layer_norm(tape, x, *last_norm_weight_, *last_norm_bias_, kEps);
  return spread(tape, x, batch);
}

// rows: the positions to go on with, or null for all. plan: which keys each of them sees.
Tensor SasRec::block(Tape& tape, const Block& b, const Tensor& x, Packed& packed, const IntTensor* rows,
                     const ops::AttentionPlan& plan) {
  const int64_t c = config_.hidden_units;
  const bool reference = config_.variant == SasRecVariant::reference;
  auto norm1 = [&](const Tensor& t) {
    return ops::layer_norm(tape, t, *b.attention_norm_weight, *b.attention_norm_bias, kEps);
  };
  auto norm2 = [&](const Tensor& t) {
    return ops::layer_norm(tape, t, *b.forward_norm_weight, *b.forward_norm_bias, kEps);
  };
  const bool pre_norm = config_.variant == SasRecVariant::pre_norm;
  const Tensor kv_input = pre_norm ? norm1(x) : x;
  const Tensor x_rows = rows ? ops::gather_rows(tape, x, *rows) : x;
  const Tensor query = reference          ? norm1(x_rows)
                       : pre_norm && rows ? ops::gather_rows(tape, kv_input, *rows)
                       : pre_norm         ? kv_input
                                          : x_rows;
  const ParameterView wq(b.in_proj_weight, 0, c), wkv(b.in_proj_weight, c, 2 * c);
  const ParameterView bq(b.in_proj_bias, 0, c), bkv(b.in_proj_bias, c, 2 * c);
  ops::AttentionInput in;
  if (rows) {
    in.q = ops::linear(tape, query, wq, bq);
    in.kv = ops::linear(tape, kv_input, wkv, bkv);
    in.k_column = 0;
    in.v_column = c;
  } else {
    in.q = in.kv = ops::projections(tape, {{query, wq, bq}, {kv_input, wkv, bkv}});
    in.k_column = c;
    in.v_column = 2 * c;
  }
  in.heads = config_.num_heads;
  in.head_dim = static_cast<int>(c / config_.num_heads);
  in.plan = plan;
  in.pad_count = packed.pad_count;
  in.dropout_rate = config_.dropout_rate;
  in.drop_columns = config_.max_length;
  Tensor pad_kv;
  if (reference) {
    // A zeroed position projects to the biases alone.
    in.pad_k = b.in_proj_bias->value.f32() + c;
    in.pad_v = b.in_proj_bias->value.f32() + 2 * c;
    if (tape.recording() && b.in_proj_bias->grad) {
      in.d_pad_k = b.in_proj_bias->grad + c;
      in.d_pad_v = b.in_proj_bias->grad + 2 * c;
    }
  } else {
    const Tensor pad_input = pre_norm ? norm1(packed.pad) : packed.pad;
    pad_kv = ops::linear(tape, pad_input, wkv, bkv);
    in.pad_k = pad_kv.f32();
    in.pad_v = pad_kv.f32() + c;
  }
  const Tensor attended = ops::attention(tape, in);
  if (!reference) advance_pad(tape, b, packed, pad_kv);
  if (reference) {
    const Tensor sum =
        ops::linear(tape, attended, b.out_proj_weight, b.out_proj_bias, ALLMREC_ACT_NONE, &query);
    const Tensor normed = norm2(sum);
    return feed_forward(tape, b, normed, &normed);
  }
  const Tensor sum =
      ops::linear(tape, attended, b.out_proj_weight, b.out_proj_bias, ALLMREC_ACT_NONE, &x_rows);
  if (pre_norm) return feed_forward(tape, b, norm2(sum), &sum);
  const Tensor normed = norm1(sum);
  return norm2(feed_forward(tape, b, normed, &normed));
}

Tensor SasRec::feed_forward(Tape& tape, const Block& b, const Tensor& x, const Tensor* residual) {
  const float p = config_.dropout_rate;
  const Tensor hidden = ops::linear(tape, x, b.conv1_weight, b.conv1_bias, ALLMREC_ACT_RELU);
  const Tensor dropped = ops::dropout(tape, hidden, p);
  if (!tape.recording() || p == 0.0f)
    return ops::linear(tape, dropped, b.conv2_weight, b.conv2_bias, ALLMREC_ACT_NONE, residual);
  return ops::dropout(tape, ops::linear(tape, dropped, b.conv2_weight, b.conv2_bias), p, residual);
}

// The padding position through the same block: it sees only positions equal to itself, so its attention gives
// its own value.
void SasRec::advance_pad(Tape& tape, const Block& b, Packed& packed, const Tensor& pad_kv) {
  const int64_t c = config_.hidden_units;
  Tensor value;
  value.data = pad_kv.at(0, c);
  value.rows = 1;
  value.cols = c;
  const Tensor sum =
      ops::linear(tape, value, b.out_proj_weight, b.out_proj_bias, ALLMREC_ACT_NONE, &packed.pad);
  auto norm2 = [&](const Tensor& t) {
    return ops::layer_norm(tape, t, *b.forward_norm_weight, *b.forward_norm_bias, kEps);
  };
  if (config_.variant == SasRecVariant::pre_norm) {
    packed.pad = feed_forward(tape, b, norm2(sum), &sum);
    return;
  }
  const Tensor normed = ops::layer_norm(tape, sum, *b.attention_norm_weight, *b.attention_norm_bias, kEps);
  packed.pad = norm2(feed_forward(tape, b, normed, &normed));
}

}  // namespace allmrec
