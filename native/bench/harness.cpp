#include "harness.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>

namespace allmrec::bench {

using Clock = std::chrono::steady_clock;

namespace {

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

io::Json number_or_null(double value) {
  return std::isfinite(value) && value > 0 ? io::Json(value) : io::Json();
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[32] = "";
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

}  // namespace

double median(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Arithmetic arithmetic_of(int32_t dtype) {
  if (dtype == ALLMREC_F32) return Arithmetic::float32;
  // Quantised weights are widened to half for large products, and few rows are bound by bytes.
  return Arithmetic::half;
}

const char* dtype_name(int32_t dtype) {
  constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "int8", "int4", "int32"};
  return kNames[dtype];
}

Bench::Bench(const Options& options)
    : options_(options), device_(Device::open(options.device, options.threads)) {
  info_ = device_->info();
  device_name_ = info_.name, instruction_ = info_.instruction;
  // The emulator's times say nothing.
  if (options_.device == "cpu") ceilings_ = measure_cpu(instruction_, info_.threads);
  if (options_.device == "cuda") {
    ceilings_ = card_ceilings(device_name_);
    if (ceilings_.bytes == 0) ceilings_ = measure_card(*device_);
  }
  std::printf("%s, %s, %d %s\n", device_name_.c_str(), instruction_.c_str(), info_.threads,
              on_cpu() ? "threads" : "multiprocessors");
  if (ceilings_.bytes > 0)
    std::printf("ceilings: float32 %.4g, half %.4g TFLOP/s, %.4g GB/s (%s)\n",
                ceilings_.float32_flops * 1e-12, ceilings_.half_flops * 1e-12, ceilings_.bytes * 1e-9,
                ceilings_.source.c_str());
}

bool Bench::out_of_time() const {
  return since(started_) > options_.limit;
}

bool Bench::wants(const RowName& name) const {
  const std::string label = name.name + " " + name.shape + " " + dtype_name(name.dtype);
  return label.find(options_.filter) != std::string::npos;
}

int64_t Bench::sets(double bytes) const {
  if (options_.quick || bytes <= 0) return 1;
  // Four times an H200's 60 MB of L2; processors of today have up to about that much as L3.
  constexpr double kBeyondCaches = 256e6;
  return std::min<int64_t>(64, std::max<int64_t>(1, static_cast<int64_t>(std::ceil(kBeyondCaches / bytes))));
}

// Median seconds of one call. Calls between two waits for the device are timed together, so that neither the
// clock nor the wait is part of a short op; what cannot be queued that fast is bound by launches, and is
// shown as it is.
double Bench::time_calls(const Work& work, int64_t* calls) {
  size_t turn = 0;
  const auto batch = [&](int64_t n) {
    const auto start = Clock::now();
    for (int64_t i = 0; i < n; ++i) work.calls[turn++ % work.calls.size()]();
    device_->synchronize();
    return since(start);
  };
  for (const auto& call : work.calls) call();  // every set once: first touch, algorithm choice
  device_->synchronize();
  if (options_.quick) {
    *calls = 1;
    return batch(1);
  }
  int64_t n = 1;
  double elapsed = batch(1);
  const double target = options_.seconds / 10;
  while (elapsed < target && n < 100000) {
    n = elapsed < target / 20 ? n * 8 : n * 2;
    elapsed = batch(n);
  }
  std::vector<double> times;
  double spent = 0;
  while (times.size() < 3 || (spent < options_.seconds && times.size() < 50)) {
    const double seconds = batch(n);
    times.push_back(seconds / static_cast<double>(n));
    spent += seconds;
  }
  *calls = n * static_cast<int64_t>(times.size());
  return median(times);
}

void Bench::row(const RowName& name, const std::function<Work()>& make) {
  if (!wants(name)) return;
  Work work;
  double seconds = 0;
  int64_t calls = 0;
  std::string note;
  if (out_of_time()) {
    note = "left out: the time limit was reached";
  } else {
    try {
      work = make();
      seconds = time_calls(work, &calls);
      timed_ops_.push_back(name.op);
    } catch (const Error& error) {
      note = error.what();
      // A gap on the CPU is a gap; elsewhere the table must be complete.
      if (error.code() != ErrorCode::unsupported || !on_cpu()) failed_ = true;
    }
  }
  finish(name, work.units, work.cost, seconds, calls, note);
}

void Bench::timed_row(const RowName& name, double units, const Cost& cost,
                      const std::function<double()>& seconds) {
  if (!wants(name)) return;
  double measured = 0;
  std::string note;
  if (out_of_time()) {
    note = "left out: the time limit was reached";
  } else {
    try {
      measured = seconds();
    } catch (const Error& error) {
      note = error.what();
      if (error.code() != ErrorCode::unsupported || !on_cpu()) failed_ = true;
    }
  }
  finish(name, units, cost, measured, measured > 0 ? 1 : 0, note);
}

void Bench::finish(const RowName& name, double units, const Cost& cost, double seconds, int64_t calls,
                   const std::string& note) {
  const Arithmetic kind = arithmetic_of(name.dtype);
  const double floor = ceilings_.floor(cost, kind);
  const bool by_bytes = ceilings_.bytes > 0 && cost.bytes / ceilings_.bytes >= floor;
  std::string unit = name.unit;
  if (unit.empty()) {
    unit = by_bytes || cost.flops == 0 ? "GB/s" : "GFLOP/s";
    units = (unit == "GB/s" ? cost.bytes : cost.flops) * 1e-9;
  }
  const double rate = seconds > 0 ? units / seconds : 0;
  const char* arithmetic = kind == Arithmetic::float32 ? "float32" : "half";
  rows_.push_back(io::Json::Object{
      {"suite", name.suite},
      {"op", name.op},
      {"name", name.name},
      {"shape", name.shape},
      {"dtype", dtype_name(name.dtype)},
      {"unit", unit},
      {"rate", number_or_null(rate)},
      {"milliseconds", number_or_null(seconds * 1e3)},
      {"calls", calls},
      {"flops", cost.flops},
      {"bytes", cost.bytes},
      {"arithmetic", arithmetic},
      {"bound", by_bytes ? "bytes" : "arithmetic"},
      {"floorMilliseconds", number_or_null(floor * 1e3)},
      {"ofFloor", seconds > 0 ? number_or_null(floor / seconds) : io::Json()},
      {"note", note},
  });
  const std::string label = name.name + " " + name.shape;
  if (seconds > 0)
    std::printf("%-52s %-8s %10.4f ms %10.4g %-11s %5.1f %% of the %s\n", label.c_str(),
                dtype_name(name.dtype), seconds * 1e3, rate, unit.c_str(), 100 * floor / seconds,
                by_bytes ? "bytes" : "arithmetic");
  else
    std::printf("%-52s %-8s %s\n", label.c_str(), dtype_name(name.dtype), note.c_str());
  std::fflush(stdout);
}

bool Bench::op_was_timed(const std::string& op) const {
  return std::find(timed_ops_.begin(), timed_ops_.end(), op) != timed_ops_.end();
}

void Bench::write_json() const {
  if (options_.json.empty()) return;
  const io::Json report(io::Json::Object{
      {"kind", "bench"},
      {"device", options_.device},
      {"name", device_name_},
      {"instruction", instruction_},
      {"threads", static_cast<int64_t>(info_.threads)},
      {"memoryBytes", info_.memory_bytes},
      {"date", today()},
      {"quick", options_.quick},
      {"seconds", since(started_)},
      {"ceilings", io::Json::Object{{"float32", number_or_null(ceilings_.float32_flops)},
                                    {"half", number_or_null(ceilings_.half_flops)},
                                    {"int8", number_or_null(ceilings_.int8_flops)},
                                    {"bytes", number_or_null(ceilings_.bytes)},
                                    {"source", ceilings_.source}}},
      {"rows", rows_},
  });
  std::ofstream file(options_.json);
  file << report.to_text() << "\n";
  if (!file.flush())
    throw Error(ErrorCode::file_not_found,
                "Cannot write `" + options_.json + "`: " + std::strerror(errno) + ".");
}

}  // namespace allmrec::bench
