#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "../nn/adam.h"
#include "../nn/parameter_set.h"

namespace allmrec {

using Losses = std::map<std::string, double>;

// What a training's error says of it.
struct Training {
  const char* name;  // "Stage 1"
  Adam& adam;
  std::vector<ParameterSet*> weights;  // that its ops read, learned or not
};

// compute() runs forward and, for a step, backward, and gives the loss terms with their sum as "loss". It
// must be a function of the optimizer's steps alone: where its loss is not finite it runs once more, every op
// looked at. Throws ErrorCode::numeric with the step, the loss terms and the first op that wrote what is no
// number; gradients are cleared then, and weights and moments as they were before.
Losses finite_losses(const Training& training, const std::function<Losses()>& compute);

// The same, then the optimizer's step, unless a gradient is not finite: that is such an error too.
Losses finite_step(const Training& training, const std::function<Losses()>& compute);

// For what is computed without gradients: `values` are its result, compute() the ops that led to it. Throws
// ErrorCode::numeric "<what> …" with the first op that wrote what is no number.
void expect_finite(const float* values, int64_t n, const char* what,
                   const std::vector<ParameterSet*>& weights, const std::function<void()>& compute);
[[noreturn]] void fail_not_finite(const std::string& what, const std::vector<ParameterSet*>& weights,
                                  const std::function<void()>& compute);

// Why numbers are not finite: a weight, or the first op that wrote one when compute() runs again; empty if it
// cannot be found again.
std::string why_not_finite(const std::vector<ParameterSet*>& weights, const std::function<void()>& compute);

}  // namespace allmrec
