// Which elements of a flat array a thread has.

#include "vector.cuh"
#include "warp.cuh"

constexpr int ELEMENTS = 8;
constexpr int VECTORS = ELEMENTS / WIDTH;

// In a flat array a warp has 32 * ELEMENTS neighbours, and a thread VECTORS vectors of them, 32 vectors apart: all that
// the warp reads at once is contiguous.
__device__ __forceinline__ whole this_warp() {
    return ((whole)blockIdx.x * blockDim.x + threadIdx.x) / WARP;
}

__device__ __forceinline__ whole place(int vector) {
    return this_warp() * (WARP * ELEMENTS) + (vector * WARP + threadIdx.x % WARP) * WIDTH;
}

// Whether all elements of this thread are among `size`.
__device__ __forceinline__ bool inside(whole size) { return place(VECTORS - 1) + WIDTH <= size; }
