// Attention of packed texts, a block for QUERIES queries of one head (Dao, 2023). Where these are fewer than 64, several
// blocks share 64, and SHARING warps have the same queries, of which each sums a part of a head's numbers: a thread has no
// room for more.
//
// The query at position i sees the keys from i - before to i + after of its text. All texts may continue the same tokens,
// whose keys and values are apart: `cached` of them. `tiles` holds for each block of queries where its text starts, how long
// it is, which query comes first, and how many of its tokens are seen.
//
// With FAR, a number of each head is added to its scores by how far the key is behind the query, or before it. From FAR on
// it stays the same.
//
// Tensor cores multiply bf16 and f16 as they are. Of an f32 (WIDE) they take 11 bits, so with TERMS of 3 it is the sum of two
// such numbers, and a product is three. With 1 that is left out, as f16 has no more bits either.

#define WIDE (OF_F32 && !OF_F16)

constexpr int THREADS = 128;
constexpr float LIFT = 14.f;  // exponentials of f16 are times two to the power of this, so that small ones count
constexpr int DEEP = WIDE ? 8 : 16;                        // numbers of a step of the product with keys
constexpr int STEP_KEYS = WIDE ? 8 : 16;                   // keys of a step of either product
constexpr int PARTS = STEP_KEYS / 8;                       // eights of these
constexpr int DEPTH = (HEAD_DIM + DEEP - 1) / DEEP;        // steps of the product with keys
constexpr int OWN = (HEAD_DIM / SHARING + 7) / 8 * 8;      // numbers of a head that a warp sums
constexpr int SIZE = sizeof(Number);
constexpr int STRIDE = SHARING * OWN * SIZE + 16;          // bytes of a row; 16 more keep eight rows on different banks
constexpr int TILE_BYTES = KEYS * STRIDE;
constexpr int EACH = 16 / SIZE;                            // numbers that are copied at once
constexpr int CHUNKS = DEPTH * DEEP / EACH;                // such of a row
constexpr bool KEEP = HEAD_DIM <= 128 && (!WIDE || TERMS == 1);  // queries in registers

static_assert(WIDE ? HEAD_DIM % 4 == 0 : HEAD_DIM % 16 == 0 && OWN % 16 == 0, "numbers are read so many at a time");

struct Arguments {
  const Number* qkv;            // [T, (H + 2K) * E]
  const Number* cached_keys;    // [cached, K, E]
  const Number* cached_values;  // [cached, K, E]
  const int* tiles;             // [number, 4], see above
  const float* distances;       // [H, 2 * FAR + 1], times log2(e); the query's own is in the middle
  Number* out;                  // [T, H * E]
  int heads, kv_heads, cached, before, after;
  float scale;
};

#if WIDE
// Sixteen rows by eight numbers, or eight by eight, in two parts each, or one.
template <int N>
struct Parts {
  u32 high[N], low[N];

  __device__ __forceinline__ void set(int i, u32 x) {
    high[i] = TERMS == 1 ? nearest_of(x) : high_of(x);
    low[i] = low_of(x);
  }
};

// d += a b, but for what both leave out. Sums apart don't wait for one another.
__device__ __forceinline__ void multiply(float (&d)[3][4], const Parts<4>& a, const Parts<2>& b) {
  if (TERMS == 3) {
    mma_tf32(d[0], a.low, b.high[0], b.high[1]);
    mma_tf32(d[1], a.high, b.low[0], b.low[1]);
  }
  mma_tf32(d[2], a.high, b.high[0], b.high[1]);
}

// Step `d` of sixteen queries, which begin at `queries`.
__device__ __forceinline__ Parts<4> queries_of(u32 queries, int d, int lane) {
  const u32 own = queries + (lane >> 2) * STRIDE + (lane & 3) * 4;
  Parts<4> q;
#pragma unroll
  for (int i = 0; i < 4; ++i) q.set(i, read4(own + (i & 1) * 8 * STRIDE + d * 32 + (i >> 1) * 16));
  return q;
}

