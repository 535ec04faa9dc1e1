// Attention of packed texts, a block for 64 queries of one head (Dao, 2023). Of wide heads two blocks share the 64 queries,
// and a block has two warps for the same queries, of which each sums half of a head's numbers: a thread has no room for
// more.
//
// The query at position i sees the keys from i - before to i + after of its text. All texts may continue the same tokens,
// whose keys and values are apart: `cached` of them. `tiles` holds for each block of queries where its text starts, how long
// it is, which query comes first, and how many of its tokens are seen.
//
// With FAR, a number of each head is added to its scores by how far the key is behind the query, or before it. From FAR on
// it stays the same.

constexpr bool WIDE = HEAD_DIM > 256;
constexpr int QUERIES = WIDE ? 32 : 64, KEYS = WIDE ? 16 : HEAD_DIM > 128 ? 32 : 64, THREADS = 128;
constexpr int SHARING = WIDE ? 2 : 1;      // warps with the same queries
constexpr int OWN = HEAD_DIM / SHARING;    // numbers of a head that a warp sums
constexpr int STRIDE = HEAD_DIM * 2 + 16;  // bytes of a row; 16 more keep eight rows on different banks
constexpr int TILE_BYTES = KEYS * STRIDE;
constexpr int DEPTH = HEAD_DIM / 16;       // steps of the product with keys
constexpr int CHUNKS = HEAD_DIM / 8;       // 16 bytes each, of a row
constexpr bool KEEP = HEAD_DIM <= 128;     // queries in registers

static_assert(OWN % 16 == 0, "a step of the product has 16 numbers");

struct Arguments {
  const u16* qkv;          // [T, (H + 2K) * E]
  const u16* cached_keys;    // [cached, K, E]
  const u16* cached_values;  // [cached, K, E]
  const int* tiles;        // [number, 4], see above
  const float* distances;  // [H, 2 * FAR + 1], times log2(e); the query's own is in the middle
  u16* out;                // [T, H * E]
  int heads, kv_heads, cached, before, after;
  float scale;
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  extern __shared__ __align__(128) unsigned char memory[];
  next_may_start();
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const u16* const qkv = p.qkv;
  const int heads = p.heads, kv_heads = p.kv_heads, cached = p.cached;
  const int head = blockIdx.y, kv_head = head / (heads / kv_heads);
  const int* tile = p.tiles + 4 * blockIdx.x;
  const int start = tile[0], length = tile[1], first = tile[2] + (WIDE ? blockIdx.z * QUERIES : 0), ends = tile[3];
  // What the batch is was there before its first kernel.
  after_previous();
  if (WIDE && first >= length) return;
  const int width = (heads + 2 * kv_heads) * HEAD_DIM;
  const u32 queries = shared_address(memory);
  const u32 buffers = queries + QUERIES * STRIDE;  // keys and values, twice
  // Behind these and before those the block's queries see nothing.
  const int keys = cached + min(ends, first + QUERIES + p.after);
  const int first_step = max(cached + first - p.before, 0) / KEYS;
  const int steps = (keys + KEYS - 1) / KEYS;

  // Rows beyond the next sixteen are looked at by nobody.
  auto rows_of = [](int most, int left) { return min(most, (left + 15) / 16 * 16); };
  for (int i = thread; i < rows_of(QUERIES, length - first) * CHUNKS; i += THREADS) {
    const int row = i / CHUNKS, chunk = i % CHUNKS;
    const bool valid = first + row < length;
    const u16* from = qkv + (u64)(start + (valid ? first + row : 0)) * width + head * HEAD_DIM + chunk * 8;
    copy16(queries + row * STRIDE + chunk * 16, from, valid);
  }
  auto fetch = [&](int step) {
    if (step < steps) {
      const u32 buffer = buffers + step % 2 * 2 * TILE_BYTES;
      for (int i = thread; i < rows_of(KEYS, keys - step * KEYS) * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS, key = step * KEYS + row;
        const bool valid = key < keys;
        const u16 *k, *v;
        if (key < cached) {
          const u64 at = ((u64)key * kv_heads + kv_head) * HEAD_DIM;
          k = p.cached_keys + at;
          v = p.cached_values + at;
        } else {
          k = qkv + (u64)(start + (valid ? key - cached : 0)) * width + (heads + kv_head) * HEAD_DIM;
          v = k + kv_heads * HEAD_DIM;
        }
        copy16(buffer + row * STRIDE + chunk * 16, k + chunk * 8, valid);
        copy16(buffer + TILE_BYTES + row * STRIDE + chunk * 16, v + chunk * 8, valid);
      }
    }
    copies_end();
  };
  fetch(first_step);
  copies_wait<0>();
  __syncthreads();

  const int own_first = warp / SHARING * 16;  // of the warp's queries
  const u32 own_queries = queries + (own_first + (lane & 15)) * STRIDE + (lane >> 4) * 16;
  u32 q[KEEP ? DEPTH : 1][4];
  if (KEEP) {
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) load_matrices(q[KEEP ? d : 0], own_queries + d * 32);
  }

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
    const u32 values_at = keys_at + TILE_BYTES + warp % SHARING * OWN * 2;
    const int first_key = step * KEYS;
    // The warp's queries see nothing behind these, and nothing before those.
    const int own = cached + first + own_first;
    const int seen = min(keys, own + 16 + p.after) - first_key;
    if (!idle && seen > 0 && first_key + KEYS > own - p.before) {
      float scores[KEYS / 8][4];
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
      float higher[2] = {highest[0], highest[1]};
#pragma unroll
      for (int i = 0; i < KEYS / 8; ++i) {
        if (i / 2 * 16 >= seen) break;
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
        if (i / 2 * 16 >= seen) break;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          scores[i][j] = exp2f(scores[i][j] - highest[j >> 1]);
          sums[j >> 1] += scores[i][j];
        }
      }
#pragma unroll
      for (int i = 0; i < KEYS / 16; ++i) {
        if (i * 16 < seen) {
          const u32 shares[4] = {pair(scores[2 * i][0], scores[2 * i][1]), pair(scores[2 * i][2], scores[2 * i][3]),
                            pair(scores[2 * i + 1][0], scores[2 * i + 1][1]),
                            pair(scores[2 * i + 1][2], scores[2 * i + 1][3])};
#pragma unroll
          for (int j = 0; j < OWN / 16; ++j) {
            u32 v[4];
            load_transposed(v, values_at + (i * 16 + (lane & 15)) * STRIDE + j * 32 + (lane >> 4) * 16);
            mma(mixed[2 * j], shares, v[0], v[1]);
            mma(mixed[2 * j + 1], shares, v[2], v[3]);
          }
        }
      }
    }
    copies_wait<0>();
    __syncthreads();
  }

  if (idle) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float share = 1.f / sum_of_four(sums[i]);
    if (row + 8 * i < length) {
      u16* to = p.out + ((u64)(start + row + 8 * i) * heads + head) * HEAD_DIM + warp % SHARING * OWN + (lane & 3) * 2;
#pragma unroll
      for (int j = 0; j < OWN / 8; ++j)
        *(u32*)(to + j * 8) = pair(mixed[j][2 * i] * share, mixed[j][2 * i + 1] * share);
    }
  }
}
