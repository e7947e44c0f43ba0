// Cases of attention whose keys and values are a cache of halves beside float32 queries, and of attention
// computed in bfloat16. Keys and values of a token lie side by side in one row of a slab.
#include <cmath>
#include <cstring>

#include "op_fixture.h"
#include "spread.h"

namespace allmrec::test {

namespace {

// kWindow: a row sees its last 40 keys only. kOwn: any prefix and any own range behind it. kNothing: rows of
// the first sequence see no key, and the second has none.
enum Pattern { kDecode, kPrefill, kPrefix, kWindow, kOwn, kNothing };

struct Shape {
  const char* name;
  int32_t kv_dtype;
  Pattern pattern;
  int64_t heads, head_dim;
  std::vector<int32_t> lengths;  // query rows
  int32_t cached;                // keys before them
  int64_t capacity;              // rows of the slab for each sequence
  int64_t gap = 0;               // ldq − heads · head_dim, and the same behind a row of the slab
  bool padding = false;
  float p = 0;
  int32_t compute_dtype = ALLMREC_F32;
};
constexpr int32_t kF32 = ALLMREC_F32;
constexpr int32_t kF16 = ALLMREC_F16, kBf16 = ALLMREC_BF16;
const std::vector<Shape> kShapes = {
    {"f16, decoding", kF16, kDecode, 3, 64, {1, 1}, 300, 320},
    {"bf16, decoding", kBf16, kDecode, 2, 128, {1}, 129, 130},
    {"f16, decoding, one key and none before", kF16, kDecode, 4, 64, {1, 1, 1}, 0, 3},
    {"bf16, decoding, three rows, odd width", kBf16, kDecode, 2, 50, {3, 0, 2}, 200, 210, 3},
    {"f16, decoding, odd width", kF16, kDecode, 5, 7, {1, 2}, 66, 70, 5},
    {"f16, decoding, more heads than lanes", kF16, kDecode, 17, 8, {1, 1}, 100, 128},
    {"bf16, decoding, padding, dropout", kBf16, kDecode, 2, 20, {1, 2}, 90, 95, 0, true, 0.3f},
    {"f16, decoding, a window", kF16, kWindow, 2, 64, {2, 1}, 250, 260},
    {"bf16, decoding behind a prefix", kBf16, kPrefix, 2, 64, {3, 1}, 150, 160},
    {"f16, decoding, rows that see nothing", kF16, kNothing, 3, 24, {2, 1, 3}, 70, 80},
    {"f16, prefill", kF16, kPrefill, 2, 64, {40, 0, 100}, 0, 128},
    {"bf16, prefill behind a cache", kBf16, kPrefill, 2, 64, {13, 30}, 70, 104},
    {"f16, prefill, odd width", kF16, kPrefill, 3, 33, {37}, 5, 50, 2},
    {"bf16, prefill, 7 wide", kBf16, kPrefill, 2, 7, {20, 4}, 3, 30, 1},
    {"f16, candidates behind a prefix", kF16, kPrefix, 2, 64, {50, 21}, 90, 160},
    {"bf16, own ranges", kBf16, kOwn, 2, 80, {60, 9, 1}, 40, 100},
    {"f16, prefill, rows that see nothing", kF16, kNothing, 2, 16, {30, 8, 20}, 10, 64},
    {"f16, prefill, padding, dropout", kF16, kPrefill, 2, 32, {25, 7}, 9, 40, 0, true, 0.2f},
    // In bfloat16.
    {"prefill", kF32, kPrefill, 2, 64, {100, 0, 13}, 0, 130, 0, false, 0, kBf16},
    {"128 wide, behind a cache", kF32, kPrefill, 1, 128, {64}, 65, 130, 0, false, 0, kBf16},
    {"odd width", kF32, kPrefill, 3, 33, {37, 5}, 6, 50, 3, false, 0, kBf16},
    {"7 wide", kF32, kPrefill, 2, 7, {21}, 0, 30, 1, false, 0, kBf16},
    {"bf16 cache, 50 wide", kBf16, kPrefill, 2, 50, {40}, 31, 80, 0, false, 0, kBf16},
    {"f16 cache, candidates", kF16, kPrefix, 2, 64, {50, 21}, 90, 160, 0, false, 0, kBf16},
    {"own ranges", kF32, kOwn, 2, 80, {60, 9, 1}, 40, 100, 0, false, 0, kBf16},
    {"rows that see nothing", kF32, kNothing, 2, 16, {30, 8, 20}, 10, 64, 0, false, 0, kBf16},
    {"padding, dropout", kF32, kPrefill, 2, 32, {25, 7}, 9, 40, 0, true, 0.2f, kBf16},
    {"decoding", kF32, kDecode, 2, 64, {1, 1}, 100, 128, 0, false, 0, kBf16},
};

reference::Attention make(Fixture& f, const Shape& s) {
  reference::Attention a = {};
  a.sequences = static_cast<int64_t>(s.lengths.size());
  a.heads = s.heads, a.head_dim = s.head_dim;
  a.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.head_dim)));
  a.q_offsets = {0};
  for (int64_t i = 0; i < a.sequences; ++i) {
    const int32_t rows = s.lengths[i];
    a.kv_start.push_back(static_cast<int32_t>(i * s.capacity));
    a.kv_len.push_back(s.pattern == kNothing && i == 1 ? 0 : s.cached + rows);
    a.pad_count.push_back(s.padding ? 11 : 0);
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t key = s.cached + r;
      int32_t prefix = 0, begin = 0, end = key + 1;
      if (s.pattern == kWindow) begin = std::max(0, key - 39);
      if (s.pattern == kPrefix) prefix = s.cached - 20, begin = s.cached + r / 7 * 7;
      if (s.pattern == kOwn) {
        prefix = f.integers(1, 0, s.cached)[0];
        begin = f.integers(1, prefix, key)[0];
        end = f.integers(1, begin, s.cached + rows)[0];
      }
      if (s.pattern == kNothing && i < 2) end = 0;
      a.prefix.push_back(prefix), a.own_begin.push_back(begin), a.own_end.push_back(end);
    }
    a.q_offsets.push_back(a.q_offsets.back() + rows);
  }
  a.tokens = a.q_offsets.back();
  a.dropout = {s.p, 99, 0x500000002u};
  a.drop_columns = 333;
  return a;
}

