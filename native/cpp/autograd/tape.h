#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../core/arena.h"
#include "../core/tensor.h"
#include "parameter.h"

namespace allmrec {

// One named term of a loss. The device scalar holds factor · loss, and the total takes weight · loss; the two
// differ only for a weight of zero, whose term is still reported.
struct LossTerm {
  std::string name;
  float* value;
  float weight;
  float factor;
};

// How products of float32 operands are computed; see allmrec_gemm_args. An op's backward keeps to the
// precision of its forward.
struct Precision {
  int32_t compute_dtype = ALLMREC_F32;
  bool fixed_order = false;
};

// Of scores: a row's bits depend neither on the rows beside it nor on their number, so that a user's scores
// are the same in every batch.
constexpr Precision kScorePrecision{ALLMREC_F32, true};

// Records what a step's backward has to do. Models are written forward only: every op that has an input with
// a gradient appends its backward here. Without recording, ops only compute.
class Tape {
 public:
  // step: the number of this step within the run; with the seed it decides every dropout mask of the step.
  Tape(Device& device, Arena& arena, bool recording, uint64_t seed = 0, uint64_t step = 0);

  Device& device() { return device_; }
  Arena& arena() { return arena_; }
  bool recording() const { return recording_; }

  const Precision& precision() const { return precision_; }

  // Uninitialised, no gradient.
  Tensor tensor(int64_t rows, int64_t cols, int32_t dtype = ALLMREC_F32);
  Tensor zeros(int64_t rows, int64_t cols);
  Tensor from_host(const float* values, int64_t rows, int64_t cols);
  IntTensor ints(const std::vector<int32_t>& values);
  IntTensor ints(const int32_t* values, int64_t n);

  // Makes `t` a variable of this tape, when recording: it will be given a gradient.
  Tensor variable(Tensor t);
  bool wants_grad(const Tensor& t) const { return recording_ && t.variable >= 0; }

  struct Grad {
    void* data;
    int32_t accumulate;
    float* f32() const { return static_cast<float*>(data); }
  };
  // Where a contribution to t's gradient goes, in t's dtype: the first one overwrites, later ones add.
  Grad grad_target(const Tensor& t);
  // t's finished gradient, for the backward of the op that made t: a matrix like t, without data when nothing
  // contributed. Its memory is free when the caller lets go of it.
  Tensor take_grad(const Tensor& t);
  // A leaf's gradient; zeros when nothing contributed.
  std::vector<float> grad_to_host(const Tensor& t);

  void record(std::function<void()> backward) {
    if (recording_) backward_.push_back(std::move(backward));
  }

  // Hands the finished gradient of an output on to an input that takes it unchanged; it must not be written
  // to after.
  void give_grad(const Tensor& t, const Tensor& gradient);

  // Sets a tensor's memory, or a gradient of its shape, to zeros.
  void clear(const Tensor& like, void* data);

  // A scalar loss term; the loss ops call it.
  const LossTerm& add_loss(const std::string& name, float weight);

  // Runs the recorded backwards in reverse, dropping each with what it kept. Loss ops have left their
  // gradients already.
  void backward();

  // Unweighted loss terms by name, terms of one name added, and their weighted sum as "loss". Waits for the
  // device.
  std::map<std::string, double> read_losses();

  // Adds the weighted sum of the loss terms to a number on the device, without waiting.
  void add_losses_to(float* sum);

  allmrec_dropout dropout(float p);  // a fresh stream; p = 0 when not recording

 private:
  friend class WithPrecision;
  Device& device_;
  Arena& arena_;
  bool recording_;
  Precision precision_;
  uint64_t seed_;
  uint64_t stream_;
  struct Variable {
    std::shared_ptr<void> gradient;  // or null
    int64_t bytes;
  };
  std::vector<Variable> grads_;
  std::vector<std::function<void()>> backward_;
  std::vector<LossTerm> losses_;
};

// Sets the precision of the ops that are called while it lives.
class WithPrecision {
 public:
  WithPrecision(Tape& tape, const Precision& precision) : tape_(tape), before_(tape.precision_) {
    tape.precision_ = precision;
  }
  ~WithPrecision() { tape_.precision_ = before_; }
  WithPrecision(const WithPrecision&) = delete;
  WithPrecision& operator=(const WithPrecision&) = delete;

 private:
  Tape& tape_;
  Precision before_;
};

}  // namespace allmrec
