#!/usr/bin/env bash
# Everything that wants a GPU, in one command, on a machine with nvcc, CMake, ninja and PyTorch: no Node, no
# downloads, less than ten minutes.
#
#   scripts/gpu.sh                          all parts, results in bench/results/gpu-<card>
#   scripts/gpu.sh --out DIR ops bench      some parts; results of earlier runs in DIR stay
#   scripts/gpu.sh --check                  the same script without a GPU: tiny sizes on the CPU, to see that it runs
#
# Parts, in this order: build, ops (the op table against its float64 references, with cuBLASLt and without),
# parity (model steps beside the CPU's), bench (ours), peers (PyTorch and transformers), sanitize (compute-sanitizer),
# report (one json with every figure, its floor, its ratio and its peer). A part that fails is recorded and does not
# stop the others; each has a time limit, and all together end after nine and a half minutes.
#
# Options: --out DIR, --build DIR (default build-gpu), --jobs N, --python PROGRAM.
set -uo pipefail
cd "$(dirname "$0")/.."

parts=()
out=""
build=""
jobs=$(nproc 2>/dev/null || echo 4)
python=${PYTHON:-python3}
check=0
deadline=570 # seconds of the whole run

usage() { sed -n '2,15s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?} && shift ;;
    --build) build=${2:?} && shift ;;
    --jobs) jobs=${2:?} && shift ;;
    --python) python=${2:?} && shift ;;
    --check) check=1 ;;
    -h | --help) usage && exit 0 ;;
    build | ops | parity | bench | peers | sanitize | report) parts+=("$1") ;;
    *) echo "Unknown part or option $1." >&2 && usage >&2 && exit 2 ;;
  esac
  shift
done
[ ${#parts[@]} -eq 0 ] && parts=(build ops parity bench peers sanitize report)

field() { # of the first card, as nvidia-smi names it
  nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null | head -n 1 | sed 's/^ *//;s/ *$//'
}
# Neither nvcc nor the sanitizer need be on the PATH of a fresh machine.
for folder in "${CUDA_HOME:-}" /usr/local/cuda; do
  [ -n "$folder" ] && [ -d "$folder/bin" ] && PATH=$PATH:$folder/bin
done
device=cuda
card=$(field name)
if [ "$check" = 1 ]; then
  device=cpu
  card=check
  build=${build:-build-check}
elif [ -z "$card" ]; then
  echo 'nvidia-smi finds no card here; --check tries the script without one.' >&2
  exit 1
fi
slug=$(printf '%s' "$card" | tr '[:upper:]' '[:lower:]' | tr -cs 'a-z0-9' '-' | sed 's/^nvidia-//;s/-$//')
[ -n "$out" ] || out=bench/results/gpu-$slug
build=${build:-build-gpu}
mkdir -p "$out/logs"
out=$(cd "$out" && pwd)
export ALLMREC_CUDA_LIBRARY=$build/allmrec_cuda.so
started=$SECONDS

failed=0
record() { # part, status, seconds, note
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" > "$out/logs/$1.status"
}
# run PART LIMIT COMMAND…: what it prints goes to its log; its status is recorded.
run() {
  local name=$1 limit=$2 begin=$SECONDS left status note=''
  shift 2
  left=$((deadline - (SECONDS - started)))
  if [ "$left" -lt 5 ]; then
    record "$name" skipped 0 'no time left'
    echo "== $name: no time left"
    failed=1
    return
  fi
  [ "$left" -lt "$limit" ] && limit=$left
  echo "== $name (at most $limit s)"
  timeout --kill-after=5 "$limit" "$@" > "$out/logs/$name.log" 2>&1
  status=$?
  case $status in
    0) note=passed ;;
    124 | 137) note="time limit of $limit s" ;;
    *) note="ended with $status" ;;
  esac
  tail -n 4 "$out/logs/$name.log"
  echo "-- $name: $note, $((SECONDS - begin)) s"
  note+=": $(tail -n 1 "$out/logs/$name.log" | cut -c 1-200 | tr -s '\t ' ' ')"
  record "$name" "$status" "$((SECONDS - begin))" "$note"
  [ "$status" -eq 0 ] || failed=1
}

part_build() {
  local options=(-S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DALLMREC_ADDON=OFF)
  local targets=(op_test a-llmrec-bench a-llmrec-parity)
  command -v ninja > /dev/null && options+=(-G Ninja)
  if [ "$device" = cuda ]; then
    local capability
    capability=$(field compute_cap | tr -d .)
    [ -z "$capability" ] || capability+=-real
    options+=(-DALLMREC_CUDA=ON "-DALLMREC_CUDA_ARCHITECTURES=${capability:-native}")
    targets+=(allmrec_cuda)
  fi
  run build 240 bash -c 'cmake "${@:3}" && cmake --build "$1" -j "$2" --target '"${targets[*]}" \
    build "$build" "$jobs" "${options[@]}"
}

