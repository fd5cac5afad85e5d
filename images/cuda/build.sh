#!/usr/bin/env bash
# Builds the server for CUDA, as target/cuda/target/release/rerank-server. About an hour of processor time, once.
#
# Variables:
#   CUDA_COMPUTE_CAP  the GPU's compute capability, by default 80; docs/images.md has a list
#   CARGO             cargo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"
case "$CUDA_COMPUTE_CAP" in
80 | 86 | 89 | 90 | 100 | 120) ;;
*)
    echo "CUDA_COMPUTE_CAP is $CUDA_COMPUTE_CAP; it may be 80, 86, 89, 90, 100 or 120" >&2
    exit 1
    ;;
esac
images/cuda/toolkit.sh

toolkit="$PWD/target/cuda/toolkit"
export CUDA_HOME="$toolkit" CUDA_PATH="$toolkit" CUDA_ROOT="$toolkit" CUDA_TOOLKIT_ROOT_DIR="$toolkit"
export PATH="$toolkit/bin:$PATH" LIBRARY_PATH="$toolkit/lib/stubs:$toolkit/lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
# A folder of its own: other features, and nothing of `make build` is compiled again for it.
CARGO_TARGET_DIR="$PWD/target/cuda/target" "${CARGO:-cargo}" build --release --locked --package rerank-server --features cuda
