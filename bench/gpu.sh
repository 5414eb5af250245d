#!/usr/bin/env bash
# All that needs a GPU, on a machine that has one, nvcc, CMake, pytest and torch, and no network.
#
#   bench/gpu.sh [build] [check] [measure] [sanitize]      all four unless some are named
#
# PYTHON names the Python with torch. Rows of timings go to the file ROWS; COMMIT names what is measured
# where there is no repository, and PEEL_DATA the folder with Gowalla, which is trained then.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
rows="${ROWS:-build/gpu/kernels.jsonl}"
steps=("$@")
[ $# -gt 0 ] || steps=(build check measure sanitize)

# The native tests and benchmarks, and the package, for this card alone.
build() {
  local capability
  capability="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)"
  cmake -S . -B build/gpu -DPEEL_CUDA=ON -DPEEL_BUILD_TESTS=ON \
    -DCMAKE_CUDA_ARCHITECTURES="$capability-real"
  cmake --build build/gpu --parallel
  rm -rf build/gpu/site
  "$python" -m pip install --quiet --no-build-isolation --no-deps --no-index --target build/gpu/site \
    -Ccmake.define.PEEL_CUDA=ON -Ccmake.define.CMAKE_CUDA_ARCHITECTURES="$capability-real" .
}

# The kernels against those of the CPU, then the package.
check() {
  ctest --test-dir build/gpu --output-on-failure -R cuda
  mapfile -t files < <(grep -rl --include='test_*.py' 'pytest.mark.gpu' python_tests)
  PYTHONPATH=build/gpu/site "$python" -P -m pytest -q -m gpu "${files[@]}"
}

measure() {
  PYTHONPATH=build/gpu/site:bench "$python" bench/gpu/kernels.py --append "$rows"
}

# Every access and every barrier of the native tests: minutes.
sanitize() {
  local tool program
  for tool in memcheck racecheck synccheck; do
    for program in build/gpu/test_cuda_*; do
      echo "$tool $program"
      compute-sanitizer --tool "$tool" --error-exitcode 1 "$program"
    done
  done
}

for step in "${steps[@]}"; do
  case "$step" in
    build | check | measure | sanitize) "$step" ;;
    *) echo "a step must be build, check, measure or sanitize, got $step" >&2; exit 2 ;;
  esac
done
