#pragma once

// Deterministic addition of rows by index: what embedding_backward and scatter_add_rows are made of.

#include "context.h"
#include "philox.h"

namespace allmrec::cuda {

// One set of targets for the same rows. For i < count, with index k = index[i] (index null: k = 0 for all):
//   k >= 0: to[k]      += scale · x[i]
//   k <  0: below[−k − 1] += scale · x[i]
// A null target leaves its rows out.
struct ScatterJob {
  const int32_t* index;
  void* to;
  void* below;
  float scale;
};

constexpr int kMostScatterJobs = 3;

struct ScatterAdd {
  int64_t count, cols;
  const void* x;  // (count, cols)
  int32_t x_dtype;
  int64_t ldx;
  Dropout dropout;    // of x first: element (i, c) is i · cols + c; without, threshold 0 and scale 1
  int32_t out_dtype;  // F32, or x_dtype
  int64_t ldout;
  ScatterJob jobs[kMostScatterJobs];
  int num_jobs;
};

void scatter_add(Context& context, const ScatterAdd& a);

}  // namespace allmrec::cuda
