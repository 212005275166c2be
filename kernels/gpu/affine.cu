// Affine maps around the products that cuBLAS computes.

#include "batch.cuh"
#include "philox.cuh"

constexpr int THREADS = 256;
constexpr int ROWS_AT_ONCE = 4;

// b[i % o], b[(i + 1) % o] ...
__device__ __forceinline__ Vector bias_of(const REAL *b, whole o, whole i, whole size, bool packed) {
    // A division of 64 bits costs as much as Philox.
    whole column = size >> 32 ? i % o : (unsigned)i % (unsigned)o;
    if (packed && o % WIDTH == 0) {
        return *(const Vector *)(b + column);
    }
    Vector bias;
#pragma unroll
    for (int k = 0; k < WIDTH; k++) {
        bias.v[k] = b[column];
        column = column + 1 == o ? 0 : column + 1;
    }
    return bias;
}

// out += b, for out [size / o, o].
extern "C" __global__ void __launch_bounds__(256) add_bias(
    const whole *index, whole size, whole o, const REAL *b, whole b_stride, REAL *out, whole out_stride) {
    const whole member = MEMBER(index);
    b += member * b_stride;
    out += member * out_stride;
    const bool packed = inside(size) && aligned<WIDTH>(out), packed_bias = aligned<WIDTH>(b);
    Vector z[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        z[j] = load<WIDTH>(out, place(j), 0, size, packed);
    }
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        const Vector bias = bias_of(b, o, place(j), size, packed_bias);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            z[j].v[k] += bias.v[k];
        }
        store<WIDTH>(out, place(j), 0, size, packed, z[j]);
    }
}

// out = relu(out + b) * scale where kept, else 0; NaN stays NaN where kept.
extern "C" __global__ void __launch_bounds__(256) add_bias_relu_dropout(
    const whole *index, whole size, whole o, const REAL *b, whole b_stride, REAL *out, whole out_stride,
    const whole *numbers, whole columns, whole threshold, double scale, whole seed, whole draw, whole stream) {
    const whole member = MEMBER(index);
    b += member * b_stride;
    out += member * out_stride;
    const bool packed = inside(size) && aligned<WIDTH>(out), packed_bias = aligned<WIDTH>(b);
    Vector z[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        z[j] = load<WIDTH>(out, place(j), 0, size, packed);
    }
    const REAL factor = (REAL)real_number(numbers, columns, member, 1, scale);
    const unsigned stays = kept(
        whole_number(numbers, columns, member, 0, threshold), whole_number(numbers, columns, member, 2, seed),
        whole_number(numbers, columns, member, 3, draw), whole_number(numbers, columns, member, 4, stream));
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        const Vector bias = bias_of(b, o, place(j), size, packed_bias);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            const REAL sum = z[j].v[k] + bias.v[k];
            z[j].v[k] = !(stays >> (j * WIDTH + k) & 1) || sum <= 0 ? 0 : sum * factor;
        }
        store<WIDTH>(out, place(j), 0, size, packed, z[j]);
    }
}

// What goes through a tile of rows for W columns of a thread: at[0], at[step] ... R rows. With y, what is summed is
// dz = dy * factor where y > 0, else 0, which is written too; else it is dy. All loads stand before what waits for them.
template <int W, bool MASKED, int R>
__device__ __forceinline__ void rows_of_tile(
    const REAL *dy, const REAL *y, REAL *dz, whole step, bool packed, REAL factor, Pack<REAL, W> &total) {
    Pack<REAL, W> d[R], active[R];
#pragma unroll
    for (int u = 0; u < R; u++) {
        d[u] = load<W>(dy, u * step, 0, u * step + W, packed);
        if (MASKED) {
            active[u] = load<W>(y, u * step, 0, u * step + W, packed);
        }
    }
#pragma unroll
    for (int u = 0; u < R; u++) {
#pragma unroll
        for (int k = 0; k < W; k++) {
            if (MASKED) {
                d[u].v[k] = active[u].v[k] > 0 ? d[u].v[k] * factor : 0;
            }
            total.v[k] += d[u].v[k];
        }
        if (MASKED) {
            store<W>(dz, u * step, 0, u * step + W, packed, d[u]);
        }
    }
}

