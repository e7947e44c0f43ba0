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
  ceilings_ = ceilings_of(*device_);
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

int64_t Bench::sets(const Cost& cost, Arithmetic kind) const {
  if (options_.quick || cost.bytes <= 0) return 1;
  // Where arithmetic takes several times as long, it does not matter where the operands come from.
  const double rate = ceilings_.flops(kind);
  if (rate > 0 && cost.flops / rate > 4 * cost.bytes / ceilings_.bytes) return 1;
  // Four times an H200's 60 MB of L2; processors of today have up to about that much as L3.
  constexpr double kBeyondCaches = 256e6;
  return std::min<int64_t>(64, static_cast<int64_t>(std::ceil(kBeyondCaches / cost.bytes)));
}

// Median seconds of one call: batches until the time is used up.
double Bench::time_batches(double seconds, int64_t calls_each, const std::function<double()>& batch,
                           int64_t* calls) {
  std::vector<double> times;
  double spent = 0;
  while (times.size() < 3 || (spent < seconds && times.size() < 50)) {
    const double elapsed = batch();
    times.push_back(elapsed / static_cast<double>(calls_each));
    spent += elapsed;
    if (options_.quick) break;
  }
  *calls += calls_each * static_cast<int64_t>(times.size());
  return median(times);
}

// Calls between two waits for the device are timed together, so that neither the clock nor the wait is part
// of a short op.
Bench::Timing Bench::time_calls(const Work& work) {
  size_t turn = 0;
  int64_t n = 1;
  const auto batch = [&] {
    const auto start = Clock::now();
    for (int64_t i = 0; i < n; ++i) work.calls[turn++ % work.calls.size()]();
    device_->synchronize();
    return since(start);
  };
  for (const auto& call : work.calls) call();  // every set once: first touch, choice of algorithms
  device_->synchronize();
  const double target = options_.quick ? 0 : options_.seconds / 10;
  double elapsed = options_.quick ? 0 : batch();
  while (elapsed < target && n < 100000) {
    n = elapsed < target / 20 ? n * 8 : n * 2;
    elapsed = batch();
  }
  Timing timing;
  timing.seconds = time_batches(options_.seconds, n, batch, &timing.calls);
  constexpr double kShort = 50e-6;  // a launch takes the host some 5 µs
  if (work.single_op && device_->has_graphs() && (timing.seconds < kShort || options_.quick)) {
    timing.eager_seconds = timing.seconds;
    timing.seconds = time_recorded(work);
  }
  if (!work.single_op && device_->has_graphs()) timing.profile = profile(work);
  return timing;
}

// Seconds of one call among forty that are launched as one.
double Bench::time_recorded(const Work& work) {
  const int64_t recorded = options_.quick ? 3 : 40;
  allmrec_graph* graph = nullptr;
  device_->capture_begin();
  try {
    for (int64_t i = 0; i < recorded; ++i) work.calls[static_cast<size_t>(i) % work.calls.size()]();
    device_->capture_end(&graph);
  } catch (...) {
    device_->capture_cancel();
    throw;
  }
  const std::unique_ptr<allmrec_graph, std::function<void(allmrec_graph*)>> owner(
      graph, [this](allmrec_graph* g) { device_->free(g); });
  const int64_t launches = options_.quick ? 1 : 10;
  const auto batch = [&] {
    const auto start = Clock::now();
    for (int64_t i = 0; i < launches; ++i) device_->launch(graph);
    device_->synchronize();
    return since(start);
  };
  batch();
  int64_t calls = 0;
  return time_batches(options_.seconds / 2, recorded * launches, batch, &calls);
}

// One more step with every op timed, the most expensive op first.
io::Json::Array Bench::profile(const Work& work) {
  device_->profile_begin();
  work.calls.front()();
  std::vector<ProfileRow> rows = device_->profile_end();
  std::sort(rows.begin(), rows.end(),
            [](const ProfileRow& a, const ProfileRow& b) { return a.milliseconds > b.milliseconds; });
  io::Json::Array json;
  for (const ProfileRow& row : rows)
    json.push_back(io::Json::Object{{"op", row.op},
                                    {"calls", row.calls},
                                    {"milliseconds", row.milliseconds},
                                    {"flops", row.flops},
                                    {"bytes", row.bytes}});
  return json;
}

void Bench::row(const RowName& name, const std::function<Work()>& make) {
  if (!wants(name)) return;
  Work work;
  Timing timing;
  std::string note;
  if (out_of_time()) {
    note = "left out: the time limit was reached";
  } else {
    try {
      work = make();
      timing = time_calls(work);
      timed_ops_.push_back(name.op);
    } catch (const Error& error) {
      note = error.what();
      // A gap on the CPU is a gap; elsewhere the table must be complete.
      if (error.code() != ErrorCode::unsupported || !on_cpu()) failed_ = true;
    }
  }
  finish(name, work.units, work.cost, timing, note);
}

void Bench::timed_row(const RowName& name, double units, const Cost& cost,
                      const std::function<double()>& seconds) {
  if (!wants(name)) return;
  Timing timing;
  std::string note;
  if (out_of_time()) {
    note = "left out: the time limit was reached";
  } else {
    try {
      timing.seconds = seconds();
      timing.calls = 1;
    } catch (const Error& error) {
      note = error.what();
      if (error.code() != ErrorCode::unsupported || !on_cpu()) failed_ = true;
    }
  }
  finish(name, units, cost, timing, note);
}

void Bench::finish(const RowName& name, double units, const Cost& cost, const Timing& timing,
                   const std::string& note) {
  const double seconds = timing.seconds;
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
      {"eagerMilliseconds", number_or_null(timing.eager_seconds * 1e3)},
      {"calls", timing.calls},
      {"flops", cost.flops},
      {"bytes", cost.bytes},
      {"arithmetic", arithmetic},
      {"bound", by_bytes ? "bytes" : "arithmetic"},
      {"floorMilliseconds", number_or_null(floor * 1e3)},
      {"ofFloor", seconds > 0 ? number_or_null(floor / seconds) : io::Json()},
      {"note", note},
      {"profile", timing.profile},
  });
  const std::string label = name.name + " " + name.shape;
  if (seconds > 0)
    std::printf("%-52s %-8s %10.4f ms %10.4g %-11s %5.1f %% of the %s\n", label.c_str(),
                dtype_name(name.dtype), seconds * 1e3, rate, unit.c_str(), 100 * floor / seconds,
                by_bytes ? "bytes" : "arithmetic");
  else
    std::printf("%-52s %-8s %s\n", label.c_str(), dtype_name(name.dtype), note.c_str());
  for (size_t i = 0; i < std::min<size_t>(5, timing.profile.size()); ++i) {
    const auto number = [&](const char* key) { return *timing.profile[i].find(key)->if_double(); };
    const double least = ceilings_.floor({number("flops"), number("bytes")}, kind);
    std::printf("    %-22s %5lld calls %10.4f ms, floor %.4f ms\n",
                timing.profile[i].find("op")->if_string()->c_str(),
                static_cast<long long>(*timing.profile[i].find("calls")->if_int()), number("milliseconds"),
                least * 1e3);
  }
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
      {"libraries", std::string(info_.libraries ? info_.libraries : "")},
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