// Columns [at, at + width) of a slab's rows.
Values columns_of(const Values& slab, int64_t ld, int64_t at, int64_t width) {
  Values x;
  for (size_t row = 0; row + ld <= slab.size(); row += ld)
    x.insert(x.end(), slab.begin() + row + at, slab.begin() + row + at + width);
  return x;
}

// Scores are float32 sums of exact products whatever the weights are rounded to. What lse is for a row that
// sees nothing is not said.
bool lse_agrees(const Values& lse, const Values& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < lse.size(); ++i) {
    if (std::isinf(expected[i])) continue;
    difference += std::pow(lse[i] - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  return difference <= norm * 1e-12;
}

void test_cache(Fixture& f, int variant) {
  const Shape& s = kShapes[variant];
  reference::Attention a = make(f, s);
  const int64_t width = a.heads * a.head_dim, ld = 2 * width + s.gap, ldq = width + s.gap;
  a.q = f.uniform(a.tokens * width, -2, 2);
  // Numbers that bfloat16 holds: then scores are exact up to float32, and weights alone are rounded.
  if (s.compute_dtype == kBf16) f.upload_as(kBf16, a.q);
  if (s.padding) a.pad_k = f.uniform(width, -2, 2), a.pad_v = f.uniform(width);
  // Rows behind a sequence's keys hold NaN: nobody may read them into a sum.
  Values slab = f.uniform(a.sequences * s.capacity * ld, -2, 2);
  if (s.compute_dtype == kBf16) f.upload_as(kBf16, slab);
  for (int64_t i = 0; i < a.sequences; ++i) {
    std::fill(slab.begin() + (a.kv_start[i] + a.kv_len[i]) * ld, slab.begin() + (i + 1) * s.capacity * ld,
              std::nan(""));
  }
  const void* cache = f.upload_as(s.kv_dtype, slab);  // rounds slab
  a.k = columns_of(slab, ld, 0, width), a.v = columns_of(slab, ld, width, width);
  allmrec_attention_args args = {};
  args.num_sequences = a.sequences, args.tokens = a.tokens;
  args.heads = static_cast<int32_t>(a.heads), args.head_dim = static_cast<int32_t>(a.head_dim);
  args.scale = static_cast<float>(a.scale), args.kv_dtype = s.kv_dtype;
  args.compute_dtype = s.compute_dtype;
  args.q = f.upload(spread(a.q, width, s.gap)), args.ldq = ldq;
  args.k = cache, args.v = static_cast<const char*>(cache) + width * (s.kv_dtype == kF32 ? 4 : 2),
  args.ldk = args.ldv = ld;
  args.q_offsets = f.upload(a.q_offsets), args.kv_start = f.upload(a.kv_start);
  args.kv_len = f.upload(a.kv_len), args.prefix = f.upload(a.prefix);
  args.own_begin = f.upload(a.own_begin), args.own_end = f.upload(a.own_end);
  args.pad_k = f.upload(a.pad_k), args.pad_v = f.upload(a.pad_v);
  if (args.pad_k) args.pad_count = f.upload(a.pad_count);
  args.dropout = a.dropout, args.drop_columns = a.drop_columns;
  float* out = f.output(a.tokens * ldq);
  args.out = out, args.ldout = ldq;
  args.lse = f.output(a.tokens * a.heads);
  if (!f.on_cpu() && s.kv_dtype != kF32) {  // a card does not offer it, and says so before it writes anything
    f.expect_status(&allmrec_backend::attention, args, ALLMREC_UNSUPPORTED);
    f.expect_untouched("out", out, a.tokens * ldq);
    return;
  }
  const reference::AttentionOutput expected = reference::attention(a);
  f.run(&allmrec_backend::attention, args);
  f.expect_matrix("out", args.out, a.tokens, width, ldq, expected.out);
  f.expect_true("lse", lse_agrees(f.download(args.lse, a.tokens * a.heads), expected.lse));
}

}  // namespace

void cache_attention_cases(Cases& cases) {
  constexpr Tolerance kWeights = {3e-3, "weights rounded to 8 bits"};
  for (size_t i = 0; i < kShapes.size(); ++i) {
    const bool rounds = kShapes[i].compute_dtype == kBf16;
    const Tolerance tolerance = rounds ? kWeights : kSum;
    cases.push_back({"attention", (rounds ? "computed in bf16, " : "") + std::string(kShapes[i].name),
                     tolerance.value, tolerance.reason, test_cache, static_cast<int>(i)});
  }
}

}  // namespace allmrec::test
