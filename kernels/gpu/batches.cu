// Minibatches: rows chosen, converted and standardised in one pass.

#include "batch.cuh"
#include "vector.cuh"

// A thread has W columns of rows that lie blockDim.y * gridDim.y apart. A row from the end counts negative, as in NumPy;
// one outside becomes NaN.
template <int W, typename T>
__device__ __forceinline__ void rows_of(
    whole n, whole d, whole stored, const T *data, const whole *rows, const REAL *mean, const REAL *scale, REAL *out) {
    const whole column = ((whole)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (column >= d) {
        return;
    }
    const bool packed = aligned<W>(data), packed_out = aligned<W>(out);
    const Pack<REAL, W> means = load<W>(mean, column, 0, d, aligned<W>(mean));
    const Pack<REAL, W> scales = load<W>(scale, column, 0, d, aligned<W>(scale));
    for (whole i = (whole)blockIdx.y * blockDim.y + threadIdx.y; i < n; i += (whole)gridDim.y * blockDim.y) {
        const whole row = rows[i] < 0 ? rows[i] + stored : rows[i];
        const bool known = row >= 0 && row < stored;
        const Pack<T, W> values = load<W>(data, row * d + column, 0, known ? stored * d : 0, packed && known);
        Pack<REAL, W> standardised;
#pragma unroll
        for (int k = 0; k < W; k++) {
            const REAL value = known ? (REAL)values.v[k] : (REAL)__longlong_as_double(0x7ff8000000000000ll);
            standardised.v[k] = (value - means.v[k]) * scales.v[k];
        }
        store<W>(out, i * d + column, 0, n * d, packed_out, standardised);
    }
}

// out [n, d] = (data[rows] - mean) * scale, for data [stored, d].
template <typename T>
__device__ __forceinline__ void gather(
    const whole *index, whole n, whole d, whole stored, const T *data, whole data_stride, const whole *rows,
    whole rows_stride, const REAL *mean, whole mean_stride, const REAL *scale, whole scale_stride, REAL *out,
    whole out_stride) {
    const whole member = MEMBER(index);
    data += member * data_stride;
    rows += member * rows_stride;
    mean += member * mean_stride;
    scale += member * scale_stride;
    out += member * out_stride;
    if (d % WIDTH) {
        rows_of<1>(n, d, stored, data, rows, mean, scale, out);
    } else {
        rows_of<WIDTH>(n, d, stored, data, rows, mean, scale, out);
    }
}

extern "C" __global__ void __launch_bounds__(256) gather_uint8(
    const whole *index, whole n, whole d, whole stored, const unsigned char *data, whole data_stride, const whole *rows,
    whole rows_stride, const REAL *mean, whole mean_stride, const REAL *scale, whole scale_stride, REAL *out,
    whole out_stride) {
    gather(
        index, n, d, stored, data, data_stride, rows, rows_stride, mean, mean_stride, scale, scale_stride, out,
        out_stride);
}

extern "C" __global__ void __launch_bounds__(256) gather_float32(
    const whole *index, whole n, whole d, whole stored, const float *data, whole data_stride, const whole *rows,
    whole rows_stride, const REAL *mean, whole mean_stride, const REAL *scale, whole scale_stride, REAL *out,
    whole out_stride) {
    gather(
        index, n, d, stored, data, data_stride, rows, rows_stride, mean, mean_stride, scale, scale_stride, out,
        out_stride);
}

extern "C" __global__ void __launch_bounds__(256) gather_float64(
    const whole *index, whole n, whole d, whole stored, const double *data, whole data_stride, const whole *rows,
    whole rows_stride, const REAL *mean, whole mean_stride, const REAL *scale, whole scale_stride, REAL *out,
    whole out_stride) {
    gather(
        index, n, d, stored, data, data_stride, rows, rows_stride, mean, mean_stride, scale, scale_stride, out,
        out_stride);
}

// out [n] = values[rows], for values [count]; a row outside counts as the nearest inside.
extern "C" __global__ void take(
    const whole *index, whole n, whole count, const whole *values, whole values_stride, const whole *rows,
    whole rows_stride, whole *out, whole out_stride) {
    const whole member = MEMBER(index);
    const whole i = (whole)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        const whole row = rows[member * rows_stride + i];
        out[member * out_stride + i] = values[member * values_stride + (row < 0 ? 0 : row < count ? row : count - 1)];
    }
}
