#!/usr/bin/env bash
# Run everything that needs a GPU (benchmarks/gpu.sh) or some of its steps (benchmarks/gpu.sh check
# captions). GPU.md describes the steps. Continues after a step that fails, and then exits with 1.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

STEPS=(check captions kernels tiles right ready)
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results}
REFERENCE=${REFERENCE:-.carry}
CHECKPOINTS=${CHECKPOINTS:-/tmp/checkpoints}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/triton} PYTHONUNBUFFERED=1
# A new folder, so that tiles measured here before are not used.
XDG_CACHE_HOME=$(mktemp -d) && export XDG_CACHE_HOME || exit

stop() {
    echo "gpu.sh: $1" >&2
    exit "${2:-1}"
}

# With -P, transformers cannot mistake our folder kernels/ for the package of that name.
python() {
    "$PYTHON" -P "$@"
}

# Usage: pytest_within SECONDS ARGUMENTS... An interrupted pytest still writes its results.
pytest_within() {
    timeout -s INT "$1" "$PYTHON" -P -m pytest -q -m gpu -W default "${@:2}"
}

setup() {
    if ! python -c 'import pengi_rt._core' 2>/dev/null; then
        "$PYTHON" -m pip install -q --no-index --no-deps --no-build-isolation --editable . ||
            build || stop "the extension cannot be built"
    fi
    python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        stop "PyTorch sees no CUDA GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES"
    nvidia-smi
    mkdir -p "$OUT" || exit
    gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-')
    result=$OUT/$(date -u +%F)-${gpu#nvidia-}
}

# Builds with CMake if pip cannot.
build() {
    cmake -S . -B build/gpu -DSKBUILD_PROJECT_NAME=pengi_rt -DSKBUILD_PROJECT_VERSION=0 \
        "-Dpybind11_DIR=$("$PYTHON" -m pybind11 --cmakedir)" && cmake --build build/gpu &&
        cp build/gpu/_core*.so pengi_rt/ && export PYTHONPATH=$PWD
}

check() {
    local side_by_side=()
    if python -c 'import xdist' 2>/dev/null; then side_by_side=(-n 12); fi
    PENGI_TEST_GPU=1 pytest_within 300 "${side_by_side[@]}" -p no:benchmark tests/kernels \
        tests/backends/triton/test_backend.py 2>&1 | tee "$OUT/kernel-tests.txt"
}

captions() {
    python benchmarks/support/warm_gpu.py &&
        pytest_within 420 benchmarks/bench_gpu_caption.py --benchmark-only \
            "--benchmark-json=$result-captions.json"
}

kernels() {
    pytest_within 420 benchmarks/bench_gpu_kernels.py --benchmark-only \
        "--benchmark-json=$result-kernels.json"
}

tiles() {
    python benchmarks/support/warm_gpu.py --tune 2>&1 | tee "$OUT/tuning.txt" &&
        pytest_within 240 benchmarks/bench_gpu_caption.py --benchmark-only \
            -k "test_caption or test_parts" "--benchmark-json=$result-tuned.json"
    local code=$?
    cp "$XDG_CACHE_HOME"/pengi-rt/tuning/*.json "$OUT/" && return $code
}

right() {
    local name
    mkdir -p "$CHECKPOINTS" || return
    for name in base base_no_text_enc; do
        [ -e "$CHECKPOINTS/$name.pth" ] ||
            python "$REFERENCE/make_checkpoint.py" "$REFERENCE/manifests/pengi_$name.json" 0 \
                "$CHECKPOINTS/$name.pth" &
    done
    wait
    PENGI_TEST_GPU=1 PENGI_RT_CHECKPOINTS=$CHECKPOINTS pytest_within 540 tests/gpu 2>&1 |
        tee "$OUT/gpu-tests.txt"
}

ready() {
    for _ in 1 2; do python -m pengi_rt warmup --precision fp16 || return; done 2>&1 |
        tee "$OUT/warmup.txt"
}

for step in "$@"; do
    [[ " ${STEPS[*]} " = *" $step "* ]] || stop "there is no step '$step': ${STEPS[*]}" 2
done
setup
failed=()
for step in "${@:-${STEPS[@]}}"; do
    echo "== $step"
    "$step" || failed+=("$step")
done
[ ${#failed[@]} = 0 ] || stop "failed: ${failed[*]}"
