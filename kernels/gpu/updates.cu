// Optimiser updates of a flat buffer in one pass, with the norms of parameter and update on demand.
//
// A block has a chunk of one tensor: a row (start, stop, tensor) of `chunks`. l2 and decay are [members, tensors].

#include "batch.cuh"
#include "vector.cuh"
#include "sums.cuh"

constexpr int THREADS = 256;
constexpr int CHUNK_VECTORS = 2048 / (THREADS * WIDTH);  // Of a thread; see CHUNK in updates.py.
constexpr double NEGLIGIBLE = 1e-30;

struct Chunk {
    whole start, stop, tensor;
    // Where this thread's vector j begins: in the buffer's vectors, whatever element a tensor begins at.
    __device__ __forceinline__ whole place(int j) const {
        return start / WIDTH * WIDTH + (j * THREADS + (int)threadIdx.x) * WIDTH;
    }
    // Whether all elements of this thread are the tensor's.
    __device__ __forceinline__ bool inside() const {
        return place(0) >= start && place(CHUNK_VECTORS - 1) + WIDTH <= stop;
    }
    __device__ __forceinline__ bool holds(whole i) const { return i >= start && i < stop; }
};

__device__ __forceinline__ Chunk this_chunk(const whole *chunks) {
    const whole *row = chunks + 3 * (whole)blockIdx.x;
    return {row[0], row[1], row[2]};
}

// parts [chunks, 2] get the sums of the block.
__device__ __forceinline__ void record(double *parts, double of_params, double of_updates) {
    of_params = block_sum(of_params);
    of_updates = block_sum(of_updates);
    if (threadIdx.x == 0) {
        parts[2 * (whole)blockIdx.x] = of_params;
        parts[2 * (whole)blockIdx.x + 1] = of_updates;
    }
}

extern "C" __global__ void __launch_bounds__(256) sgd(
    const whole *index, const whole *chunks, REAL *param, whole param_stride,
    const REAL *grad, whole grad_stride, REAL *velocity, whole velocity_stride, const double *l2, whole l2_stride,
    double *parts, whole parts_stride, const whole *numbers, whole columns, double lr, double momentum,
    whole nesterov) {
    const whole member = MEMBER(index);
    param += member * param_stride;
    grad += member * grad_stride;
    velocity += member * velocity_stride;
    const Chunk chunk = this_chunk(chunks);
    const REAL rate = (REAL)real_number(numbers, columns, member, 0, lr);
    const REAL mu = (REAL)real_number(numbers, columns, member, 1, momentum);
    const bool ahead = whole_number(numbers, columns, member, 2, nesterov) != 0;
    const REAL penalty = (REAL)l2[member * l2_stride + chunk.tensor];
    const bool packed = chunk.inside() && aligned<WIDTH>(param) && aligned<WIDTH>(grad) && aligned<WIDTH>(velocity);
    Vector p[CHUNK_VECTORS], g[CHUNK_VECTORS], v[CHUNK_VECTORS];
#pragma unroll
    for (int j = 0; j < CHUNK_VECTORS; j++) {
        p[j] = load<WIDTH>(param, chunk.place(j), chunk.start, chunk.stop, packed);
        g[j] = load<WIDTH>(grad, chunk.place(j), chunk.start, chunk.stop, packed);
        if (mu != 0) {
            v[j] = load<WIDTH>(velocity, chunk.place(j), chunk.start, chunk.stop, packed);
        }
    }
    double of_params = 0, of_updates = 0;
#pragma unroll
    for (int j = 0; j < CHUNK_VECTORS; j++) {
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            REAL d = g[j].v[k] + penalty * p[j].v[k];
            if (mu != 0) {
                REAL speed = mu * v[j].v[k] + d;
                speed = speed <= (REAL)NEGLIGIBLE && speed >= -(REAL)NEGLIGIBLE ? 0 : speed;
                v[j].v[k] = speed;
                d = ahead ? d + mu * speed : speed;
            }
            const REAL update = rate * d;
            if (parts && chunk.holds(chunk.place(j) + k)) {
                of_params += (double)p[j].v[k] * (double)p[j].v[k];
                of_updates += (double)update * (double)update;
            }
            p[j].v[k] -= update;
        }
        store<WIDTH>(param, chunk.place(j), chunk.start, chunk.stop, packed, p[j]);
        if (mu != 0) {
            store<WIDTH>(velocity, chunk.place(j), chunk.start, chunk.stop, packed, v[j]);
        }
    }
    if (parts) {
        record(parts + member * parts_stride, of_params, of_updates);
    }
}

