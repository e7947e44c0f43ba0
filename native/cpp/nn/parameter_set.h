#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../autograd/parameter.h"
#include "../backend/device.h"
#include "../io/tensor_file.h"

namespace allmrec {

// The weights of one model, with the memory they live in.
class ParameterSet {
 public:
  explicit ParameterSet(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  // Uninitialised. References stay valid as long as the set. dtype: how the values are stored; only F32 can
  // be trained.
  Parameter& add(const std::string& name, std::vector<int64_t> shape, int32_t dtype = ALLMREC_F32);
  struct Entry {
    std::string name;
    std::vector<int64_t> shape;
    int32_t dtype = ALLMREC_F32;
    bool adjoins = false;  // begins where the entry before ends, not at the next multiple of 64 bytes
  };
  // All in one piece of memory, in this order, and the scales in another. A large model takes its weights at
  // once: pieces of their own would each end in a huge page that is hardly used.
  std::vector<Parameter*> add_all(const std::vector<Entry>& entries);
  // What add_all takes, in bytes.
  struct Sizes {
    int64_t numbers = 0, bytes = 0;
  };
  static Sizes sizes(const std::vector<Entry>& entries);
  // Weights of one dtype that lie one behind another in memory.
  std::vector<Parameter*> add_together(const std::vector<Entry>& entries, int32_t dtype = ALLMREC_F32);
  Parameter* find(const std::string& name) const;
  const std::vector<std::unique_ptr<Parameter>>& all() const { return parameters_; }

  // Gradients exist (zeroed) exactly for the trainable parameters.
  void set_trainable(Parameter& parameter, bool trainable);
  void set_trainable(bool trainable);
  std::vector<Parameter*> trainable() const;
  // Makes all trainable and gives them. One call, because the arguments of an optimizer are evaluated in any
  // order.
  std::vector<Parameter*> train_all();
  void zero_grad();

  // Converts to the parameter's dtype.
  void upload(Parameter& parameter, const float* host);
  // As float32, whatever the dtype.
  std::vector<float> value_to_host(const Parameter& parameter) const;
  std::vector<float> grad_to_host(const Parameter& parameter) const;

  void fill(Parameter& parameter, float value);
  // Random numbers depend on the seed and the parameter's place in the set.
  void normal(Parameter& parameter, uint64_t seed, float std);
  void uniform(Parameter& parameter, uint64_t seed, float bound);
  void xavier_normal(Parameter& parameter,
                     uint64_t seed);  // std = sqrt(2 / (fan_in + fan_out)); vectors: left alone

  int64_t count() const;  // numbers in all parameters
  size_t bytes() const;   // of weights and gradients

  // Reads every parameter from whichever file holds `to_file_name(name)` (several alternatives in order),
  // converted to its dtype; checks shapes; throws ErrorCode::checkpoint naming what is missing. Of a tensor
  // of `padded` the file may hold more rows than are read. Weights stored as quants can be read in their own
  // dtype alone.
  using Names = std::function<std::vector<std::string>(const std::string&)>;
  void load(const std::vector<std::shared_ptr<const io::TensorFile>>& files, const Names& names,
            const std::vector<const Parameter*>& padded = {});

  std::shared_ptr<Device> device() const { return device_; }

 private:
  // Runs fn with float32 memory that ends up as the parameter's value.
  void write(Parameter& parameter, const std::function<void(float*)>& fn);
  uint64_t stream_of(const Parameter& parameter) const;
  std::shared_ptr<Device> device_;
  std::vector<std::unique_ptr<Parameter>> parameters_;
  std::vector<DeviceBuffer> values_;
  std::map<const Parameter*, DeviceBuffer> grads_;
  std::map<std::string, size_t> index_;
};

std::vector<std::shared_ptr<const io::TensorFile>> open_files(const std::vector<std::string>& paths);

}  // namespace allmrec