// Sums of columns over the rows of the tile blockIdx.y: sums [tiles, o]. W columns a thread, and o is a multiple of W.
template <int W, bool MASKED>
__device__ __forceinline__ void tile(
    whole n, whole o, whole rows, const REAL *dy, const REAL *y, REAL *dz, REAL *sums, REAL factor) {
    __shared__ Pack<REAL, W> of_threads[THREADS];
    const whole column = ((whole)blockIdx.x * blockDim.x + threadIdx.x) * W, step = blockDim.y * o;
    whole left = min(rows, n - blockIdx.y * rows) - threadIdx.y;  // Rows down to the end of the tile.
    const whole first = (blockIdx.y * rows + threadIdx.y) * o + column;
    dy += first;
    y += first;
    dz += first;
    Pack<REAL, W> total = {};
    if (column < o) {
        // A row is whole packs, so that all of a thread's are aligned if the first is.
        const bool packed = aligned<W>(dy) && (!MASKED || (aligned<W>(y) && aligned<W>(dz)));
        const whole many = (whole)ROWS_AT_ONCE * blockDim.y;
        for (; packed && left > many - blockDim.y; left -= many) {
            rows_of_tile<W, MASKED, ROWS_AT_ONCE>(dy, y, dz, step, true, factor, total);
            dy += ROWS_AT_ONCE * step;
            y += ROWS_AT_ONCE * step;
            dz += ROWS_AT_ONCE * step;
        }
        for (; left > 0; left -= blockDim.y) {
            rows_of_tile<W, MASKED, 1>(dy, y, dz, step, packed, factor, total);
            dy += step;
            y += step;
            dz += step;
        }
    }
    if (!sums) {
        return;
    }
    const int own = threadIdx.y * blockDim.x + threadIdx.x;
    of_threads[own] = total;
    for (int half = blockDim.y / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) {
#pragma unroll
            for (int k = 0; k < W; k++) {
                of_threads[own].v[k] += of_threads[own + half * blockDim.x].v[k];
            }
        }
    }
    if (threadIdx.y == 0 && column < o) {
        store<W>(sums, blockIdx.y * o + column, 0, (blockIdx.y + 1) * o, aligned<W>(sums), of_threads[own]);
    }
}

// dz = dy * scale where y > 0, else 0, and its sums by tiles of rows, for dy [n, o]; sums may be missing.
extern "C" __global__ void __launch_bounds__(256) relu_dropout_backward(
    const whole *index, whole n, whole o, whole rows, const REAL *dy, whole dy_stride, const REAL *y, whole y_stride,
    REAL *dz, whole dz_stride, REAL *sums, whole sums_stride, const whole *numbers, whole columns, double scale) {
    const whole member = MEMBER(index);
    const REAL factor = (REAL)real_number(numbers, columns, member, 0, scale);
    dy += member * dy_stride;
    y += member * y_stride;
    dz += member * dz_stride;
    sums = sums ? sums + member * sums_stride : sums;
    if (o % WIDTH) {
        tile<1, true>(n, o, rows, dy, y, dz, sums, factor);
    } else {
        tile<WIDTH, true>(n, o, rows, dy, y, dz, sums, factor);
    }
}

// Sums of the columns of x [n, o] by tiles of rows.
extern "C" __global__ void __launch_bounds__(256) column_sums(
    const whole *index, whole n, whole o, whole rows, const REAL *x, whole x_stride, REAL *sums, whole sums_stride) {
    const whole member = MEMBER(index);
    x += member * x_stride;
    sums += member * sums_stride;
    if (o % WIDTH) {
        tile<1, false>(n, o, rows, x, x, sums, sums, 1);
    } else {
        tile<WIDTH, false>(n, o, rows, x, x, sums, sums, 1);
    }
}

// out = 0, for out [size].
extern "C" __global__ void clear(const whole *index, whole size, REAL *out, whole out_stride) {
    const whole i = (whole)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < size) {
        out[MEMBER(index) * out_stride + i] = 0;
    }
}
