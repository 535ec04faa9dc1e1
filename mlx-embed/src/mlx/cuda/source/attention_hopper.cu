// Causal attention of packed texts, for Hopper (Shah et al., 2024).
//
// A block has two warpgroups that compute, each 64 queries of a head of its own, and one that copies queries, keys and
// values ahead for both: items of a text, 64 queries of a head among those that share keys, are numbered with the heads
// fastest, and a tile is two neighbours. `tiles` holds for each tile where its text starts, how long it is and which item
// comes first. Blocks stay and take one tile after the other, so that copies for the next run while a tile ends.
//
// All texts may continue the same tokens, whose keys and values are apart: `cached` of them.

constexpr int QUERIES = 64, KEYS = 64, COMPUTING = 256, COPYING = 128, STAGES = 3;
constexpr int PANELS = HEAD_DIM / 64;  // 64 numbers of a row lie side by side
constexpr int PANEL_BYTES = 64 * 128;
constexpr int TILE_BYTES = PANELS * PANEL_BYTES;
constexpr int DEPTH = HEAD_DIM / 16;   // steps of the product with keys
constexpr int CHUNKS = HEAD_DIM / 8;   // 16 bytes each, of a row
constexpr float NOTHING = -1e30f;
constexpr float LIFT = 14.f;  // exponentials of f16 are times two to the power of this, so that small ones count

__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

struct Arguments {
  const Number* qkv;       // [T, (H + 2K) * E]
  const Number* cached_keys;    // [cached, K, E]
  const Number* cached_values;  // [cached, K, E]
  const int* tiles;        // [number, 4], see above
  Number* out;             // [T, H * E]
  int number, heads, kv_heads, cached;
  float scale;
};

