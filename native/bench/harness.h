#pragma once

// What the suites of a-llmrec-bench share: the device, its ceilings, the clock, and the rows of the report.

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../cpp/backend/ceilings.h"
#include "../cpp/backend/costs.h"
#include "../cpp/backend/device.h"
#include "../cpp/io/json.h"

namespace allmrec::bench {

Arithmetic arithmetic_of(int32_t dtype);
const char* dtype_name(int32_t dtype);

struct Options {
  std::string device = "cpu";
  std::string suite = "all";
  std::string filter;
  std::string json;
  std::string models;  // comma-separated OPT sizes; empty = what suits the device
  int threads = 0;
  double seconds = 0.3;  // how long each row is repeated
  double limit = 1e9;    // seconds after which no row begins
  bool quick = false;
};

// A row's work: what one call costs, how many units it makes, and the calls themselves, one for each set of
// buffers, taken in turn.
struct Work {
  Cost cost{0, 0};
  double units = 0;  // 0 = GFLOP, or GB where there is no arithmetic to speak of
  std::vector<std::function<void()>> calls;
  // Single ops: short ones are recorded and launched many at a time, since a launch from the host takes
  // longer than they do. Steps of models are timed as they are, and their ops are profiled once more.
  bool single_op = false;
};

struct RowName {
  std::string suite, op, name, shape;
  int32_t dtype = ALLMREC_F32;
  std::string unit;  // "tokens/s"; empty = GFLOP/s or GB/s, whichever bounds the row
};

class Bench {
 public:
  explicit Bench(const Options& options);

  Device& device() { return *device_; }
  const std::shared_ptr<Device>& shared_device() const { return device_; }
  const Options& options() const { return options_; }
  const Ceilings& ceilings() const { return ceilings_; }
  bool on_cpu() const { return options_.device == "cpu"; }
  bool quick() const { return options_.quick; }

  // Whether a row of this name is asked for; rows that cannot run still appear, with the reason.
  bool wants(const RowName& name) const;
  // Times `make`'s calls. What an op does not support, or does not fit, becomes the row's note.
  void row(const RowName& name, const std::function<Work()>& make);
  // A row that was timed elsewhere: seconds of one call.
  void timed_row(const RowName& name, double units, const Cost& cost, const std::function<double()>& seconds);

  // How many sets of buffers it takes that none is in a cache when its turn comes again.
  int64_t sets(const Cost& cost, Arithmetic kind) const;
  bool op_was_timed(const std::string& op) const;
  bool failed() const { return failed_; }
  void write_json() const;

 private:
  struct Timing {
    double seconds = 0;        // of one call
    double eager_seconds = 0;  // of one call that the host launches, where `seconds` is of recorded ones
    int64_t calls = 0;
    io::Json::Array profile;  // of a model's step
  };
  void finish(const RowName& name, double units, const Cost& cost, const Timing& timing,
              const std::string& note);
  Timing time_calls(const Work& work);
  double time_batches(double seconds, int64_t calls_each, const std::function<double()>& batch,
                      int64_t* calls);
  double time_recorded(const Work& work);
  io::Json::Array profile(const Work& work);
  bool out_of_time() const;

  Options options_;
  std::shared_ptr<Device> device_;
  allmrec_device_info info_{};
  std::string device_name_, instruction_;
  Ceilings ceilings_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  io::Json::Array rows_;
  std::vector<std::string> timed_ops_;
  bool failed_ = false;
};

// Median; the vector is sorted.
double median(std::vector<double>& values);

// The suites.
void op_suite(Bench& bench);
void model_suite(Bench& bench);
void scoring_suite(Bench& bench);

}  // namespace allmrec::bench
