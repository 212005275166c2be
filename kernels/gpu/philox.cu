// Random words for counters that are given.

#include "batch.cuh"
#include "philox.cuh"

// out[i] = Philox of counters[i] and key, for counters [n, 4].
extern "C" __global__ void philox(
    const whole *index, whole n, const unsigned *counters, whole counters_stride, const unsigned *key, whole key_stride,
    unsigned *out, whole out_stride) {
    const whole member = MEMBER(index);
    const whole i = (whole)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) {
        return;
    }
    const unsigned *counter = counters + member * counters_stride + 4 * i;
    key += member * key_stride;
    const Words words = philox_words(counter[0], counter[1], counter[2], counter[3], key[0], key[1]);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        out[member * out_stride + 4 * i + k] = words.v[k];
    }
}
