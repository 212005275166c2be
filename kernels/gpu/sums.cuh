// Sums over a block in an order that its size alone determines.

#include "warp.cuh"

constexpr int WARPS = 32;

// The sum of all threads' values, for the first warp; a block has one dimension and whole warps.
__device__ __forceinline__ double block_sum(double value) {
    __shared__ double of_warps[WARPS];
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int distance = WARP / 2; distance; distance /= 2) {
        value += __shfl_xor_sync(WHOLE_WARP, value, distance);
    }
    __syncthreads();  // Who reads an earlier sum has done so.
    if (lane == 0) {
        of_warps[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    if (threadIdx.x < WARP) {
        value = lane < blockDim.x / WARP ? of_warps[lane] : 0;
#pragma unroll
        for (int distance = WARP / 2; distance; distance /= 2) {
            value += __shfl_xor_sync(WHOLE_WARP, value, distance);
        }
    }
    return value;
}
