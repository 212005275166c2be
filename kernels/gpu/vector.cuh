// Elements by 128 bits where addresses allow it.

constexpr int WIDTH = 16 / sizeof(REAL);

template <typename T, int W>
struct __align__(sizeof(T) * W) Pack {
    T v[W];
};

typedef Pack<REAL, WIDTH> Vector;

// Whether packs of W can be read and written at p.
template <int W, typename T>
__device__ __forceinline__ bool aligned(const T *p) {
    return (unsigned long long)p % (sizeof(T) * W) == 0;
}

// p[i .. i + W), and 0 for what lies outside [begin, end). packed: it is aligned, and all inside. A kernel asks that once
// for all that a thread has, so that no branch stands between its loads.
template <int W, typename T>
__device__ __forceinline__ Pack<T, W> load(const T *p, whole i, whole begin, whole end, bool packed) {
    if (packed) {
        return *(const Pack<T, W> *)(p + i);
    }
    Pack<T, W> pack;
#pragma unroll
    for (int k = 0; k < W; k++) {
        pack.v[k] = i + k >= begin && i + k < end ? p[i + k] : T(0);
    }
    return pack;
}

template <int W, typename T>
__device__ __forceinline__ void store(T *p, whole i, whole begin, whole end, bool packed, const Pack<T, W> &pack) {
    if (packed) {
        *(Pack<T, W> *)(p + i) = pack;
        return;
    }
#pragma unroll
    for (int k = 0; k < W; k++) {
        if (i + k >= begin && i + k < end) {
            p[i + k] = pack.v[k];
        }
    }
}
