// The losses, each with its gradient in the same launch; the loss is summed in double, in an order that the shape fixes.

#include "batch.cuh"
#include "vector.cuh"
#include "sums.cuh"

constexpr long long NAN_BITS = 0x7ff8000000000000ll, MINUS_INFINITY_BITS = (long long)0xfff0000000000000ull;

// The largest value, or the sum, over `lanes` neighbouring threads or over the block, for all of them.
template <bool BLOCK, bool SUM>
__device__ __forceinline__ REAL over_row(REAL value, int lanes) {
    for (int distance = lanes < WARP ? lanes / 2 : WARP / 2; distance; distance /= 2) {
        const REAL other = __shfl_xor_sync(WHOLE_WARP, value, distance);
        value = SUM ? value + other : other > value ? other : value;
    }
    if (BLOCK) {
        __shared__ REAL of_warps[WARPS];
        const int lane = threadIdx.x % WARP;
        __syncthreads();  // Who reads an earlier result has done so.
        if (lane == 0) {
            of_warps[threadIdx.x / WARP] = value;
        }
        __syncthreads();
        value = of_warps[0];
        for (int w = 1; w < blockDim.x / WARP; w++) {
            value = SUM ? value + of_warps[w] : of_warps[w] > value ? of_warps[w] : value;
        }
    }
    return value;
}

// Rows of a member, each computed by `lanes` threads; this thread's part of the loss.
template <bool BLOCK>
__device__ __forceinline__ double rows(
    whole n, whole c, int lanes, const REAL *logits, const whole *labels, const REAL *weights, double total_weight,
    REAL *dlogits) {
    const whole thread = (whole)blockIdx.x * blockDim.x + threadIdx.x, threads = (whole)gridDim.x * blockDim.x;
    const int lane = thread % lanes;
    double cost = 0;
    // Threads of a warp stay together, whether there are rows for all of them or not: they exchange values.
    for (whole first = (BLOCK ? thread : thread / WARP * WARP) / lanes; first < n; first += threads / lanes) {
        const whole row = BLOCK ? first : first + threadIdx.x % WARP / lanes;
        const whole width = row < n ? c : 0;
        const REAL *z = logits + row * c;
        REAL *dz = dlogits + row * c;
        REAL highest = (REAL)__longlong_as_double(MINUS_INFINITY_BITS);
        for (whole j = lane; j < width; j += lanes) {
            highest = z[j] > highest ? z[j] : highest;
        }
        highest = over_row<BLOCK, false>(highest, lanes);
        REAL total = 0;
        for (whole j = lane; j < width; j += lanes) {
            total += exp(z[j] - highest);
        }
        total = over_row<BLOCK, true>(total, lanes);
        if (row < n) {
            const whole label = labels[row];
            const bool known = label >= 0 && label < c;
            const double share = weights ? weights[row] / total_weight : 1.0 / n;
            const whole hit = known ? label : 0;
            if (lane == 0) {
                const double each = (double)log(total) - (double)(z[hit] - highest);
                cost += share * (known ? each : __longlong_as_double(NAN_BITS));
            }
            for (whole j = lane; j < c; j += lanes) {
                dz[j] = (exp(z[j] - highest) / total - (j == hit ? 1 : 0)) * (REAL)share;
            }
        }
    }
    return cost;
}

// Softmax cross-entropy of logits [n, c]; lanes: how many threads share a row, a power of two up to 32, or all of a
// block. loss gets the sum if there is one block a member, else parts [blocks] get its parts.
extern "C" __global__ void __launch_bounds__(1024) softmax_rows(
    const whole *index, whole n, whole c, whole lanes, const REAL *logits, whole logits_stride, const whole *labels,
    whole labels_stride, const REAL *weights, whole weights_stride, const double *total_weight,
    whole total_weight_stride, REAL *loss, whole loss_stride, double *parts, whole parts_stride, REAL *dlogits,
    whole dlogits_stride) {
    const whole member = MEMBER(index);
    logits += member * logits_stride;
    labels += member * labels_stride;
    weights = weights ? weights + member * weights_stride : weights;
    dlogits += member * dlogits_stride;
    const double all = weights ? total_weight[member * total_weight_stride] : 0;
    double cost = lanes > WARP ? rows<true>(n, c, lanes, logits, labels, weights, all, dlogits)
                               : rows<false>(n, c, lanes, logits, labels, weights, all, dlogits);
    cost = block_sum(cost);
    if (threadIdx.x == 0 && gridDim.x == 1) {
        loss[member * loss_stride] = (REAL)cost;
    } else if (threadIdx.x == 0) {
        parts[member * parts_stride + blockIdx.x] = cost;
    }
}

// dprediction = 2 (prediction - target) / n; loss or parts get the sum of squares / n, as above.
extern "C" __global__ void __launch_bounds__(256) squared_error(
    const whole *index, whole n, const REAL *prediction, whole prediction_stride, const REAL *target,
    whole target_stride, REAL *loss, whole loss_stride, double *parts, whole parts_stride, REAL *dprediction,
    whole dprediction_stride) {
    const whole member = MEMBER(index);
    prediction += member * prediction_stride;
    target += member * target_stride;
    dprediction += member * dprediction_stride;
    const bool vectors = aligned<WIDTH>(prediction) && aligned<WIDTH>(target) && aligned<WIDTH>(dprediction);
    const REAL factor = (REAL)(2.0 / n);
    const whole threads = (whole)gridDim.x * blockDim.x;
    double total = 0;
    for (whole i = ((whole)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH; i < n; i += threads * WIDTH) {
        const bool packed = vectors && i + WIDTH <= n;
        Vector p = load<WIDTH>(prediction, i, 0, n, packed);
        const Vector t = load<WIDTH>(target, i, 0, n, packed);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            const REAL difference = p.v[k] - t.v[k];
            total += (double)difference * (double)difference;
            p.v[k] = difference * factor;
        }
        store<WIDTH>(dprediction, i, 0, n, packed, p);
    }
    total = block_sum(total) / n;
    if (threadIdx.x == 0 && gridDim.x == 1) {
        loss[member * loss_stride] = (REAL)total;
    } else if (threadIdx.x == 0) {
        parts[member * parts_stride + blockIdx.x] = total;
    }
}

// total[0] = the sum of weights [n]; one block a member.
extern "C" __global__ void weight_sum(
    const whole *index, whole n, const REAL *weights, whole weights_stride, double *total, whole total_stride) {
    const whole member = MEMBER(index);
    double sum = 0;
    for (whole i = threadIdx.x; i < n; i += blockDim.x) {
        sum += weights[member * weights_stride + i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        total[member * total_stride] = sum;
    }
}

// loss[0] = the sum of parts [count]; one block a member.
extern "C" __global__ void loss_sum(
    const whole *index, whole count, const double *parts, whole parts_stride, REAL *loss, whole loss_stride) {
    const whole member = MEMBER(index);
    double sum = 0;
    for (whole i = threadIdx.x; i < count; i += blockDim.x) {
        sum += parts[member * parts_stride + i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        loss[member * loss_stride] = (REAL)sum;
    }
}
