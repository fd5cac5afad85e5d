#!/usr/bin/env bash
# Lays out CUDA's toolkit as target/cuda/toolkit, from wheels of PyPI: no installation of CUDA, no GPU and no driver is needed.
# Does nothing where the same wheels were laid out before.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
mkdir -p "$here/../../target/cuda"
cuda="$(cd "$here/../../target/cuda" && pwd)"
toolkit="$cuda/toolkit"
pins="$(sha256sum "$here/requirements.txt" "$here/toolkit.sh" | sha256sum)"

fail() {
    echo "$*" >&2
    exit 1
}

[ "$(cat "$cuda/laid-out-from.sha256" 2>/dev/null)" != "$pins" ] || exit 0
[ "$(uname -m)" = x86_64 ] || fail "the digests of images/cuda/requirements.txt are those of the wheels for x86-64"
for tool in gcc g++ python3; do
    command -v "$tool" >/dev/null || fail "$tool is needed to build for CUDA"
done

rm -rf "$cuda/wheels" "$toolkit" "$cuda/laid-out-from.sha256"
python3 -m venv "$cuda/wheels"
"$cuda/wheels/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
    --requirement "$here/requirements.txt"
folders=("$cuda"/wheels/lib/python3*/site-packages/nvidia/cu13)
[ -x "${folders[0]}/bin/nvcc" ] || fail "the wheels are laid out differently than expected: no ${folders[0]}/bin/nvcc"
ln -s "${folders[0]}" "$toolkit"

# What a compiler and a linker look for, and wheels leave out.
ln -sfn lib "$toolkit/lib64"
for library in "$toolkit"/lib/lib*.so.*; do
    unversioned="${library%%.so.*}.so"
    [ -e "$unversioned" ] || ln -s "$(basename "$library")" "$unversioned"
done

# The driver's library is part of the driver. To link, it takes one of the same name that has its functions: empty ones, those
# that the header names. A library without any would be dropped as one that nobody needs.
mkdir -p "$toolkit/lib/stubs"
grep -ohE '\bcu[A-Z][A-Za-z0-9]*(_v[0-9]+)?(_pt[ds]s?z?)?\b' "$toolkit/include/cuda.h" | sort -u |
    sed 's/.*/void &(void) {}/' >"$cuda/driver.c"
gcc -shared -fPIC -w -fno-builtin -Wl,-soname,libcuda.so.1 -o "$toolkit/lib/stubs/libcuda.so" "$cuda/driver.c"

"$toolkit/bin/nvcc" -arch=sm_80 -o "$cuda/probe" "$here/probe.cu" -L"$toolkit/lib" ||
    fail "nvcc of the wheels does not compile, as said above (it takes gcc up to 15)"
echo "$pins" >"$cuda/laid-out-from.sha256"
echo "CUDA toolkit: $("$toolkit/bin/nvcc" --version | sed -n 's/^Cuda compilation tools, //p'), $(grep -c '' "$cuda/driver.c") functions of the driver"
