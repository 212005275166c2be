// Elementwise maps of flat arrays.

#include "batch.cuh"
#include "philox.cuh"

// out = max(x, 0), NaN stays NaN.
extern "C" __global__ void __launch_bounds__(256) relu(
    const whole *index, whole size, const REAL *x, whole x_stride, REAL *out, whole out_stride) {
    const whole member = MEMBER(index);
    x += member * x_stride;
    out += member * out_stride;
    const bool packed = inside(size) && aligned<WIDTH>(x) && aligned<WIDTH>(out);
    Vector value[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        value[j] = load<WIDTH>(x, place(j), 0, size, packed);
    }
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            value[j].v[k] = value[j].v[k] <= 0 ? 0 : value[j].v[k];
        }
        store<WIDTH>(out, place(j), 0, size, packed, value[j]);
    }
}

// dx = dy where y > 0, else 0.
extern "C" __global__ void __launch_bounds__(256) relu_backward(
    const whole *index, whole size, const REAL *dy, whole dy_stride, const REAL *y, whole y_stride, REAL *dx,
    whole dx_stride) {
    const whole member = MEMBER(index);
    dy += member * dy_stride;
    y += member * y_stride;
    dx += member * dx_stride;
    const bool packed = inside(size) && aligned<WIDTH>(dy) && aligned<WIDTH>(y) && aligned<WIDTH>(dx);
    Vector value[VECTORS], active[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        value[j] = load<WIDTH>(dy, place(j), 0, size, packed);
        active[j] = load<WIDTH>(y, place(j), 0, size, packed);
    }
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            value[j].v[k] = active[j].v[k] > 0 ? value[j].v[k] : 0;
        }
        store<WIDTH>(dx, place(j), 0, size, packed, value[j]);
    }
}

// out = x * scale where kept, else 0.
extern "C" __global__ void __launch_bounds__(256) dropout(
    const whole *index, whole size, const REAL *x, whole x_stride, REAL *out, whole out_stride, const whole *numbers,
    whole columns, whole threshold, double scale, whole seed, whole draw, whole stream) {
    const whole member = MEMBER(index);
    x += member * x_stride;
    out += member * out_stride;
    const bool packed = inside(size) && aligned<WIDTH>(x) && aligned<WIDTH>(out);
    Vector value[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        value[j] = load<WIDTH>(x, place(j), 0, size, packed);
    }
    const REAL factor = (REAL)real_number(numbers, columns, member, 1, scale);
    const unsigned stays = kept(
        whole_number(numbers, columns, member, 0, threshold), whole_number(numbers, columns, member, 2, seed),
        whole_number(numbers, columns, member, 3, draw), whole_number(numbers, columns, member, 4, stream));
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            value[j].v[k] = stays >> (j * WIDTH + k) & 1 ? value[j].v[k] * factor : 0;
        }
        store<WIDTH>(out, place(j), 0, size, packed, value[j]);
    }
}

// out = factor[0] * x.
extern "C" __global__ void __launch_bounds__(256) scale(
    const whole *index, whole size, const REAL *factor, whole factor_stride, const REAL *x, whole x_stride, REAL *out,
    whole out_stride) {
    const whole member = MEMBER(index);
    x += member * x_stride;
    out += member * out_stride;
    const REAL times = factor[member * factor_stride];
    const bool packed = inside(size) && aligned<WIDTH>(x) && aligned<WIDTH>(out);
    Vector value[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        value[j] = load<WIDTH>(x, place(j), 0, size, packed);
    }
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            value[j].v[k] *= times;
        }
        store<WIDTH>(out, place(j), 0, size, packed, value[j]);
    }
}
