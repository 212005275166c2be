// What every kernel knows of the members that it computes; see batch.py.

typedef long long whole;

#define MEMBER(index) ((index) ? (index)[blockIdx.z] : (whole)blockIdx.z)

// Column c of the member's row in `numbers` [members, columns], or the value that the call was given.
__device__ __forceinline__ whole whole_number(const whole *numbers, whole columns, whole member, whole c, whole value) {
    return numbers ? numbers[member * columns + c] : value;
}

__device__ __forceinline__ double real_number(const whole *numbers, whole columns, whole member, whole c, double value) {
    return numbers ? __longlong_as_double(numbers[member * columns + c]) : value;
}
