// What a batch starts with, a block a token: its row of the embedding table, times a factor, and those of its position and
// of its type where there are such tables. For products that the norm is part of also that times the first
// norm's weight, the sum of its squares, and the cosines and sines of its position's angles.
//
// The table is as the checkpoint has it: BITS, CODE and GROUP as in formats.cuh, SCALES as in pack.cu, with scales and biases
// of Number; without BITS it is rows of Number.

constexpr int THREADS = 128;

struct Arguments {
  const void* table;          // [vocab, D], or u32 [vocab, D * BITS / 32]
  const void* scales;         // [vocab, D / GROUP]
  const Number* biases;       // [vocab, D / GROUP]
  const int* ids;             // [T]
  const int* positions;       // [T]
  const Number* position_table;  // [.., D], or nothing
  const int* position_rows;      // [T]
  const Number* type_table;      // [types, D], or nothing
  const int* types;              // [T], or nothing, which is the first for all
  const float* scale;         // [D], or nothing, which leaves out `scaled` and `squares`
  const float* all_angles;    // [positions, 2, E / 2], or nothing, which leaves out `angles`
  Number* out;                // [T, D]
  u16* scaled;                // [T, D]
  float* squares;             // [T, 1]
  float* angles;              // [T, 2, E / 2]
  int hidden;
  float factor;
};

#ifdef BITS
__device__ __forceinline__ float small_float(u32 bits, int mantissa, int unit) {
  // Exponent and mantissa in place make a float that is too small by 2^(127 - its own bias), a power of two.
  const u32 sign = CODE == 1 && mantissa == 1 ? bits >> 3 : bits >> 7;
  const u32 rest = bits & (mantissa == 1 ? 7u : 127u);
  const float x = __uint_as_float(rest << (23 - mantissa)) * __uint_as_float((254u - unit) << 23);
  return sign & 1 ? -x : x;
}

__device__ __forceinline__ float element(const Arguments& p, u64 row, int column) {
  const u64 bit = (row * p.hidden + column) * BITS;
  const u32* word = (const u32*)p.table + bit / 32;
  const u32 shift = bit % 32;
  u32 q = *word >> shift;
  if (shift + BITS > 32) q |= word[1] << (32 - shift);
  q &= (1u << BITS) - 1;
  const u64 group = row * (p.hidden / GROUP) + column / GROUP;
#if SCALES == 0
  return to_float(to_number(to_float(((const Number*)p.scales)[group]) * q + to_float(p.biases[group])));
#else
  const u32 bits = ((const unsigned char*)p.scales)[group];
#if SCALES == 1
  const float scale = __uint_as_float(bits == 0 ? 0x400000u : bits << 23);
#else
  const float scale = small_float(bits, 3, 7);
#endif
  return to_float(to_number(scale * (CODE == 1 ? small_float(q, 1, 1) : small_float(q, 3, 7))));
#endif
}
#else
__device__ __forceinline__ float element(const Arguments& p, u64 row, int column) {
  return to_float(((const Number*)p.table)[row * p.hidden + column]);
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 8) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  const int thread = threadIdx.x, hidden = p.hidden;
  const u64 token = blockIdx.x, id = p.ids[token];
  if (p.all_angles) {
    const u64 position = p.positions[token];
    for (int i = thread; i < HEAD_DIM; i += THREADS)
      p.angles[token * HEAD_DIM + i] = p.all_angles[position * HEAD_DIM + i];
  }
  const Number* const type = p.type_table + (p.types ? (u64)p.types[token] * hidden : 0);
  float square = 0.f;
  for (int i = thread; i < hidden; i += THREADS) {
    float x = element(p, id, i) * p.factor;
    if (p.position_table) x += to_float(p.position_table[(u64)p.position_rows[token] * hidden + i]);
    if (p.type_table) x += to_float(type[i]);
    const Number rounded = to_number(x);
    p.out[token * hidden + i] = rounded;
    x = to_float(rounded);
    if (p.scale) p.scaled[token * hidden + i] = to_bf16(x * p.scale[i]);
    square += x * x;
  }
  if (!p.scale) return;
  square = block_sum<THREADS>(square);
  if (thread == 0) p.squares[token] = square;
}
