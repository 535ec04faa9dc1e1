// y = a W^T with packed W on Hopper, for tens to hundreds of tokens, and what follows it in the layer.
//
// W is the left factor: a warp has 16 outputs, whose weights it expands in registers, once for all tokens of the block. A
// block has OUTPUT_GROUPS times 64 outputs, four warps each, and TOKENS tokens; INPUT_GROUPS such sets of warps share the
// inputs of an output. The first thread has the copy engine fetch both matrices, 64 * INPUT_GROUPS inputs at a time, into
// STAGES buffers: the first weights while the kernel before still runs, `a` once it has ended. BLOCKS is how many blocks a
// multiprocessor shall have room for.
//
// Where SPLITS is more than 1, so many blocks share the inputs of an output, too: a cluster, in which each block ends an
// equal share of the tokens with what the others send it of them.
//
// AFTER says what follows: see after.cuh.

constexpr int WARPS = 4 * OUTPUT_GROUPS * INPUT_GROUPS, THREADS = 32 * WARPS;
constexpr int OUTPUTS = 64 * OUTPUT_GROUPS;
constexpr int STEP = 64;  // inputs of a group's step
constexpr int WIDTH = TOKENS <= 80 ? TOKENS : TOKENS % 64 == 0 ? 64 : 80;  // tokens of one product
constexpr int PARTS = TOKENS / WIDTH;
constexpr int FACTORS = GROUP < STEP ? STEP / GROUP : 1;  // scales of a row and step
constexpr int TILE_BYTES = TOKENS * STEP * 2;
constexpr int UNITS_BYTES = 4 * UNIT * 4, FACTOR_BYTES = FACTORS * 4 * 8 * 8;  // of 64 outputs and a step
constexpr int SLOTS = STAGES * INPUT_GROUPS;  // of 64 inputs
constexpr int SUM_STRIDE = OUTPUTS + 4;  // floats; keeps tokens on different banks
constexpr int SHARE = TOKENS / SPLITS;   // tokens that a block ends
constexpr int SHARE_BYTES = SHARE * SUM_STRIDE * 4;
constexpr int BUFFERS_BYTES = SLOTS * (TILE_BYTES + OUTPUT_GROUPS * (UNITS_BYTES + FACTOR_BYTES));
constexpr int SUMS_BYTES = INPUT_GROUPS * TOKENS * SUM_STRIDE * 4;
constexpr int ENDS = (SHARE + WARPS - 1) / WARPS;  // tokens that a warp ends
constexpr int BATCH = ENDS < 4 ? ENDS : 4;         // and those at once

static_assert(TOKENS % 8 == 0 && TOKENS % WIDTH == 0 && TOKENS % SPLITS == 0, "sizes that the loops below can't do");

struct Arguments {
  Map a_map;             // [T, inputs], tiles of TOKENS by 64
  const u32* weight;     // as `pack` writes it
  const uint2* factors;  // as `pack` writes it
  int tokens, n, inputs;
  After after;
};

#if SPLITS > 1
#define CLUSTER __cluster_dims__(1, 1, SPLITS)
#else
#define CLUSTER
#endif

