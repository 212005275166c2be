// As much of CUDA as the kernels use, for a host compiler: a block's threads run one after another, each until it
// has to wait for others, and so do its warps.

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <cmath>

#define __global__ __attribute__((visibility("hidden")))
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // Blocks run one after another.
#define __align__(bytes) alignas(bytes)

using std::exp;
using std::isnan;
using std::log;
using std::pow;
using std::sqrt;

struct Three {
    unsigned x, y, z;
};

static Three gridDim, blockDim, blockIdx, threadIdx;

namespace cuda_on_host {

const unsigned WARP = 32, THREADS = 1024, STACK = 1 << 16;

// What a thread waits for: a place in the text, and the lanes of its warp that must come there; 0: the whole block.
struct Wait {
    int line;
    unsigned mask;
};

struct Thread {
    Three index;
    bool started, done, waits;
    Wait wait;
    struct Stack *stack;
};

// Taken by the next thread that starts once its own is done: a block whose threads do not wait runs on one.
struct Stack {
    ucontext_t start;
    jmp_buf here;
    Thread *thread;
    char memory[STACK];
};

static Thread threads[THREADS];
static Stack *stacks[THREADS];
static unsigned stacks_made, stacks_free;
static jmp_buf scheduler;
static ucontext_t scheduler_start;
static Thread *current;
static uint64_t given[THREADS], taken[THREADS];
static unsigned arrived[THREADS / WARP];
static char problem[256];
static char *dynamic_memory;
static void (*kernel)(void *const *);
static void *const *parameters;

static unsigned number() { return current - threads; }

static void report(const char *what, int line) {
    if (!problem[0]) {
        snprintf(problem, sizeof problem, "%s at line %d, block (%u, %u, %u), thread (%u, %u, %u)", what, line,
                 blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    }
}

// Back to the scheduler, until it goes on with this thread.
__attribute__((noinline)) static void leave() {
    if (!_setjmp(current->stack->here)) {
        _longjmp(scheduler, 1);
    }
}

static void work(unsigned high, unsigned low) {
    Stack *stack = (Stack *)((uintptr_t)high << 32 | low);
    for (;;) {
        kernel(parameters);
        stack->thread->done = true;
        stacks[stacks_free++] = stack;
        leave();
    }
}

__attribute__((noinline)) static void go_on(Thread *thread) {
    current = thread;
    threadIdx = thread->index;
    if (_setjmp(scheduler)) {
        return;
    }
    if (thread->started) {
        _longjmp(thread->stack->here, 1);
    }
    thread->started = true;
    if (stacks_free) {
        thread->stack = stacks[--stacks_free];
        thread->stack->thread = thread;
        _longjmp(thread->stack->here, 1);
    }
    Stack *stack = thread->stack = (Stack *)malloc(sizeof(Stack));
    stacks_made++;
    stack->thread = thread;
    getcontext(&stack->start);
    stack->start.uc_stack.ss_sp = stack->memory;
    stack->start.uc_stack.ss_size = STACK;
    stack->start.uc_link = 0;
    const uintptr_t address = (uintptr_t)stack;
    makecontext(&stack->start, (void (*)())work, 2, (unsigned)(address >> 32), (unsigned)address);
    swapcontext(&scheduler_start, &stack->start);
}

static void wait(int line, unsigned mask) {
    current->wait = {line, mask};
    current->waits = true;
    leave();
}

// Let go the threads from `first` to `stop` if those that `mask` names (of a block: all) wait for the same.
static bool released(unsigned first, unsigned stop, unsigned mask) {
    int line = 0;
    for (unsigned i = first; i < stop; i++) {
        if (mask && !(mask >> (i - first) & 1)) {
            continue;
        }
        const Thread &t = threads[i];
        if (t.done) {
            continue;
        }
        if (!t.waits || t.wait.mask != mask || (line && t.wait.line != line)) {
            return false;
        }
        line = t.wait.line;
    }
    unsigned lanes = 0;
    for (unsigned i = first; i < stop; i++) {
        if ((!mask || mask >> (i - first) & 1) && !threads[i].done) {
            threads[i].waits = false;
            lanes |= 1u << (i - first) % WARP;
            if (mask) {
                taken[i] = given[i];
            }
        }
    }
    if (mask) {
        arrived[first / WARP] = lanes;
    }
    return lanes != 0;
}

// Run a warp until its threads wait for the block; whether any of them got on. No other warp runs in between: one that
// relies on others having come as far as itself shows.
static bool run_warp(unsigned first, unsigned stop, bool backwards) {
    bool ever = false;
    for (bool moved = true; moved && !problem[0];) {
        moved = false;
        for (unsigned k = first; k < stop; k++) {
            Thread &t = threads[backwards ? first + stop - 1 - k : k];
            if (!t.done && !t.waits) {
                go_on(&t);
                moved = true;
            }
        }
        for (unsigned i = first; i < stop; i++) {
            if (threads[i].waits && threads[i].wait.mask) {
                moved |= released(first, stop, threads[i].wait.mask);
            }
        }
        ever |= moved;
    }
    return ever;
}

static void run_block(unsigned count, bool backwards) {
    for (unsigned i = 0; i < count; i++) {
        const Three index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        threads[i] = {index, false, false, false, {0, 0}, 0};
    }
    for (;;) {
        bool moved = false, left = false;
        for (unsigned k = 0; k < count; k += WARP) {
            const unsigned first = backwards ? (count - 1) / WARP * WARP - k : k;
            moved |= run_warp(first, first + WARP < count ? first + WARP : count, backwards);
        }
        for (unsigned i = 0; i < count; i++) {
            left |= !threads[i].done;
        }
        moved |= released(0, count, 0);
        if (!left || problem[0]) {
            return;
        }
        if (!moved) {
            for (unsigned i = 0; i < count; i++) {
                if (threads[i].waits) {
                    threadIdx = threads[i].index;
                    report("threads wait for each other for ever", threads[i].wait.line);
                    return;
                }
            }
        }
    }
}

// Run a grid; what went wrong, or an empty text.
static const char *run(void (*call)(void *const *), void *const *values, const unsigned *grid, const unsigned *block,
                       unsigned long shared, int backwards) {
    kernel = call;
    parameters = values;
    problem[0] = 0;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    dynamic_memory = (char *)aligned_alloc(16, (shared + 31) / 16 * 16);
    const uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    for (uint64_t k = 0; k < blocks && !problem[0]; k++) {
        const uint64_t b = backwards ? blocks - 1 - k : k;
        blockIdx = {(unsigned)(b % grid[0]), (unsigned)(b / grid[0] % grid[1]), (unsigned)(b / grid[0] / grid[1])};
        run_block(block[0] * block[1] * block[2], backwards);
    }
    free(dynamic_memory);
    if (problem[0]) {
        stacks_free = 0;  // Threads still stand on the others, which are given up.
    }
    return problem;
}

// What the lane `source` of this warp gave, once all lanes of `mask` have given theirs.
template <typename T>
static T exchanged(int line, unsigned mask, T value, unsigned source) {
    const unsigned me = number();
    if (!(mask >> me % WARP & 1)) {
        report("a lane calls with a mask that does not name it", line);
    }
    given[me] = 0;
    memcpy(&given[me], &value, sizeof value);
    wait(line, mask);
    if (source < WARP && !(arrived[me / WARP] >> source & 1)) {
        report("a lane reads from one that takes no part", line);
    }
    memcpy(&value, &taken[me / WARP * WARP + source % WARP], sizeof value);
    return value;
}

template <typename T>
static T shuffled(int line, unsigned mask, T value, int lane, int width, int how) {
    const int me = number() % WARP, segment = me / width * width;
    int source = how == 0 ? segment + lane % width : how == 1 ? (me ^ lane) : how == 2 ? me + lane : me - lane;
    if (source < segment || source >= segment + width) {
        source = me;
    }
    return exchanged(line, mask, value, source);
}

static unsigned ballot(int line, unsigned mask, bool value) {
    exchanged(line, mask, (unsigned)value, number() % WARP);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < WARP; lane++) {
        const unsigned i = number() / WARP * WARP + lane;
        votes |= (unsigned)((mask & arrived[i / WARP]) >> lane & 1 && taken[i]) << lane;
    }
    return votes;
}

}  // namespace cuda_on_host