// The scores of sixteen queries, which are `kept` or else begin at `queries`, and a tile of keys.
__device__ __forceinline__ void score(float (&scores)[KEYS / 8][4], const Parts<4> (&kept)[KEEP ? DEPTH : 1], u32 queries,
                                      u32 keys, int lane) {
  const u32 own = (lane >> 2) * STRIDE + (lane & 3) * 4;
  float sums[KEYS / 8][3][4] = {};
#pragma unroll(KEEP ? DEPTH : 4)
  for (int d = 0; d < DEPTH; ++d) {
    const Parts<4> q = KEEP ? kept[KEEP ? d : 0] : queries_of(queries, d, lane);
#pragma unroll
    for (int i = 0; i < KEYS / 8; ++i) {
      Parts<2> k;
#pragma unroll
      for (int j = 0; j < 2; ++j) k.set(j, read4(keys + own + i * 8 * STRIDE + d * 32 + j * 16));
      multiply(sums[i], q, k);
    }
  }
#pragma unroll
  for (int i = 0; i < KEYS / 8; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) scores[i][j] = sums[i][0][j] + sums[i][1][j] + sums[i][2][j];
}

// Adds the values of a group of keys, which begin at `values`, by their shares.
__device__ __forceinline__ void add_values(float (&mixed)[OWN / 8][4], const float (*shares)[4], u32 values, int lane) {
  // A thread has the shares of keys 2t and 2t + 1, and to the product t and t + 4 are its own: values go in that order.
  Parts<4> a;
#pragma unroll
  for (int i = 0; i < 4; ++i) a.set(i, __float_as_uint(shares[0][(i & 1) * 2 + (i >> 1)]));
  const u32 at = values + (lane & 3) * 2 * STRIDE + (lane >> 2) * 4;
#pragma unroll
  for (int j = 0; j < OWN / 8; ++j) {
    Parts<2> v;
#pragma unroll
    for (int i = 0; i < 2; ++i) v.set(i, read4(at + j * 32 + i * STRIDE));
    if (TERMS == 3) {
      mma_tf32(mixed[j], a.low, v.high[0], v.high[1]);
      mma_tf32(mixed[j], a.high, v.low[0], v.low[1]);
    }
    mma_tf32(mixed[j], a.high, v.high[0], v.high[1]);
  }
}
#else
__device__ __forceinline__ void add_values(float (&mixed)[OWN / 8][4], const float (*shares)[4], u32 values, int lane) {
  u32 a[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = pair_of_numbers(shares[i >> 1][(i & 1) * 2], shares[i >> 1][(i & 1) * 2 + 1]);
#pragma unroll
  for (int j = 0; j < OWN / 16; ++j) {
    u32 v[4];
    load_transposed(v, values + (lane & 15) * STRIDE + j * 32 + (lane >> 4) * 16);
    mma(mixed[2 * j], a, v[0], v[1]);
    mma(mixed[2 * j + 1], a, v[2], v[3]);
  }
}
#endif

#if WIDE
__device__ __forceinline__ void write_two(float* to, float first, float second) {
  *(float2*)to = make_float2(first, second);
}
#else
__device__ __forceinline__ void write_two(u16* to, float first, float second) { *(u32*)to = pair_of_numbers(first, second); }
#endif

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  extern __shared__ __align__(128) unsigned char memory[];
  next_may_start();
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const Number* const qkv = p.qkv;
  const int heads = p.heads, kv_heads = p.kv_heads, cached = p.cached;
  const int head = blockIdx.y, kv_head = head / (heads / kv_heads);
  const int* tile = p.tiles + 4 * blockIdx.x;
  const int start = tile[0], length = tile[1], ends = tile[3];
  const int first = tile[2] + (QUERIES < 64 ? blockIdx.z * QUERIES : 0);
  // What the batch is was there before its first kernel.
  after_previous();
  if (QUERIES < 64 && first >= length) return;
  const int width = (heads + 2 * kv_heads) * HEAD_DIM;
  const u32 queries = shared_address(memory);
  const u32 buffers = queries + QUERIES * STRIDE;  // keys and values, twice
  // Behind these and before those the block's queries see nothing.
  const int keys = cached + min(ends, first + QUERIES + p.after);
  const int first_step = max(cached + first - p.before, 0) / KEYS;
  const int steps = (keys + KEYS - 1) / KEYS;

  // Rows beyond the next sixteen are looked at by nobody.
  auto rows_of = [](int most, int left) { return min(most, (left + 15) / 16 * 16); };
  // Whether a head has numbers there: a step of the product may be wider.
  auto has = [](int chunk) { return HEAD_DIM % DEEP == 0 || chunk * EACH < HEAD_DIM; };
  for (int i = thread; i < rows_of(QUERIES, length - first) * CHUNKS; i += THREADS) {
    const int row = i / CHUNKS, chunk = i % CHUNKS;
    const bool valid = first + row < length && has(chunk);
    const Number* from = qkv + (u64)(start + (valid ? first + row : 0)) * width + head * HEAD_DIM;
    copy16(queries + row * STRIDE + chunk * 16, from + (has(chunk) ? chunk * EACH : 0), valid);
  }
  auto fetch = [&](int step) {
    if (step < steps) {
      const u32 buffer = buffers + step % 2 * 2 * TILE_BYTES;
      for (int i = thread; i < rows_of(KEYS, keys - step * KEYS) * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS, key = step * KEYS + row;
        const bool valid = key < keys;
        const Number *k, *v;
        if (key < cached) {
          const u64 at = ((u64)key * kv_heads + kv_head) * HEAD_DIM;
          k = p.cached_keys + at;
          v = p.cached_values + at;
        } else {
          k = qkv + (u64)(start + (valid ? key - cached : 0)) * width + (heads + kv_head) * HEAD_DIM;
          v = k + kv_heads * HEAD_DIM;
        }
        const int from = has(chunk) ? chunk * EACH : 0;
        copy16(buffer + row * STRIDE + chunk * 16, k + from, valid && has(chunk));
        copy16(buffer + TILE_BYTES + row * STRIDE + chunk * 16, v + from, valid && has(chunk));
      }
    }
    copies_end();
  };
  fetch(first_step);
  copies_wait<0>();
  __syncthreads();

  const int own_first = warp / SHARING * 16;  // of the warp's queries
#if WIDE
  const u32 own_queries = queries + own_first * STRIDE;
  Parts<4> q[KEEP ? DEPTH : 1];
  if (KEEP) {
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) q[KEEP ? d : 0] = queries_of(own_queries, d, lane);
  }
