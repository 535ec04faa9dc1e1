// y = a W^T with packed W, and what follows it in the layer.
//
// W is the left factor: a warp has 16 outputs, whose weights go from memory to registers in the order in which the tensor
// cores take them (`pack` put them so), and are expanded there, once for all tokens of the block. Tokens are the right
// factor, in shared memory. A block has OUTPUT_WARPS * 16 outputs and TOKENS tokens; INPUT_GROUPS such sets of warps share
// the inputs of an output and add their parts up at the end. Inputs come 64 * INPUT_GROUPS at a time through STAGES
// buffers, weights PREFETCH steps ahead. BLOCKS is how many blocks a multiprocessor shall have room for.
//
// WGMMA 1 uses the products of four warps that only Hopper has, WGMMA 0 those of a warp.
//
// AFTER says what follows: see after.cuh.

constexpr int WARPS = OUTPUT_WARPS * INPUT_GROUPS;
constexpr int THREADS = 32 * WARPS;
constexpr int OUTPUTS = 16 * OUTPUT_WARPS;
constexpr int STEP = 64;                    // inputs of a warp's step
constexpr int TILE_BYTES = TOKENS * STEP * 2;
constexpr int STAGE_BYTES = TILE_BYTES * INPUT_GROUPS;
constexpr int WIDTH = TOKENS < 64 ? TOKENS : 64;  // tokens of one product
constexpr int PARTS = TOKENS / WIDTH;
constexpr int FACTORS = GROUP < STEP ? STEP / GROUP : 1;  // scales of a row and step
constexpr int SUM_STRIDE = OUTPUTS + 4;     // floats; keeps tokens on different banks

constexpr int BATCH = TOKENS / WARPS < 1 ? 1 : TOKENS / WARPS < 4 ? TOKENS / WARPS : 4;  // tokens a warp ends at once

static_assert(TOKENS % WIDTH == 0 && PREFETCH % 2 == 0 && STAGES >= 3, "sizes that the loops below can't do");
static_assert(!WGMMA || OUTPUT_WARPS % 4 == 0, "a product of four warps has 64 outputs");
// Seen with CUDA 13.0: they read registers that a load writes at the wrong time, but those that anything else computed right.
static_assert(!WGMMA || CODE != 3, "a product of four warps takes no weights straight from memory");

