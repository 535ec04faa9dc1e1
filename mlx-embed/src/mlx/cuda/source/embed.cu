// What a batch starts with, a block a token: its row of the embedding table, that times the first norm's weight, and the
// sum of its squares; and the cosines and sines of its position's angles.
//
// BITS 4 and 8: rows of packed words as the checkpoint has them. BITS 16: rows of bf16.

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const int* __restrict__ meta,
#if BITS == 16
           const u16* __restrict__ table,  // [vocab, D]
#else
           const u32* __restrict__ table,   // [vocab, D * BITS / 32]
           const u16* __restrict__ scales,  // [vocab, D / GROUP]
           const u16* __restrict__ biases,  // [vocab, D / GROUP]
#endif
           const u16* __restrict__ scale,         // [D]
           const float* __restrict__ all_angles,  // [positions, 2, E / 2]
           u16* __restrict__ out,                 // [T, D]
           u16* __restrict__ scaled,              // [T, D]
           float* __restrict__ squares,           // [T, 1]
           float* __restrict__ angles,            // [T, 2, E / 2]
           int hidden, int positions_at) {
  next_may_start();
  after_previous();
  const int thread = threadIdx.x;
  const u64 token = blockIdx.x, id = meta[token];
  const u64 position = meta[positions_at + token];
  for (int i = thread; i < HEAD_DIM; i += THREADS) angles[token * HEAD_DIM + i] = all_angles[position * HEAD_DIM + i];
  float square = 0.f;
  for (int i = thread; i < hidden; i += THREADS) {
#if BITS == 16
    const float x = to_float(table[id * hidden + i]);
#else
    constexpr int EACH = 32 / BITS;
    const u32 q = table[(id * hidden + i) / EACH] >> (i % EACH * BITS) & ((1u << BITS) - 1);
    const u64 group = (id * hidden + i) / GROUP;
    const float x = round_bf16(to_float(scales[group]) * q + to_float(biases[group]));
#endif
    out[token * hidden + i] = to_bf16(x);
    scaled[token * hidden + i] = to_bf16(x * to_float(scale[i]));
    square += x * x;
  }
  square = block_sum<THREADS>(square);
  if (thread == 0) squares[token] = square;
}
