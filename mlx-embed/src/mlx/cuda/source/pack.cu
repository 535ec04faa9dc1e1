// A checkpoint's quantised matrix as `product` reads it: 64 outputs and 64 inputs after the other, outputs outside, and in
// each a unit for each of four warps. Of a warp's 16 outputs lane 4g + t has rows g and g + 8, and of 16 inputs 2t, 2t + 1,
// 2t + 8 and 2t + 9. What is missing of the last 64 outputs is 0. formats.cuh says how codes lie in words. A thread has a
// lane of a unit.
// Where it is two matrices, one behind the other, eight outputs of one may alternate with eight of the other.
//
// Where OF_F32 all numbers are times a power of two, for f16 ends at 65504.
//
// SCALES says what scales are, and whether there are biases:
//   0  of what products multiply, with biases
//   1  powers of two (E8M0)
//   2  floats of 8 bits (E4M3)

constexpr int THREADS = 128;
constexpr int GROUPS = GROUP < 64 ? 64 / GROUP : 1;  // of 64 inputs

struct Arguments {
  const u32* weight;    // [N, inputs * BITS / 32], codes one behind the other
  const void* scales;   // [N, inputs / GROUP]
  const u16* biases;    // [N, inputs / GROUP]
  u32* packed;          // [N / 64, inputs / 64, 4 warps, UNIT]
  u32* factors;         // [N / 64, inputs / GROUP, 4 warps, 8 rows, 2], bias in the upper half
  int n, inputs;
  int alternates;
  int exponent;         // where OF_F32: of the power of two, between -14 and 15
};

__device__ __forceinline__ int stored_row(const Arguments& p, int row) {
  return p.alternates ? row / 16 * 8 + row % 8 + (row & 8 ? p.n / 2 : 0) : row;
}

#if OF_F32
// In f16, or 0 where it is too small.
__device__ __forceinline__ u32 power_of_two(int exponent) {
  return exponent >= -14 ? (exponent + 15) << 10 : exponent >= -24 ? 1u << (exponent + 24) : 0;
}

__device__ __forceinline__ u32 factor_of(const Arguments& p, u64 at) {
  const u32 factor = power_of_two(p.exponent);
#if SCALES == 0
  return fma2((u32)p.biases[at] << 16 | ((const u16*)p.scales)[at], factor << 16 | factor, 0);
#else
  const u32 bits = ((const unsigned char*)p.scales)[at];
#if SCALES == 1
  return bits == 255 ? 0x7e00 : power_of_two((int)bits - 127 + p.exponent);
#else
  return fma2(fma2((bits & 0x7f) << 7 | (bits & 0x80) << 8, 0x5c00, 0), factor, 0) & 0xffff;
#endif
#endif
}
#else
__device__ __forceinline__ u32 factor_of(const Arguments& p, u64 at) {
#if SCALES == 0
  return (u32)p.biases[at] << 16 | ((const u16*)p.scales)[at];
#else
  const u32 bits = ((const unsigned char*)p.scales)[at];
#if SCALES == 1
  return bits == 0 ? 0x40 : bits << 7;  // bf16 has the same exponent; 2^-127 is below its normal numbers
#else
  return fma2((bits & 0x7f) << 4 | (bits & 0x80) << 8, 0x7b80, 0) & 0xffff;
#endif
#endif
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int step = blockIdx.x, block = blockIdx.y;
  const int row = block * 64 + warp * 16 + lane / 4, input = step * 64 + lane % 4 * 2;
  const u64 row_words = (u64)p.inputs / 32 * BITS;
  auto code = [&](int of_row, int of_input) -> u32 {
    if (of_row >= p.n) return 0;
    const u32 bit = of_input * BITS, shift = bit % 32;
    const u32* word = p.weight + stored_row(p, of_row) * row_words + bit / 32;
    u32 out = *word >> shift;
    if (shift + BITS > 32) out |= word[1] << (32 - shift);
    return out & (u32)((1ull << BITS) - 1);
  };
  u32 words[BITS];
#pragma unroll
  for (int i = 0; i < BITS; ++i) words[i] = 0;
  // A part of `width` bits from bit `from` on; the parts are as in codes_of_pair.
  auto put = [&](int pair, u32 first, u32 second, int width, int from, int first_word) {
    const int each = 16 / width, shift = pair % each * width;
    const u32 mask = (1u << width) - 1;
    words[first_word + pair / each] |= (first >> from & mask) << shift | (second >> from & mask) << (16 + shift);
  };
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int from_row = row + 8 * (i & 1), from = input + i / 4 * 16 + 8 * (i >> 1 & 1);
    const u32 first = code(from_row, from), second = code(from_row, from + 1);
    if (BITS == 8) {
      put(i, first, second, 8, 0, 0);
    } else {
      constexpr int WIDE = BITS >= 4 ? 4 : 2;
      put(i, first, second, WIDE, 0, 0);
      if (BITS - WIDE == 2) put(i, first, second, 2, WIDE, WIDE);
      if (BITS - WIDE == 1) put(i, first, second, 1, WIDE, WIDE);
    }
  }
  u32* unit = p.packed + (((u64)block * gridDim.x + step) * 4 + warp) * UNIT;
#pragma unroll
  for (int i = 0; i < BITS; ++i) unit[word_at(lane, i)] = words[i];

  const int groups = p.inputs / GROUP;
  for (int i = lane; i < 16 * GROUPS; i += 32) {
    const int group = step * 64 / GROUP + i / 16, half = i % 2, g = i / 2 % 8;
    const int of = block * 64 + warp * 16 + g + 8 * half;
    p.factors[(((u64)block * groups + group) * 4 + warp) * 16 + g * 2 + half] =
        of < p.n ? factor_of(p, (u64)stored_row(p, of) * groups + group) : 0;
  }
}
