// Affine maps around the product that cuBLAS computes.

#include "batch.cuh"

// out += b, for out [n, o]; one thread an element.
extern "C" __global__ void add_bias(
    const whole *index, whole n, whole o, const REAL *b, whole b_stride, REAL *out, whole out_stride) {
    const whole member = MEMBER(index);
    const whole i = (whole)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n * o) {
        out[member * out_stride + i] += b[member * b_stride + i % o];
    }
}

// out = 0, for out [size].
extern "C" __global__ void clear(const whole *index, whole size, REAL *out, whole out_stride) {
    const whole i = (whole)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < size) {
        out[MEMBER(index) * out_stride + i] = 0;
    }
}
