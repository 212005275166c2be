// Philox4x32-10 (Salmon et al. 2011), and the masks made of it; ../reference.py fixes the layout.

#include "flat.cuh"

struct Words {
    unsigned v[4];
};

__device__ __forceinline__ Words philox_words(
    unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c1 = (unsigned)p1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// v[i], without putting the words into memory.
__device__ __forceinline__ unsigned word(const Words &words, int i) {
    return i & 2 ? (i & 1 ? words.v[3] : words.v[2]) : (i & 1 ? words.v[1] : words.v[0]);
}

// Which of this thread's elements (flat.cuh) stay: bit vector * WIDTH + k. All threads of the warp must call.
//
// The eight lanes of a Philox block belong to VECTORS neighbouring threads, a vector to each. Each of these threads
// computes the block that one of their vectors falls into, and they exchange words.
__device__ __forceinline__ unsigned kept(whole threshold, whole seed, whole draw, whole stream) {
    if (threshold >= 65536) {
        return (1u << ELEMENTS) - 1;
    }
    constexpr int WORDS = WIDTH / 2;
    const int lane = threadIdx.x % WARP, mine = lane % VECTORS;
    const unsigned block = (unsigned)(this_warp() * WARP) + WARP / VECTORS * mine + lane / VECTORS;
    const Words words = philox_words(
        block, (unsigned)draw, (unsigned)(draw >> 32), (unsigned)stream, (unsigned)seed, (unsigned)(seed >> 32));
    unsigned bits = 0;
#pragma unroll
    for (int distance = 0; distance < VECTORS; distance++) {
        const int theirs = mine ^ distance;
#pragma unroll
        for (int w = 0; w < WORDS; w++) {
            const unsigned given = word(words, theirs * WORDS + w);
            const unsigned got = distance ? __shfl_xor_sync(WHOLE_WARP, given, distance) : given;
            const unsigned low = (got & 0xffff) < threshold, high = (got >> 16) < threshold;
            bits |= (low | high << 1) << (theirs * WIDTH + 2 * w);
        }
    }
    return bits;
}