extern "C" __global__ void CLUSTER __launch_bounds__(THREADS, BLOCKS) KERNEL(const __grid_constant__ Arguments p) {
  extern __shared__ unsigned char memory_anywhere[];
  next_may_start();
  const int thread = threadIdx.x, lane = thread & 31, warp = __shfl_sync(0xffffffffu, thread >> 5, 0);
  const int group = warp / 4, input_group = group / OUTPUT_GROUPS, output_group = group % OUTPUT_GROUPS;
  const int first_token = blockIdx.y * TOKENS, first_output = blockIdx.x * OUTPUTS;
  // The swizzle goes by addresses.
  const u32 base = (shared_address(memory_anywhere) + 1023) & ~1023u;
  const u32 units = base + SLOTS * TILE_BYTES, factors = units + OUTPUT_GROUPS * SLOTS * UNITS_BYTES;
  const u32 received = base + (BUFFERS_BYTES > SUMS_BYTES ? BUFFERS_BYTES : SUMS_BYTES);
  // Whether the first weights have landed, and the others' sums; of each buffer whether what is missing has, and whether it
  // is used up.
  const u32 weights_landed = received + (SPLITS - 1) * SHARE_BYTES, sums_landed = weights_landed + 8;
  auto landed = [&](int stage) { return weights_landed + 16 + 16 * stage; };
  auto empty = [&](int stage) { return weights_landed + 24 + 16 * stage; };
  const int tokens = p.tokens, n = p.n, inputs = p.inputs, all_steps = inputs / STEP;
  // The block's part of the inputs, in steps of a group.
  const int split = SPLITS > 1 ? blockIdx.z : 0, of_split = (all_steps + SPLITS - 1) / SPLITS;
  const int begin = split * of_split, end = min(all_steps, begin + of_split);
  const int steps = (of_split + INPUT_GROUPS - 1) / INPUT_GROUPS;

  // Weights of so many steps of a group, from the block's `first` on.
  const int blocks = min(OUTPUT_GROUPS, (n + 63) / 64 - (int)blockIdx.x * OUTPUT_GROUPS);  // of 64 outputs
  auto fetch_weights = [&](int first, int number, u32 barrier) {
    const int slot = first % SLOTS;
    for (int block = 0; block < blocks; ++block) {
      const u64 of = blockIdx.x * OUTPUT_GROUPS + block;
      copy_bytes(units + (block * SLOTS + slot) * UNITS_BYTES, p.weight + (of * all_steps + begin + first) * (4 * UNIT),
                 number * UNITS_BYTES, barrier);
      const uint2* from = p.factors + of * (inputs / GROUP) * 32;
      const u32 to = factors + (block * SLOTS + slot) * FACTOR_BYTES;
      if constexpr (GROUP <= STEP)
        copy_bytes(to, from + (begin + first) * FACTORS * 32, number * FACTOR_BYTES, barrier);
      else
        for (int i = 0; i < number; ++i)
          copy_bytes(to + i * FACTOR_BYTES, from + (begin + first + i) * STEP / GROUP * 32, FACTOR_BYTES, barrier);
    }
  };
  auto weight_bytes = [&](int number) { return number * blocks * (UNITS_BYTES + FACTOR_BYTES); };
  // Groups that have no inputs left take the last ones again, times nothing.
  auto fetch_tokens = [&](int step) {
    const int stage = step % STAGES;
#pragma unroll
    for (int i = 0; i < INPUT_GROUPS; ++i)
      copy_tile(base + (stage * INPUT_GROUPS + i) * TILE_BYTES, p.a_map, min(begin + step * INPUT_GROUPS + i, end - 1) * STEP,
                first_token, landed(stage));
  };
  auto left_from = [&](int first) { return max(0, min(end - begin - first, SLOTS)); };
  if (thread == 0) {
    barrier_make(weights_landed, 1);
    barrier_make(sums_landed, 1);
    for (int stage = 0; stage < STAGES; ++stage) {
      barrier_make(landed(stage), 1);
      barrier_make(empty(stage), WARPS);
    }
    barriers_made();
    // Weights are there already.
    const int first = left_from(0);
    barrier_expect(weights_landed, weight_bytes(first));
    if (first > 0) fetch_weights(0, first, weights_landed);
    if (SPLITS > 1) barrier_expect(sums_landed, (SPLITS - 1) * SHARE_BYTES);
  }
  __syncthreads();
#if SPLITS > 1
  cluster_arrive();
#endif
  if (thread == 0) {
    after_previous();
    for (int step = 0; step < min(STAGES, steps); ++step) {
      barrier_expect(landed(step), INPUT_GROUPS * TILE_BYTES);
      fetch_tokens(step);
    }
  }

  float sums[PARTS][WIDTH / 2];
  u32 left[2][4][4];
  int stage = 0;
  u32 phase = 0;
  barrier_wait(weights_landed, 0);
  for (int first_step = 0; first_step < steps; first_step += 2) {
#pragma unroll
    for (int turn = 0; turn < 2; ++turn) {
      const int step = first_step + turn;
      if (step < steps) {
        const bool own = begin + step * INPUT_GROUPS + input_group < end;
        if (step >= STAGES) barrier_wait(landed(stage), phase);
        const int slot = stage * INPUT_GROUPS + input_group, of = output_group * SLOTS + slot;
        u32 words[BITS];
        uint2 scales[FACTORS];
        read_unit(words, units + of * UNITS_BYTES + (warp & 3) * (UNIT * 4), lane);
#pragma unroll
        for (int f = 0; f < FACTORS; ++f) {
          const uint2 both = read8(factors + of * FACTOR_BYTES + ((f * 4 + (warp & 3)) * 8 + (lane >> 2)) * 8);
          scales[f] = own ? both : make_uint2(0, 0);
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) dequantize(left[turn][k], words, k, scales[k * FACTORS / 4]);
        if (step < STAGES) barrier_wait(landed(stage), phase);
        const u64 right = wgmma_matrix(base + slot * TILE_BYTES);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
          for (int part = 0; part < PARTS; ++part)
            wgmma(sums[part], left[turn][k], right + ((part * WIDTH * 128 + k * 32) >> 4), step > 0 || k > 0);
        wgmma_end();
        wgmma_wait<1>();
        // What was computed a step ago is done, and two steps ago by all warps.
        if (step > 0 && step - 1 + STAGES < steps && lane == 0) barrier_arrive(empty((step - 1) % STAGES));
        const int next = step - 2 + STAGES, first = next * INPUT_GROUPS;
        if (thread == 0 && step >= 2 && next < steps) {
          const int weights = min(INPUT_GROUPS, left_from(first));
          barrier_wait(empty(next % STAGES), next / STAGES - 1 & 1);
          barrier_expect(landed(next % STAGES), INPUT_GROUPS * TILE_BYTES + weight_bytes(weights));
          fetch_tokens(next);
          if (weights > 0) fetch_weights(first, weights, landed(next % STAGES));
        }
        if (++stage == STAGES) stage = 0, phase ^= 1;
      }
    }
  }
  wgmma_wait<0>();
  after_previous();

  const int first = split * SHARE + warp;
  End<OUTPUTS, WARPS, BATCH> ends{p.after, tokens, n, inputs, first_output, first_token, lane};
  __syncthreads();
  // The parts of the groups along the inputs, token by token, over the buffers.
  unsigned char* const memory = memory_anywhere + (base - shared_address(memory_anywhere));
  float* const group_sums = (float*)memory;
#pragma unroll
  for (int part = 0; part < PARTS; ++part)
#pragma unroll
    for (int i = 0; i < WIDTH / 2; ++i) {
      const int token = part * WIDTH + i / 4 * 8 + (lane & 3) * 2 + (i & 1);
      const int output = output_group * 64 + (warp & 3) * 16 + (lane >> 2) + (i & 2) * 4;
      group_sums[(input_group * TOKENS + token) * SUM_STRIDE + output] = sums[part][i];
    }
#if SPLITS > 1
  if (INPUT_GROUPS > 1) {
    __syncthreads();
    for (int i = thread; i < TOKENS * SUM_STRIDE / 4; i += THREADS) {
      float4 all = ((const float4*)group_sums)[i];
#pragma unroll
      for (int part = 1; part < INPUT_GROUPS; ++part) {
        const float4 more = ((const float4*)group_sums)[part * (TOKENS * SUM_STRIDE / 4) + i];
        all.x += more.x, all.y += more.y, all.z += more.z, all.w += more.w;
      }
      ((float4*)group_sums)[i] = all;
    }
  }
  wgmma_sees_writes();
  __syncthreads();
  cluster_arrived();
  if (thread < SPLITS && thread != split)
    send_bytes(shared_of_block(received + (split - (split > thread)) * SHARE_BYTES, thread), base + thread * SHARE_BYTES,
               SHARE_BYTES, shared_of_block(sums_landed, thread));
  // What the end needs from memory is asked for meanwhile: not before the threads' writes had to be done.
  ends.begin(first);
  barrier_wait(sums_landed, 0);
  cluster_arrive();
  const float* const others = (const float*)(memory + (received - base)) - split * SHARE * SUM_STRIDE;
  auto total = [&](int token, int output) {
    const int at = token * SUM_STRIDE + output;
    float all = group_sums[at];
#pragma unroll
    for (int i = 0; i < SPLITS - 1; ++i) all += others[i * (SHARE * SUM_STRIDE) + at];
    return all;
  };
#else
  ends.begin(first);
  __syncthreads();
  auto total = [&](int token, int output) {
    float all = 0.f;
#pragma unroll
    for (int group = 0; group < INPUT_GROUPS; ++group)
      all += group_sums[(group * TOKENS + token) * SUM_STRIDE + output];
    return all;
  };
#endif

  ends.run(first, (split + 1) * SHARE, total);
#if SPLITS > 1
  // What it sent has landed everywhere.
  cluster_arrived();
#endif
}
