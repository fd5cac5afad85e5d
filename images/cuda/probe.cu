// Compiled to see that the toolkit is whole. Never run: the machine that builds needs no GPU.
#include <cuda_fp16.h>

__global__ void add(const __half *left, const __half *right, __half *sum, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) {
        sum[index] = __hadd(left[index], right[index]);
    }
}

int main() {
    add<<<1, 1>>>(nullptr, nullptr, nullptr, 0);
    return cudaDeviceSynchronize() != cudaSuccess;
}