extern "C" __global__ void __launch_bounds__(256) adam(
    const whole *index, const whole *chunks, REAL *param, whole param_stride,
    const REAL *grad, whole grad_stride, REAL *mean, whole mean_stride, REAL *square, whole square_stride,
    const double *l2, whole l2_stride, const double *decay, whole decay_stride, double *parts, whole parts_stride,
    const whole *numbers, whole columns, double lr, double beta1, double beta2, double eps, whole step) {
    __shared__ REAL corrections[2];
    const whole member = MEMBER(index);
    param += member * param_stride;
    grad += member * grad_stride;
    mean += member * mean_stride;
    square += member * square_stride;
    const Chunk chunk = this_chunk(chunks);
    const REAL rate = (REAL)real_number(numbers, columns, member, 0, lr);
    const double old1 = real_number(numbers, columns, member, 1, beta1);
    const double old2 = real_number(numbers, columns, member, 2, beta2);
    const REAL epsilon = (REAL)real_number(numbers, columns, member, 3, eps);
    const REAL penalty = (REAL)l2[member * l2_stride + chunk.tensor];
    const REAL shrink = (REAL)decay[member * decay_stride + chunk.tensor];
    const bool packed = chunk.inside() && aligned<WIDTH>(param) && aligned<WIDTH>(grad) &&
                        aligned<WIDTH>(mean) && aligned<WIDTH>(square);
    Vector p[CHUNK_VECTORS], g[CHUNK_VECTORS], m[CHUNK_VECTORS], s[CHUNK_VECTORS];
#pragma unroll
    for (int j = 0; j < CHUNK_VECTORS; j++) {
        p[j] = load<WIDTH>(param, chunk.place(j), chunk.start, chunk.stop, packed);
        g[j] = load<WIDTH>(grad, chunk.place(j), chunk.start, chunk.stop, packed);
        m[j] = load<WIDTH>(mean, chunk.place(j), chunk.start, chunk.stop, packed);
        s[j] = load<WIDTH>(square, chunk.place(j), chunk.start, chunk.stop, packed);
    }
    if (threadIdx.x < 2) {
        // In double by one thread each: elsewhere such a power costs more than the rest of the kernel.
        const double count = (double)whole_number(numbers, columns, member, 4, step);
        corrections[threadIdx.x] = (REAL)(1 / (1 - pow(threadIdx.x ? old2 : old1, count)));
    }
    __syncthreads();
    const REAL mean_correction = corrections[0], square_correction = corrections[1];
    double of_params = 0, of_updates = 0;
#pragma unroll
    for (int j = 0; j < CHUNK_VECTORS; j++) {
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            const REAL d = g[j].v[k] + penalty * p[j].v[k];
            m[j].v[k] = (REAL)old1 * m[j].v[k] + (REAL)(1 - old1) * d;
            s[j].v[k] = (REAL)old2 * s[j].v[k] + (REAL)(1 - old2) * d * d;
            const REAL direction = m[j].v[k] * mean_correction / (sqrt(s[j].v[k] * square_correction) + epsilon);
            const REAL update = rate * (direction + shrink * p[j].v[k]);
            if (parts && chunk.holds(chunk.place(j) + k)) {
                of_params += (double)p[j].v[k] * (double)p[j].v[k];
                of_updates += (double)update * (double)update;
            }
            p[j].v[k] -= update;
        }
        store<WIDTH>(param, chunk.place(j), chunk.start, chunk.stop, packed, p[j]);
        store<WIDTH>(mean, chunk.place(j), chunk.start, chunk.stop, packed, m[j]);
        store<WIDTH>(square, chunk.place(j), chunk.start, chunk.stop, packed, s[j]);
    }
    if (parts) {
        record(parts + member * parts_stride, of_params, of_updates);
    }
}

// norms [tensors, 2] from parts [chunks, 2]: a block a tensor, whose chunks are firsts[tensor] .. firsts[tensor + 1].
extern "C" __global__ void norm_sums(
    const whole *index, const whole *firsts, const double *parts, whole parts_stride,
    double *norms, whole norms_stride) {
    const whole member = MEMBER(index), tensor = blockIdx.x;
    parts += member * parts_stride;
    double of_params = 0, of_updates = 0;
    for (whole i = firsts[tensor] + threadIdx.x; i < firsts[tensor + 1]; i += blockDim.x) {
        of_params += parts[2 * i];
        of_updates += parts[2 * i + 1];
    }
    record(norms + member * norms_stride, of_params, of_updates);
}
