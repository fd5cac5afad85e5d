"""Products of float32 matrices by numpy's OpenBLAS, on the shapes of `compare-products`: GFLOP/s, medians."""

import os
import statistics
import time

import numpy

ROUNDS = 9
SHAPES = [(1024, 1024, 4096), (1024, 2048, 1024), (1024, 1024, 6144), (1024, 3072, 1024), (128, 1024, 6144)]

print(f"numpy {numpy.__version__} with its own OpenBLAS, {os.environ.get('OPENBLAS_NUM_THREADS', 'all')} threads")
random = numpy.random.default_rng(1)
for rows, inner, columns in SHAPES:
    left = random.random((rows, inner), dtype=numpy.float32)
    weights = random.random((columns, inner), dtype=numpy.float32)
    out = numpy.empty((rows, columns), dtype=numpy.float32)
    seconds = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        numpy.matmul(left, weights.T, out=out)
        seconds.append(time.perf_counter() - begun)
    rate = 2 * rows * inner * columns / statistics.median(seconds[1:]) / 1e9
    print(f"{rows} x {inner} x {columns}: OpenBLAS {rate:.0f}")
