#!/usr/bin/env bash
# Runs every check that needs an NVIDIA GPU, in one call of less than 10 minutes.
#
# usage: benchmarks/gpu_check.sh [OUTPUT_FOLDER]
#
# Builds the package for the GPU at hand, without network: python3 (or $PYTHON) needs jax with CUDA,
# numpy, pytest, scikit-build-core, nanobind, cmake and ninja, and nvcc has to be found. Every step
# has a time limit and a log in the output folder ($OUT, or benchmarks/results/gpu), and a step that
# fails does not stop the others. Exits with 1 if a step failed. GPU_CHECK_SECONDS is the limit of
# all steps together.
set -uo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root=$PWD
python=${PYTHON:-python3}
out=$(realpath -m "${1:-${OUT:-$root/benchmarks/results/gpu}}")
total=${GPU_CHECK_SECONDS:-570}
work=$(mktemp -d)
mkdir -p "$out"
export PATH=$PATH:/usr/local/cuda/bin
export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
# Several processes share the GPU: none may take all of its memory.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INDEX=1
background=
: >"$work/summary"

finish() {
  [[ -n $background ]] && kill -- "-$background" 2>/dev/null
  rm -rf "$work"
}
trap finish EXIT

# Prints the seconds for a step: its limit, or the time that is left less that kept for later steps.
seconds() { # LIMIT KEPT
  local left=$((total - SECONDS - $2))
  echo $((left < $1 ? left : $1))
}

record() { # NAME CODE SECONDS
  local text=ok
  if (($2 == 124 || $2 == 137)); then
    text='out of time'
  elif (($2 == 127)); then
    text='not found'
  elif (($2)); then
    text="failed ($2)"
  fi
  # Files, because some steps run in the background.
  (($2)) && touch "$work/failed"
  printf '%-12s %-12s %4d s  %s\n' "$1" "$text" "$3" "$1.log" >>"$work/summary"
}

step() { # NAME LIMIT KEPT COMMAND...
  local name=$1 limit begin=$SECONDS code=124
  limit=$(seconds "$2" "$3")
  printf '===== %s (at most %d s)\n' "$name" "$limit"
  if ((limit > 0)); then
    timeout --kill-after=10 "$limit" "${@:4}" >"$out/$name.log" 2>&1
    code=$?
  else
    echo 'no time was left' >"$out/$name.log"
  fi
  record "$name" "$code" $((SECONDS - begin))
  # Enough to see what is wrong; the log has the rest.
  ((code)) && tail -n 15 "$out/$name.log"
  return "$code"
}

build() {
  local architecture=$1
  "$python" -m pip install --quiet --no-build-isolation --no-deps --no-compile --target "$work/site" \
    -C build-dir="$work/build" -C build.verbose=true \
    -C cmake.define.JGD_CUDA=ON -C cmake.define.CMAKE_CUDA_ARCHITECTURES="$architecture" . || return
  # From another folder: the installed module counts, not the checkout.
  (cd "$work" && "$python" -c '
import jax, jax_gsplat_depth, jax_gsplat_depth._cuda as cuda
print(jax_gsplat_depth.__file__, sorted(cuda.registrations()), jax.devices())
assert jax.default_backend() == "gpu"')
}

capture() {
  "$python" -m pytest -q -r fEs -p no:cacheprovider -p no:benchmark -n 0 -m "" tests/cuda/test_cuda.py |
    tee "$work/capture"
  local code=${PIPESTATUS[0]}
  # A skipped test has checked nothing.
  grep -q '^SKIPPED' "$work/capture" && return 1
  return "$code"
}

# Tests that render or differentiate; the others need no GPU, take long, or have a step of their own.
rooms='tests/renderer tests/compat tests/training/test_densify_*.py tests/training/test_*losses.py
  tests/training/test_optimizer.py tests/project/test_package.py'

tests() { # KEYWORDS
  local options=(-q -r fE --continue-on-collection-errors -p no:cacheprovider -p no:benchmark)
  local cores
  # XLA compiles for each test, on one core.
  cores=$(nproc)
  "$python" -c 'import xdist' 2>/dev/null && options+=(-n $((cores < 12 ? cores : 12)))
  # shellcheck disable=SC2086
  "$python" -m pytest "${options[@]}" -m "" -k "$1" $rooms
}

export -f build capture tests
export python work rooms

architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
architecture=${architecture:-90}
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null ||
  echo 'no GPU is found here: most steps will fail'

step build 180 300 bash -c "build $architecture"

# gsplat compiles its kernels on first use, for minutes: meanwhile the other steps run.
if "$python" -c 'import torch, gsplat' 2>/dev/null; then
  TORCH_CUDA_ARCH_LIST=${architecture:0:-1}.${architecture: -1} setsid timeout --kill-after=10 400 \
    "$python" benchmarks/bench_gpu.py --scenes blob_1k_tiny --libraries gsplat --repeat 1 \
    --library-seconds 400 >"$work/gsplat.log" 2>&1 &
  background=$!
fi

# These are slow to start and check what the tests do not, so they run beside the tests.
JAX_PLATFORMS=cuda step memcheck 200 180 compute-sanitizer --tool memcheck --error-exitcode 9 \
  --report-api-errors no --leak-check no "$python" benchmarks/sanitize_scene.py &
memcheck=$!
JAX_PLATFORMS=cuda step racecheck 200 180 compute-sanitizer --tool racecheck --error-exitcode 9 \
  "$python" benchmarks/sanitize_scene.py &
racecheck=$!

step capture 150 240 bash -c capture
step tests 240 180 bash -c 'tests cuda'
# Tests that choose no device run on the GPU, the default.
step rest 150 200 bash -c 'tests "not cuda and not cpu"'

wait "$memcheck" "$racecheck"
if [[ -n $background ]]; then
  while (($(seconds 1 120) > 0)) && kill -0 "$background" 2>/dev/null; do sleep 1; done
fi
limit=$(seconds 240 10)
step bench 240 5 "$python" benchmarks/bench_gpu.py --output "$out/bench.json" \
  --seconds $((limit > 20 ? limit - 15 : limit)) --library-seconds 90 --max-seconds 2
# The tables, without what was printed while it ran.
sed -n '/^Scenes\./,$p' "$out/bench.log" 2>/dev/null
if [[ -n $background ]]; then
  { echo; echo '===== the compilation of gsplat'; cat "$work/gsplat.log"; } >>"$out/bench.log"
fi

printf '\n===== summary (%d s), logs in %s\n' "$SECONDS" "$out"
cat "$work/summary"
[[ ! -e $work/failed ]]
