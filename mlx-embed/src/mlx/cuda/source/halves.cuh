// Rows of f32 as f16, which tensor cores multiply. A row is multiplied with a power of two, so that no f16 is too small for
// it: the largest number lies between 2^14 and 2^15. The rest of each number can be an f16 of its own, so that both have 22
// bits together.

struct Halves {
  u16* out;       // [rows, width], or nothing
  float* scales;  // [rows], what a row has to be multiplied with again
  int width;
  int high_at;    // where numbers begin in a row of `out`
  int low_at;     // where their rest does, or less than 0 where that is left out
};

__device__ __forceinline__ float power_of_two(int exponent) { return __uint_as_float((u32)(exponent + 127) << 23); }

// What a row is multiplied with whose largest number is this one. Beyond these f32 has no power of two for the way back.
__device__ __forceinline__ int exponent_of(float largest) {
  return max(-112, min(112, 14 - ((int)(__float_as_uint(largest) >> 23) - 127)));
}

// What a pair leaves of two numbers.
__device__ __forceinline__ u32 rest_of(u32 pair, float first, float second) {
  float low, high;
  asm("{.reg .b16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}" : "=f"(low), "=f"(high) : "r"(pair));
  return pair_of_f16(first - low, second - high);
}

// The largest size of numbers that so many neighbouring threads have.
template <int Threads>
__device__ __forceinline__ float largest_of(float x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  if constexpr (Threads > 32) {
    __shared__ float parts[Threads / 32];
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Threads / 32; ++i) x = fmaxf(x, parts[i]);
  }
  return x;
}

__device__ __forceinline__ float larger(float than, const float (&x)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) than = fmaxf(than, fabsf(x[i]));
  return than;
}

// Eight numbers of a row.
__device__ __forceinline__ void write_halves(const Halves& to, u64 row, int at, const float (&x)[8], float factor) {
  u32 numbers[4], rests[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float first = x[2 * i] * factor, second = x[2 * i + 1] * factor;
    numbers[i] = pair_of_f16(first, second);
    rests[i] = rest_of(numbers[i], first, second);
  }
  u16* const out = to.out + row * to.width + at;
  *(uint4*)(out + to.high_at) = make_uint4(numbers[0], numbers[1], numbers[2], numbers[3]);
  if (to.low_at >= 0) *(uint4*)(out + to.low_at) = make_uint4(rests[0], rests[1], rests[2], rests[3]);
}
