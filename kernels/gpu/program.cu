// What a repeated program does besides its calls: it takes in what is new in a step, and hands out its results.
//
// state [3]: the address of the block of this repetition, the step that comes next, the step that runs.
// The block, of whole numbers: for each input, then for each output, its address outside and the bytes from one step to
// the next; then what the changing numbers are in each step [steps, n].

#include "batch.cuh"

struct alignas(16) Sixteen {
    whole first, second;
};

template <typename T>
__device__ __forceinline__ void copy_as(whole to, whole from, whole bytes, whole first, whole step) {
    for (whole i = first; i < bytes / (whole)sizeof(T); i += step) {
        ((T *)to)[i] = ((const T *)from)[i];
    }
}

// In the largest pieces that addresses and size allow.
__device__ __forceinline__ void copy_bytes(whole to, whole from, whole bytes) {
    const whole first = (whole)blockIdx.x * blockDim.x + threadIdx.x, step = (whole)gridDim.x * blockDim.x;
    const whole odd = to | from | bytes;
    if (to == from) {
        return;
    }
    if (odd % 16 == 0) {
        copy_as<Sixteen>(to, from, bytes, first, step);
    } else if (odd % 4 == 0) {
        copy_as<int>(to, from, bytes, first, step);
    } else {
        copy_as<char>(to, from, bytes, first, step);
    }
}

// A repetition of the program begins; one thread.
extern "C" __global__ void begin(whole *state, whole *block) {
    state[0] = (whole)block;
    state[1] = 0;
}

// Before the calls of a step. blockIdx.z is 0 for the numbers, cells[places[i]] = values[step, i], and above for inputs.
// slots [inputs, 2]: where in the program each goes, and its bytes.
extern "C" __global__ void take_in(
    whole *state, whole inputs, whole outputs, whole n, const whole *slots, const whole *places, whole *cells) {
    const whole step = state[1];
    const whole *block = (const whole *)state[0];
    if (blockIdx.z == 0) {
        const whole *values = block + 2 * (inputs + outputs) + step * n;
        for (whole i = (whole)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (whole)gridDim.x * blockDim.x) {
            cells[places[i]] = values[i];
        }
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            state[2] = step;
        }
    } else {
        const whole input = (whole)blockIdx.z - 1;
        copy_bytes(slots[2 * input], block[2 * input] + step * block[2 * input + 1], slots[2 * input + 1]);
    }
}

// After the calls of a step. blockIdx.z is the output; slots [outputs, 2]: where in the program each is, and its bytes.
extern "C" __global__ void hand_out(whole *state, whole inputs, whole outputs, const whole *slots) {
    const whole step = state[2];
    const whole *block = (const whole *)state[0];
    if ((whole)blockIdx.z < outputs) {
        const whole output = inputs + (whole)blockIdx.z;
        copy_bytes(
            block[2 * output] + step * block[2 * output + 1], slots[2 * (whole)blockIdx.z],
            slots[2 * (whole)blockIdx.z + 1]);
    }
    if (blockIdx.x == 0 && blockIdx.z == 0 && threadIdx.x == 0) {
        state[1] = step + 1;
    }
}