part_ops() {
  if [ "$device" = cpu ]; then
    run ops 60 "$build/op_test" gemm
    return
  fi
  run ops 60 "$build/op_test" --device "$device"
  run ops-own-gemm 40 env ALLMREC_CUBLASLT=off "$build/op_test" --device "$device" gemm
}

part_parity() {
  run parity 40 "$build/a-llmrec-parity" --device "$device"
}

part_bench() {
  rm -f "$out"/bench-*.json # of an earlier run: what fails now must not look measured
  local options=(--device "$device" --seconds 0.15)
  [ "$check" = 1 ] && options+=(--quick)
  run bench-models 60 "$build/a-llmrec-bench" "${options[@]}" --suite models --limit 50 --json "$out/bench-models.json"
  run bench-scoring 30 "$build/a-llmrec-bench" "${options[@]}" --suite scoring --limit 24 --json "$out/bench-scoring.json"
  run bench-ops 70 "$build/a-llmrec-bench" "${options[@]}" --suite ops --seconds 0.1 --limit 60 --json "$out/bench-ops.json"
  run bench-own-gemm 30 env ALLMREC_CUBLASLT=off "$build/a-llmrec-bench" "${options[@]}" --suite ops --filter 'gemm ' \
    --limit 24 --json "$out/bench-own-gemm.json"
}

part_peers() {
  rm -f "$out/peers.json"
  local options=(--json "$out/peers.json" --seconds 0.5 --limit 100)
  [ "$check" = 1 ] && options+=(--cpu --quick)
  if ! "$python" -c 'import torch' > "$out/logs/peers.log" 2>&1; then
    record peers missing 0 "$python has no PyTorch"
    echo "== peers: $python has no PyTorch"
    failed=1
    return
  fi
  "$python" -c 'import transformers' > /dev/null 2>&1 ||
    echo 'transformers is not installed: plain PyTorch modules stand in for its models.'
  run peers 120 "$python" scripts/gpu/peers.py "${options[@]}"
}

# One tool after the other would take minutes; side by side they share the card well enough.
part_sanitize() {
  if [ "$device" = cpu ] || ! command -v compute-sanitizer > /dev/null; then
    record sanitize missing 0 'compute-sanitizer is not installed'
    echo '== sanitize: compute-sanitizer is not installed'
    [ "$device" = cpu ] || failed=1
    return
  fi
  local tools=(memcheck racecheck synccheck initcheck) tool script=''
  for tool in "${tools[@]}"; do
    script+="compute-sanitizer --tool $tool --error-exitcode 99 --print-limit 20 '$build/op_test' --device cuda --once"
    script+=" > '$out/logs/sanitize-$tool.log' 2>&1 & pids+=(\$!);"
  done
  # shellcheck disable=SC2016
  script+='worst=0; i=0; for pid in "${pids[@]}"; do wait "$pid"; status=$?; set -- '"${tools[*]}"'; shift $i;
    echo "$1 ended with $status"; [ $status -gt $worst ] && worst=$status; i=$((i + 1)); done; exit $worst'
  run sanitize 120 bash -c "$script"
  for tool in "${tools[@]}"; do
    grep -h 'ERROR SUMMARY\|RACECHECK SUMMARY' "$out/logs/sanitize-$tool.log" | sed "s/^/$tool: /"
  done
}

write_info() {
  {
    printf 'card\t%s\n' "$card"
    printf 'driver\t%s\n' "$(field driver_version)"
    printf 'capability\t%s\n' "$(field compute_cap)"
    if [ "$device" = cuda ]; then
      printf 'memory\t%s MiB\n' "$(field memory.total)"
      printf 'powerLimit\t%s W\n' "$(field power.limit)"
      printf 'clock\t%s MHz\n' "$(field clocks.max.sm)"
    fi
    printf 'nvcc\t%s\n' "$(nvcc --version 2>/dev/null | sed -n 's/.*release //p')"
    printf 'date\t%s\n' "$(date -u +%Y-%m-%d)"
    printf 'commit\t%s\n' "$(git describe --always --dirty 2>/dev/null || echo "${ALLMREC_COMMIT:-unknown}")"
    printf 'seconds\t%s\n' "$((SECONDS - started))"
  } > "$out/logs/info.tsv"
}

for part in build ops parity bench peers sanitize report; do
  case " ${parts[*]} " in *" $part "*) ;; *) continue ;; esac
  if [ "$part" = report ]; then
    write_info
    echo '== report'
    "$python" scripts/gpu/report.py "$out" || failed=1
  else
    "part_$part"
  fi
done
echo "$((SECONDS - started)) s; results in $out"
exit "$failed"
