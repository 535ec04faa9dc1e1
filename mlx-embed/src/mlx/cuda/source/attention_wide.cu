// Attention as in attention.cu, of f32, by its own units: two blocks for 64 queries of one head, a warp for eight, or four of
// wide heads. A lane has one of 32 keys while scores are computed, and every 32nd number of a head while values are summed.
// Of wide heads keys and values take turns in the same memory.

constexpr bool WIDE = HEAD_DIM > 256;
constexpr int QUERIES = 32, KEYS = 32, THREADS = WIDE ? 256 : 128, OWN = QUERIES / (THREADS / 32);
constexpr int STRIDE = HEAD_DIM + 4;  // numbers of a key; four more keep eight lanes on different banks
constexpr int PARTS = (HEAD_DIM + 31) / 32;

static_assert(HEAD_DIM % 4 == 0, "keys are read four numbers at a time");

struct Arguments {
  const float* qkv;            // [T, (H + 2K) * E]
  const float* cached_keys;    // [cached, K, E]
  const float* cached_values;  // [cached, K, E]
  const int* tiles;            // [number, 4], as in attention.cu
  const float* distances;      // [H, 2 * FAR + 1], as in attention.cu
  float* out;                  // [T, H * E]
  int heads, kv_heads, cached, before, after;
  float scale;
};

extern "C" __global__ void __launch_bounds__(THREADS, WIDE ? 1 : 2) KERNEL(const __grid_constant__ Arguments p) {
  extern __shared__ __align__(16) float memory[];
  float* const keys_at = memory;
  float* const values_at = WIDE ? memory : memory + KEYS * STRIDE;
  next_may_start();
  after_previous();
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int heads = p.heads, kv_heads = p.kv_heads, cached = p.cached;
  const int head = blockIdx.y, kv_head = head / (heads / kv_heads);
  const int* tile = p.tiles + 4 * blockIdx.x;
  const int start = tile[0], length = tile[1], first = tile[2] + blockIdx.z * QUERIES, ends = tile[3];
  if (first >= length) return;
  const u64 width = (heads + 2 * kv_heads) * HEAD_DIM;
  // Behind these and before those the block's queries see nothing.
  const int keys = cached + min(ends, first + QUERIES + p.after);
  const int first_step = max(cached + first - p.before, 0) / KEYS;
  const int row = first + warp * OWN;  // the warp's first
  const bool idle = row >= length;
  const float units = p.scale * 1.4426950408889634f;
  const float* const own_distance = FAR ? p.distances + head * (2 * FAR + 1) + FAR : nullptr;

  float mixed[OWN][PARTS], highest[OWN], sums[OWN];
#pragma unroll
  for (int i = 0; i < OWN; ++i) {
    highest[i] = -1e30f, sums[i] = 0.f;
#pragma unroll
    for (int j = 0; j < PARTS; ++j) mixed[i][j] = 0.f;
  }
  const float* queries[OWN];
#pragma unroll
  for (int i = 0; i < OWN; ++i) queries[i] = p.qkv + (start + min(row + i, length - 1)) * width + head * HEAD_DIM;

  // Zeros behind the last key.
  auto fetch = [&](int step, bool of_keys, bool of_values) {
    for (int i = thread; i < KEYS * (HEAD_DIM / 4); i += THREADS) {
      const int key_row = i / (HEAD_DIM / 4), four = i % (HEAD_DIM / 4) * 4, key = step * KEYS + key_row;
      float4 k = make_float4(0.f, 0.f, 0.f, 0.f), v = k;
      if (key < cached) {
        const u64 at = ((u64)key * kv_heads + kv_head) * HEAD_DIM + four;
        if (of_keys) k = *(const float4*)(p.cached_keys + at);
        if (of_values) v = *(const float4*)(p.cached_values + at);
      } else if (key < keys) {
        const float* from = p.qkv + (start + key - cached) * width + (heads + kv_head) * HEAD_DIM + four;
        if (of_keys) k = *(const float4*)from;
        if (of_values) v = *(const float4*)(from + kv_heads * HEAD_DIM);
      }
      if (of_keys) *(float4*)(keys_at + key_row * STRIDE + four) = k;
      if (of_values) *(float4*)(values_at + key_row * HEAD_DIM + four) = v;
    }
  };
  for (int step = first_step; step * KEYS < keys; ++step) {
    __syncthreads();  // the last tile was read
    fetch(step, true, !WIDE);
    __syncthreads();
    if (!WIDE && idle) continue;
    float scores[OWN];
#pragma unroll
    for (int i = 0; i < OWN; ++i) scores[i] = 0.f;
#pragma unroll 2
    for (int d = 0; d < HEAD_DIM; d += 4) {
      const float4 k = *(const float4*)(keys_at + lane * STRIDE + d);
#pragma unroll
      for (int i = 0; i < OWN; ++i) {
        const float4 q = __ldg((const float4*)(queries[i] + d));
        scores[i] += q.x * k.x;
        scores[i] += q.y * k.y;
        scores[i] += q.z * k.z;
        scores[i] += q.w * k.w;
      }
    }
    const int key = step * KEYS + lane;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
      const int query = cached + row + i;
      const bool visible = key <= query + p.after && key >= query - p.before && key < keys;
      float added = scores[i] * units;
      if (FAR) added += __ldg(own_distance + max(min(key - query, FAR), -FAR));
      const float score = visible ? added : -1e30f;
      float higher = score;
#pragma unroll
      for (int away = 16; away > 0; away >>= 1) higher = fmaxf(higher, __shfl_xor_sync(0xffffffffu, higher, away));
      higher = fmaxf(higher, highest[i]);
      const float shrink = exp2f(highest[i] - higher);
      highest[i] = higher;
      scores[i] = visible ? exp2f(score - higher) : 0.f;
      sums[i] = sums[i] * shrink + scores[i];
#pragma unroll
      for (int j = 0; j < PARTS; ++j) mixed[i][j] *= shrink;
    }
    if (WIDE) {
      __syncthreads();  // keys were read
      fetch(step, false, true);
      __syncthreads();
    }
#pragma unroll 2
    for (int k = 0; k < KEYS; ++k) {
      float v[PARTS];
#pragma unroll
      for (int j = 0; j < PARTS; ++j)
        v[j] = lane + 32 * j < HEAD_DIM ? values_at[k * HEAD_DIM + lane + 32 * j] : 0.f;
#pragma unroll
      for (int i = 0; i < OWN; ++i) {
        const float share = __shfl_sync(0xffffffffu, scores[i], k);
#pragma unroll
        for (int j = 0; j < PARTS; ++j) mixed[i][j] += share * v[j];
      }
    }
  }

#pragma unroll
  for (int i = 0; i < OWN; ++i) {
    const float share = 1.f / warp_sum(sums[i]);
    if (row + i >= length) continue;
    float* to = p.out + ((u64)(start + row + i) * heads + head) * HEAD_DIM;
#pragma unroll
    for (int j = 0; j < PARTS; ++j)
      if (lane + 32 * j < HEAD_DIM) to[lane + 32 * j] = mixed[i][j] * share;
  }
}