struct Arguments {
  const u16* a;          // [T, inputs], of what products multiply
  const u32* weight;     // as `pack` writes it, or rows of bf16
  const uint2* factors;  // as `pack` writes it
  int tokens, n, inputs;
  After after;
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) KERNEL(const __grid_constant__ Arguments p) {
  extern __shared__ unsigned char memory_anywhere[];
  next_may_start();
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int input_group = warp / OUTPUT_WARPS, output_warp = warp % OUTPUT_WARPS;
  const int first_token = blockIdx.y * TOKENS, first_output = blockIdx.x * OUTPUTS;
  // The swizzle goes by addresses.
  const u32 base = (shared_address(memory_anywhere) + 1023) & ~1023u;
  const int tokens = p.tokens, n = p.n, inputs = p.inputs, all_steps = inputs / STEP;
  const int steps = (all_steps + INPUT_GROUPS - 1) / INPUT_GROUPS;

  // The pieces of 16 bytes that a thread copies at each step.
  constexpr int PIECES = INPUT_GROUPS * TOKENS * 8;
  constexpr int OWN_PIECES = (PIECES + THREADS - 1) / THREADS;
  const u16* piece_from[OWN_PIECES];
  u32 piece_to[OWN_PIECES];
  bool piece_valid[OWN_PIECES];
#pragma unroll
  for (int i = 0; i < OWN_PIECES; ++i) {
    const int piece = thread + i * THREADS;
    const int chunk = piece & 7, token = piece / 8 % TOKENS, group = piece / (8 * TOKENS);
    piece_valid[i] = first_token + token < tokens;
    piece_from[i] = p.a + (piece_valid[i] ? (first_token + token) * inputs + group * STEP + chunk * 8 : 0);
    piece_to[i] = base + group * TILE_BYTES + token * 128 + ((chunk ^ (token & 7)) << 4);
  }
  auto fetch = [&](int step) {
    if (step < steps) {
      const u32 stage = step % STAGES * STAGE_BYTES;
#pragma unroll
      for (int i = 0; i < OWN_PIECES; ++i) {
        const int piece = thread + i * THREADS;
        const int own = step * INPUT_GROUPS + piece / (8 * TOKENS);
        const bool valid = piece_valid[i] && own < all_steps;
        if (PIECES % THREADS == 0 || piece < PIECES)
          copy16(piece_to[i] + stage, valid ? piece_from[i] + step * (INPUT_GROUPS * STEP) : piece_from[i], valid);
      }
    }
    copies_end();
  };
  // A warp's part of the weights: a unit a step.
  const int sixteen = blockIdx.x * OUTPUT_WARPS + output_warp;  // of the outputs
  const u32* units_at = p.weight + (u64)(sixteen / 4 * all_steps * 4 + sixteen % 4) * UNIT;
  const uint2* factors_at = p.factors + (sixteen / 4 * (inputs / GROUP) * 4 + sixteen % 4) * 8 + (lane >> 2);
  const bool inside = sixteen * 16 < n;
  const u16* rows_at = (const u16*)p.weight + (u64)(sixteen * 16 + (lane >> 2)) * inputs + (lane & 3) * 2;
  const bool rows_inside[2] = {sixteen * 16 + (lane >> 2) < n, sixteen * 16 + (lane >> 2) + 8 < n};
  u32 words[PREFETCH][BITS];
  uint2 scales[PREFETCH][FACTORS];
  auto load = [&](int slot, int step) {
    const int own = step * INPUT_GROUPS + input_group;
    if (inside && own < all_steps) {
      if constexpr (CODE == 3) {
        read_rows(words[slot], rows_at + own * STEP, inputs, rows_inside);
      } else {
        read_words(words[slot], units_at + own * (4 * UNIT), lane);
#pragma unroll
        for (int f = 0; f < FACTORS; ++f) scales[slot][f] = factors_at[(own * STEP / GROUP + f) * 32];
      }
    } else {
#pragma unroll
      for (int i = 0; i < BITS; ++i) words[slot][i] = 0;
#pragma unroll
      for (int f = 0; f < FACTORS; ++f) scales[slot][f] = make_uint2(0, 0);
    }
  };

  // Weights are there already.
#pragma unroll
  for (int step = 0; step < PREFETCH; ++step) load(step, step);
  after_previous();
#pragma unroll
  for (int step = 0; step < STAGES - 2; ++step) fetch(step);

  float sums[PARTS][WIDTH / 2];
#pragma unroll
  for (int i = 0; i < PARTS; ++i)
#pragma unroll
    for (int j = 0; j < WIDTH / 2; ++j) sums[i][j] = 0.f;

  u32 left[2][4][4];
  for (int first_step = 0; first_step < steps; first_step += PREFETCH) {
#pragma unroll
    for (int slot = 0; slot < PREFETCH; ++slot) {
      const int step = first_step + slot;
      if (step < steps) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
          dequantize(left[slot & 1][k], words[slot], k, scales[slot][k * FACTORS / 4]);
        load(slot, step + PREFETCH);
        copies_wait<STAGES - 3>();
#if WGMMA
        wgmma_sees_writes();
#endif
        __syncthreads();
        // Every warp is done with what was computed two steps ago.
        fetch(step + STAGES - 2);
        const u32 tile = base + step % STAGES * STAGE_BYTES + input_group * TILE_BYTES;
#if WGMMA
        const u64 right = wgmma_matrix(tile);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
          for (int part = 0; part < PARTS; ++part)
            wgmma(sums[part], left[slot & 1][k], right + ((part * WIDTH * 128 + k * 32) >> 4));
        wgmma_end();
        wgmma_wait<1>();
#else
#pragma unroll
        for (int eight = 0; eight < TOKENS / 8; ++eight)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            u32 right[4];
            const int token = eight * 8 + (lane & 7), chunk = half * 4 + (lane >> 3);
            load_matrices(right, tile + token * 128 + ((chunk ^ (token & 7)) << 4));
            float(&sum)[4] = *(float(*)[4])&sums[eight * 8 / WIDTH][eight * 8 % WIDTH / 2];
            mma(sum, left[slot & 1][2 * half], right[0], right[1]);
            mma(sum, left[slot & 1][2 * half + 1], right[2], right[3]);
          }
#endif
      }
    }
  }

  // What the end needs from memory is asked for before the last products are done.
  End<OUTPUTS, WARPS, BATCH> ends{p.after, tokens, n, inputs, first_output, first_token, lane};
  ends.begin(warp);

#if WGMMA
  wgmma_wait<0>();
#endif
  copies_wait<0>();
  __syncthreads();
  // The parts of the groups along the inputs, token by token, over the buffers.
  float* group_sums = (float*)(memory_anywhere + (base - shared_address(memory_anywhere)));
#pragma unroll
  for (int part = 0; part < PARTS; ++part)
#pragma unroll
    for (int i = 0; i < WIDTH / 2; ++i) {
      const int token = part * WIDTH + i / 4 * 8 + (lane & 3) * 2 + (i & 1);
      const int output = output_warp * 16 + (lane >> 2) + (i & 2) * 4;
      group_sums[(input_group * TOKENS + token) * SUM_STRIDE + output] = sums[part][i];
    }
  __syncthreads();
  auto total = [&](int token, int output) {
    float all = 0.f;
#pragma unroll
    for (int group = 0; group < INPUT_GROUPS; ++group)
      all += group_sums[(group * TOKENS + token) * SUM_STRIDE + output];
    return all;
  };

  ends.run(warp, TOKENS, total);
}
