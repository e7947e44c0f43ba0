#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>

#include "../core/executor.h"

namespace allmrec::binding {

// What one Node environment (the main thread or a worker) owns: the way back to its thread, and the executors
// to stop when it ends.
class Environment final : public JobOwner {
 public:
  static std::shared_ptr<Environment> create(Napi::Env env);

  // While jobs are pending the process does not exit by itself.
  void job_queued() override;
  void job_done(std::unique_ptr<Job> job) override;

 private:
  explicit Environment(napi_env env) : env_(env) {}
  static void on_job_done(napi_env env, napi_value callback, void* context, void* data);
  static void on_cleanup(void* self);

  napi_env env_;
  napi_threadsafe_function completions_ = nullptr;
  int64_t pending_ = 0;
  std::shared_ptr<Environment> self_;  // until the environment's cleanup
};

}  // namespace allmrec::binding