#define __syncthreads() cuda_on_host::wait(__LINE__, 0)
#define __syncwarp_1(mask) (void)cuda_on_host::exchanged(__LINE__, mask, 0u, cuda_on_host::number() % 32)
#define __syncwarp(...) __syncwarp_1((__VA_ARGS__ + 0) ? (__VA_ARGS__ + 0) : 0xffffffffu)
#define __shfl_sync(mask, value, lane, ...) cuda_on_host::shuffled(__LINE__, mask, value, lane, CUDA_WIDTH(__VA_ARGS__), 0)
#define __shfl_xor_sync(mask, value, lane, ...) \
    cuda_on_host::shuffled(__LINE__, mask, value, lane, CUDA_WIDTH(__VA_ARGS__), 1)
#define __shfl_down_sync(mask, value, lane, ...) \
    cuda_on_host::shuffled(__LINE__, mask, value, lane, CUDA_WIDTH(__VA_ARGS__), 2)
#define __shfl_up_sync(mask, value, lane, ...) \
    cuda_on_host::shuffled(__LINE__, mask, value, lane, CUDA_WIDTH(__VA_ARGS__), 3)
#define CUDA_WIDTH(...) ((__VA_ARGS__ + 0) ? (__VA_ARGS__ + 0) : 32)
#define __ballot_sync(mask, value) cuda_on_host::ballot(__LINE__, mask, value)
#define __any_sync(mask, value) (cuda_on_host::ballot(__LINE__, mask, value) != 0)

static inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }

static inline double __longlong_as_double(long long bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T>
static inline T __ldg(const T *pointer) {
    return *pointer;
}

template <typename T>
static inline T min(T a, T b) {
    return b < a ? b : a;
}

template <typename T>
static inline T max(T a, T b) {
    return a < b ? b : a;
}
