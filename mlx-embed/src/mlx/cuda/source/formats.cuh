// Packed weights in the order of `pack` to bf16 or, where OF_F32, f16, as products take them.
//
// A format is BITS of a code, what CODE says it stands for, and the GROUP that shares a scale and a bias, of that type each:
//   0  an integer without sign
//   1  a float of 4 bits (E2M1), whose bias is 0
//   2  a float of 8 bits (E4M3), likewise
//   3  bf16 itself, of 16 bits, not packed: matrices as they are, row after row, without scales
//
// A lane has 32 codes of each 64 inputs, so BITS words: of four steps of 16 inputs, four pairs of neighbours each, one of a
// pair in the lower half of a word and one in the upper. Codes of 3, 5 and 6 bits are cut in parts of 1, 2 and 4, each in
// words of its own, so that a shift and a mask give a part of a pair. Words that a lane reads at once lie side by side.

constexpr int UNIT = 32 * BITS;  // words of a warp's 16 outputs by 64 inputs

// Where word i of a lane lies in a unit.
__device__ __forceinline__ int word_at(int lane, int i) {
  constexpr int REST = BITS % 4;
  if (i < BITS / 4 * 4) return i / 4 * 128 + lane * 4 + i % 4;
  const int from = BITS / 4 * 128;
  if (REST >= 2 && i < BITS / 4 * 4 + 2) return from + lane * 2 + i % 4;
  return from + (REST >= 2 ? 64 : 0) + lane;
}

// A lane's words, which pass by once.
__device__ __forceinline__ void read_words(u32 (&out)[BITS], const u32* unit, int lane) {
#pragma unroll
  for (int i = 0; i < BITS / 4; ++i) {
    const uint4 four = __ldcs((const uint4*)(unit + i * 128) + lane);
    out[4 * i] = four.x, out[4 * i + 1] = four.y, out[4 * i + 2] = four.z, out[4 * i + 3] = four.w;
  }
  constexpr int DONE = BITS / 4 * 4;
  if constexpr (BITS % 4 >= 2) {
    const uint2 two = __ldcs((const uint2*)(unit + DONE * 32) + lane);
    out[DONE] = two.x, out[DONE + 1] = two.y;
  }
  if constexpr (BITS % 2 == 1) out[BITS - 1] = __ldcs(unit + (BITS - 1) * 32 + lane);
}

// The same from shared memory.
__device__ __forceinline__ void read_unit(u32 (&out)[BITS], u32 unit, int lane) {
#pragma unroll
  for (int i = 0; i < BITS / 4; ++i) {
    const uint4 four = read16(unit + (i * 128 + lane * 4) * 4);
    out[4 * i] = four.x, out[4 * i + 1] = four.y, out[4 * i + 2] = four.z, out[4 * i + 3] = four.w;
  }
  constexpr int DONE = BITS / 4 * 4;
  if constexpr (BITS % 4 >= 2) {
    const uint2 two = read8(unit + (DONE * 32 + lane * 2) * 4);
    out[DONE] = two.x, out[DONE + 1] = two.y;
  }
  if constexpr (BITS % 2 == 1) out[BITS - 1] = read4(unit + ((BITS - 1) * 32 + lane) * 4);
}

// The same of two rows of bf16, `width` numbers wide, from the lane's first number on; `inside` says which of them exist.
__device__ __forceinline__ void read_rows(u32 (&out)[BITS], const u16* first, int width, const bool (&inside)[2]) {
#pragma unroll
  for (int i = 0; i < BITS; ++i) {
    const int row = i & 1, column = i / 4 * 16 + (i >> 1 & 1) * 8;
    out[i] = inside[row] ? __ldg((const u32*)(first + (u64)row * 8 * width + column)) : 0;
  }
}

// Parts of WIDTH bits that begin with bit TO of a code and with word FIRST of a lane; pair `i` of 16.
template <int WIDTH, int FIRST, int TO>
__device__ __forceinline__ u32 part_of_pair(const u32 (&words)[BITS], int i) {
  constexpr int EACH = 16 / WIDTH;
  const u32 word = words[FIRST + i / EACH];
  const int shift = i % EACH * WIDTH - TO;
  return (shift < 0 ? word << -shift : word >> shift) & (((1u << WIDTH) - 1) * 0x10001u << TO);
}

// Pair `i` of 16, a code in each half.
__device__ __forceinline__ u32 codes_of_pair(const u32 (&words)[BITS], int i) {
  if constexpr (BITS == 16) return words[i];
  if constexpr (BITS == 8) return part_of_pair<8, 0, 0>(words, i);
  if constexpr (BITS == 6) return part_of_pair<4, 0, 0>(words, i) | part_of_pair<2, 4, 4>(words, i);
  if constexpr (BITS == 5) return part_of_pair<4, 0, 0>(words, i) | part_of_pair<1, 4, 4>(words, i);
  if constexpr (BITS == 4) return part_of_pair<4, 0, 0>(words, i);
  if constexpr (BITS == 3) return part_of_pair<2, 0, 0>(words, i) | part_of_pair<1, 2, 2>(words, i);
  if constexpr (BITS == 2) return part_of_pair<2, 0, 0>(words, i);
}

// What the codes of a pair stand for, exactly.
__device__ __forceinline__ u32 values_of_pair(u32 codes) {
  constexpr u32 ONE = OF_F32 ? 0x3c003c00u : 0x3f803f80u;
  if constexpr (CODE == 3) {
    return codes;
  } else if constexpr (CODE == 1 && OF_F32) {
    // Exponent and mantissa in place make an f16 that is too small by 2^14.
    return fma2((codes & 0x00070007u) << 9 | (codes & 0x00080008u) << 12, 0x74007400u, 0);
  } else if constexpr (CODE == 2 && OF_F32) {
    return fma2((codes & 0x007f007fu) << 7 | (codes & 0x00800080u) << 8, 0x5c005c00u, 0);
  } else if constexpr (OF_F32) {
    // 0x6400 is 1024 in f16, whose last ten bits count units.
    return fma2(codes | 0x64006400u, ONE, 0xe400e400u);
  } else if constexpr (CODE == 1) {
    // Exponent and mantissa in place make a bf16 that is too small by 2^126.
    return fma2((codes & 0x00070007u) << 6 | (codes & 0x00080008u) << 12, 0x7e807e80u, 0);
  } else if constexpr (CODE == 2) {
    return fma2((codes & 0x007f007fu) << 4 | (codes & 0x00800080u) << 8, 0x7b807b80u, 0);
  } else if constexpr (BITS == 8) {
    // As below with the lower seven bits; where the eighth is set, the 128 stays.
    const u32 unset = (~codes & 0x00800080u) * 134;  // 128 in bf16, or 0
    return fma2(unset, 0xbf80bf80u, codes & 0x007f007fu | 0x43004300u);
  } else {
    // 0x4300 is 128 in bf16, whose last seven bits count units.
    return fma2(codes | 0x43004300u, ONE, 0xc300c300u);
  }
}

// Eight weights of step `k` of 16 inputs, two rows, from their scales (lower half) and biases.
__device__ __forceinline__ void dequantize(u32 (&out)[4], const u32 (&words)[BITS], int k, uint2 factors) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const u32 both = i & 1 ? factors.y : factors.x;
    const u32 values = values_of_pair(codes_of_pair(words, 4 * k + i));
    if constexpr (CODE == 3)
      out[i] = values;
    else
      out[i] = fma2(values, __byte_perm(both, 0, 0x1010), __byte_perm(both, 0, 0x3232));
  }
}