#else
  const u32 own_queries = queries + (own_first + (lane & 15)) * STRIDE + (lane >> 4) * 16;
  u32 q[KEEP ? DEPTH : 1][4];
  if (KEEP) {
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) load_matrices(q[KEEP ? d : 0], own_queries + d * 32);
  }
#endif

  float mixed[OWN / 8][4];
#pragma unroll
  for (int i = 0; i < OWN / 8; ++i) mixed[i][0] = mixed[i][1] = mixed[i][2] = mixed[i][3] = 0.f;
  // Of rows lane / 4 and that plus 8: the highest score so far, in units of log2, and the sum of exponentials.
  float highest[2] = {-1e30f, -1e30f}, sums[2] = {0.f, 0.f};
  const float units = p.scale * 1.4426950408889634f;
  const float* const own_distance = FAR ? p.distances + head * (2 * FAR + 1) + FAR : nullptr;
  const int row = first + own_first + (lane >> 2);
  const bool idle = first + own_first >= length;

  for (int step = first_step; step < steps; ++step) {
    fetch(step + 1);
    const u32 keys_at = buffers + step % 2 * 2 * TILE_BYTES;
    const u32 values_at = keys_at + TILE_BYTES + warp % SHARING * OWN * SIZE;
    const int first_key = step * KEYS;
    // The warp's queries see nothing behind these, and nothing before those.
    const int own = cached + first + own_first;
    const int seen = min(keys, own + 16 + p.after) - first_key;
    if (!idle && seen > 0 && first_key + KEYS > own - p.before) {
      float scores[KEYS / 8][4];
#if WIDE
      score(scores, q, own_queries, keys_at, lane);
#else
#pragma unroll
      for (int i = 0; i < KEYS / 8; ++i) scores[i][0] = scores[i][1] = scores[i][2] = scores[i][3] = 0.f;
#pragma unroll
      for (int i = 0; i < KEYS / 16; ++i) {
        if (i * 16 < seen) {
#pragma unroll
          for (int d = 0; d < DEPTH; ++d) {
            if (!KEEP) load_matrices(q[0], own_queries + d * 32);
            u32 k[4];
            load_matrices(
                k, keys_at + (i * 16 + (lane & 7) + (lane >> 4) * 8) * STRIDE + d * 32 + (lane >> 3 & 1) * 16);
            mma(scores[2 * i], q[KEEP ? d : 0], k[0], k[1]);
            mma(scores[2 * i + 1], q[KEEP ? d : 0], k[2], k[3]);
          }
        }
      }
#endif
      float higher[2] = {highest[0], highest[1]};
#pragma unroll
      for (int i = 0; i < KEYS / 8; ++i) {
        if (i / PARTS * STEP_KEYS >= seen) break;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int key = first_key + i * 8 + (lane & 3) * 2 + (j & 1);
          const int query = cached + row + (j >> 1) * 8;
          const bool visible = key <= query + p.after && key >= query - p.before && key < keys;
          float score = scores[i][j] * units;
          if (FAR) score += __ldg(own_distance + max(min(key - query, FAR), -FAR));
          scores[i][j] = visible ? score : -1e30f;
          higher[j >> 1] = fmaxf(higher[j >> 1], scores[i][j]);
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        higher[i] = fmaxf(higher[i], __shfl_xor_sync(0xffffffffu, higher[i], 1));
        higher[i] = fmaxf(higher[i], __shfl_xor_sync(0xffffffffu, higher[i], 2));
        const float shrink = exp2f(highest[i] - higher[i]);
        highest[i] = higher[i];
        sums[i] *= shrink;
#pragma unroll
        for (int j = 0; j < OWN / 8; ++j) {
          mixed[j][2 * i] *= shrink;
          mixed[j][2 * i + 1] *= shrink;
        }
      }
#pragma unroll
      for (int i = 0; i < KEYS / 8; ++i) {
        if (i / PARTS * STEP_KEYS >= seen) break;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          scores[i][j] = exp2f(OF_F16 ? scores[i][j] - (highest[j >> 1] - LIFT) : scores[i][j] - highest[j >> 1]);
          sums[j >> 1] += scores[i][j];
        }
      }
#pragma unroll
      for (int i = 0; i < KEYS / STEP_KEYS; ++i)
        if (i * STEP_KEYS < seen) add_values(mixed, scores + PARTS * i, values_at + i * STEP_KEYS * STRIDE, lane);
    }
    copies_wait<0>();
    __syncthreads();
  }

  if (idle) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float share = 1.f / sum_of_four(sums[i]);
    if (row + 8 * i < length) {
      const int column = warp % SHARING * OWN + (lane & 3) * 2;
      Number* to = p.out + ((u64)(start + row + 8 * i) * heads + head) * HEAD_DIM + column;
#pragma unroll
      for (int j = 0; j < OWN / 8; ++j)
        if (HEAD_DIM % (SHARING * 8) == 0 || column + j * 8 < HEAD_DIM)
          write_two(to + j * 8, mixed[j][2 * i] * share, mixed[j][2 * i + 1] * share);
    }
  }
}
