// Rows of f32 as f16, which tensor cores multiply. A row is multiplied with a power of two, so that no f16 is too small for
// it: the largest number lies between 2^14 and 2^15. The rest of each number can be an f16 of its own, so that both have 22
// bits together. A block has a row.

constexpr int THREADS = 128;

struct Arguments {
  const float* from;  // [rows, columns]
  u16* out;           // [rows, width], or nothing
  float* scales;      // [rows], what a row has to be multiplied with again, or nothing where `factor` is given
  int columns, width;
  int padded;         // numbers of a row, with zeros behind them
  int high_at;        // where numbers begin in a row of `out`
  int low_at;         // where their rest does, or less than 0 where that is left out
  float factor;       // of all rows, or 0 where each has its own
};

__device__ __forceinline__ float power_of_two(int exponent) { return __uint_as_float((u32)(exponent + 127) << 23); }

// Two f16, rounded to nearest.
__device__ __forceinline__ u32 pair_of_f16(float first, float second) {
  u32 out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
  return out;
}

// What a pair leaves of two numbers.
__device__ __forceinline__ u32 rest_of(u32 pair, float first, float second) {
  float low, high;
  asm("{.reg .b16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}" : "=f"(low), "=f"(high) : "r"(pair));
  return pair_of_f16(first - low, second - high);
}

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  __shared__ float parts[THREADS / 32];
  next_may_start();
  after_previous();
  const int thread = threadIdx.x;
  const u64 row = blockIdx.x;
  const float* from = p.from + row * p.columns;
  float factor = p.factor;
  if (factor == 0.f) {
    float largest = 0.f;
    for (int i = thread * 4; i < p.columns; i += THREADS * 4) {
      const float4 x = *(const float4*)(from + i);
      largest = fmaxf(fmaxf(fmaxf(largest, fabsf(x.x)), fmaxf(fabsf(x.y), fabsf(x.z))), fabsf(x.w));
    }
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    if (thread % 32 == 0) parts[thread / 32] = largest;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < THREADS / 32; ++i) largest = fmaxf(largest, parts[i]);
    // Beyond these f32 has no power of two for the way back.
    const int exponent = max(-112, min(112, 14 - ((int)(__float_as_uint(largest) >> 23) - 127)));
    factor = power_of_two(exponent);
    if (thread == 0) p.scales[row] = power_of_two(-exponent);
  }
  if (!p.out) return;
  u16* to = p.out + row * p.width;
  for (int i = thread * 4; i < p.padded; i += THREADS * 4) {
    float4 x = make_float4(0.f, 0.f, 0.f, 0.f);
    if (i < p.columns) x = *(const float4*)(from + i);
    x.x *= factor, x.y *= factor, x.z *= factor, x.w *= factor;
    const u32 first = pair_of_f16(x.x, x.y), second = pair_of_f16(x.z, x.w);
    *(uint2*)(to + p.high_at + i) = make_uint2(first, second);
    if (p.low_at >= 0) *(uint2*)(to + p.low_at + i) = make_uint2(rest_of(first, x.x, x.y), rest_of(second, x.z, x.w));
  }
}