extern "C" __global__ void __launch_bounds__(COMPUTING + COPYING, 1) KERNEL(const __grid_constant__ Arguments p) {
  extern __shared__ unsigned char memory_anywhere[];
  next_may_start();
  const int thread = threadIdx.x, lane = thread & 31;
  const int warp = __shfl_sync(0xffffffffu, thread >> 5, 0);
  const u16* const qkv = p.qkv;
  const int heads = p.heads, kv_heads = p.kv_heads, cached = p.cached, tiles = p.number;
  const int sharing = heads / kv_heads, width = (heads + 2 * kv_heads) * HEAD_DIM;
  const u32 keys_base = (shared_address(memory_anywhere) + 1023) & ~1023u;
  const u32 values_base = keys_base + STAGES * TILE_BYTES, queries_base = values_base + STAGES * TILE_BYTES;
  const u32 barriers = queries_base + 2 * TILE_BYTES;
  // Whether the buffers of keys and values are full, and whether they are empty; then the same of queries.
  auto full = [&](int part, int stage) { return barriers + (part * STAGES + stage) * 16; };
  auto empty = [&](int part, int stage) { return barriers + (part * STAGES + stage) * 16 + 8; };
  if (thread == 0) {
    for (int i = 0; i < 2 * STAGES + 1; ++i) {
      barrier_make(full(0, i), COPYING);
      barrier_make(empty(0, i), COMPUTING / (i < 2 * STAGES ? 128 : 32));
    }
    barriers_made();
  }
  __syncthreads();
  after_previous();

  // What a tile is. Both warpgroups go through all keys that the last query of both sees, as products want it.
  int start, length, first_item, kv_head, keys, steps;
  auto look = [&](int tile) {
    const int* of = p.tiles + tile / kv_heads * 4;
    start = of[0], length = of[1], first_item = of[2];
    kv_head = tile % kv_heads;
    keys = cached + min(length, (first_item + 1) / sharing * QUERIES + QUERIES);
    steps = (keys + KEYS - 1) / KEYS;
  };

  if (warp >= COMPUTING / 32) {
    registers_fewer<40>();
    constexpr int ROWS = COPYING / CHUNKS;  // at a time
    const int chunk = thread % CHUNKS, first_row = (thread - COMPUTING) / CHUNKS;
    const u32 place = chunk / 8 * PANEL_BYTES + first_row * 128 + (((chunk ^ first_row) & 7) << 4);
    // What is on its way, and the barriers that wait for it.
    u32 older = 0, newer = 0;
    auto sent = [&](u32 barrier) {
      copies_end();
      copies_wait<2>();
      wgmma_sees_writes();
      if (older) barrier_arrive(older);
      older = newer, newer = barrier;
    };
    int stage = 0;
    u32 phase = 1, queries_phase = 1;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      look(tile);
      barrier_wait(empty(2, 0), queries_phase);
      queries_phase ^= 1;
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        const int item = first_item + group, first = item / sharing * QUERIES;
        const u16* from = qkv + (u64)start * width + (kv_head * sharing + item % sharing) * HEAD_DIM + chunk * 8;
#pragma unroll
        for (int i = 0; i < QUERIES / ROWS; ++i) {
          const int row = first + first_row + i * ROWS;
          copy16(queries_base + group * TILE_BYTES + place + i * ROWS * 128, from + (u64)min(row, length - 1) * width,
                 true);
        }
      }
      sent(full(2, 0));
      const u16* of_text = qkv + (u64)start * width + (heads + kv_head) * HEAD_DIM + chunk * 8;
      const u64 of_cached = kv_head * HEAD_DIM + chunk * 8;
      for (int step = 0; step < steps; ++step) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          barrier_wait(empty(part, stage), phase);
          const u32 to = (part ? values_base : keys_base) + stage * TILE_BYTES + place;
          const int first_key = step * KEYS;
          if (first_key >= cached && first_key + KEYS <= keys) {
            const u16* from = of_text + part * kv_heads * HEAD_DIM + (u64)(first_key + first_row - cached) * width;
#pragma unroll
            for (int i = 0; i < KEYS / ROWS; ++i, from += ROWS * width) copy16(to + i * ROWS * 128, from, true);
          } else {
            const u16* of = (part ? p.cached_values : p.cached_keys) + of_cached;
            for (int i = 0; i < KEYS / ROWS; ++i) {
              const int key = first_key + first_row + i * ROWS;
              const u16* from = key < cached ? of + (u64)key * kv_heads * HEAD_DIM
                                           : of_text + part * kv_heads * HEAD_DIM + (u64)min(key - cached, length - 1) * width;
              copy16(to + i * ROWS * 128, from, key < keys);
            }
          }
          sent(full(part, stage));
        }
        if (++stage == STAGES) stage = 0, phase ^= 1;
      }
    }
    copies_wait<0>();
    wgmma_sees_writes();
    barrier_arrive(older);
    barrier_arrive(newer);
    return;
  }

  registers_more<232>();
  const int group = warp / 4;
  const float units = p.scale * 1.4426950408889634f;  // of log2
  const u64 keys_at = wgmma_matrix(keys_base), values_at = wgmma_transposed(values_base, PANEL_BYTES);
  u32 q[DEPTH][4];
  float mixed[HEAD_DIM / 2], scores[KEYS / 2];
  u32 shares[KEYS / 16][4];
  // Of a thread's two rows: the highest score so far, the sum of exponentials, and what earlier ones shrink by.
  float highest[2], sums[2], shrink[2];
  int row;

  auto score = [&](int stage) {
    const u64 at = keys_at + (stage * TILE_BYTES >> 4);
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) wgmma(scores, q[d], at + ((d / 4 * PANEL_BYTES + d % 4 * 32) >> 4), d > 0);
    wgmma_end();
  };
  auto mix = [&](int stage, bool add) {
    const u64 at = values_at + (stage * TILE_BYTES >> 4);
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) wgmma<1>(mixed, shares[k], at + (k * 2048 >> 4), add || k > 0);
    wgmma_end();
  };
  auto release = [&](int part, int stage) {
    if (thread % 128 == 0) barrier_arrive(empty(part, stage));
  };
  // From scores to exponentials.
  auto soften = [&](int step) {
    const int first_key = step * KEYS;
    if (first_key + KEYS > cached + row - (lane >> 2)) {
#pragma unroll
      for (int i = 0; i < KEYS / 2; ++i) {
        const int key = first_key + i / 4 * 8 + (lane & 3) * 2 + (i & 1);
        const bool visible = key <= cached + row + (i >> 1 & 1) * 8 && key < keys;
        scores[i] = visible ? scores[i] : NOTHING;
      }
    }
    float above[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // Two chains, as one would be waited for.
      float higher = highest[r], other = scores[2 * r];
#pragma unroll
      for (int i = 0; i < KEYS / 8; ++i) {
        higher = fmaxf(higher, scores[4 * i + 2 * r]);
        other = fmaxf(other, scores[4 * i + 2 * r + 1]);
      }
      higher = fmaxf(higher, other);
      higher = fmaxf(higher, __shfl_xor_sync(0xffffffffu, higher, 1));
      higher = fmaxf(higher, __shfl_xor_sync(0xffffffffu, higher, 2));
      shrink[r] = exp2_of((highest[r] - higher) * units);
      highest[r] = higher;
      above[r] = OF_F16 ? higher * units - LIFT : higher * units;
    }
#pragma unroll
    for (int i = 0; i < KEYS / 2; ++i) scores[i] = exp2_of(scores[i] * units - above[i >> 1 & 1]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = 0.f, other = 0.f;
#pragma unroll
      for (int i = 0; i < KEYS / 8; ++i) {
        sum += scores[4 * i + 2 * r];
        other += scores[4 * i + 2 * r + 1];
      }
      sums[r] = sums[r] * shrink[r] + (sum + other);
    }
  };
  auto round = [&] {
#pragma unroll
    for (int i = 0; i < KEYS / 4; ++i) shares[i / 4][i % 4] = pair_of_numbers(scores[2 * i], scores[2 * i + 1]);
  };

  // Of keys; values are a step behind.
  int stage = 0, before = 0;
  u32 phase = 0, phase_before = 0, queries_phase = 0;
  auto next = [&] {
    before = stage, phase_before = phase;
    if (++stage == STAGES) stage = 0, phase ^= 1;
  };
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    look(tile);
    const int item = first_item + group, head = kv_head * sharing + item % sharing;
    row = item / sharing * QUERIES + warp % 4 * 16 + (lane >> 2);
    barrier_wait(full(2, 0), queries_phase);
    queries_phase ^= 1;
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
      const int at = warp % 4 * 16 + (lane & 15), chunk = d * 2 + (lane >> 4);
      load_matrices(q[d], queries_base + group * TILE_BYTES + chunk / 8 * PANEL_BYTES + at * 128 +
                              (((chunk ^ at) & 7) << 4));
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(empty(2, 0));
#pragma unroll
    for (int r = 0; r < 2; ++r) highest[r] = NOTHING, sums[r] = 0.f;

    barrier_wait(full(0, stage), phase);
    wgmma_begin();
    score(stage);
    wgmma_wait<0>();
    wgmma_done(scores);
    release(0, stage);
    soften(0);
    round();
    next();
    for (int step = 1; step < steps; ++step) {
      barrier_wait(full(0, stage), phase);
      wgmma_begin();
      score(stage);
      barrier_wait(full(1, before), phase_before);
      mix(before, step > 1);
      wgmma_wait<1>();
      wgmma_done(scores);
      release(0, stage);
      soften(step);
      wgmma_wait<0>();
      wgmma_done(mixed);
      release(1, before);
      if (__any_sync(0xffffffffu, shrink[0] != 1.f || shrink[1] != 1.f)) {
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; ++i) mixed[i] *= shrink[i >> 1 & 1];
      }
      round();
      next();
    }
    barrier_wait(full(1, before), phase_before);
    wgmma_begin();
    mix(before, steps > 1);
    wgmma_wait<0>();
    wgmma_done(mixed);
    release(1, before);

#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float share = 1.f / sum_of_four(sums[i]);
      if (row + 8 * i < length) {
        u16* to = p.out + ((u64)(start + row + 8 * i) * heads + head) * HEAD_DIM + (lane & 3) * 2;
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; ++j)
          *(u32*)(to + j * 8) = pair_of_numbers(mixed[4 * j + 2 * i] * share, mixed[4 * j + 2 * i + 1] * share);
      }
    }
  }
}
