// What follows the product for queries, keys and values where that runs apart: biases, head norms and rotation, and, where
// HAS_VALUE_NORMS, norms of values without a weight. LANES threads of a warp have a head, PER numbers side by side each, and
// CHUNKS such.

constexpr int THREADS = 128;
constexpr int PIECES = HEAD_DIM / PER;
constexpr int CHUNKS = (PIECES + LANES - 1) / LANES;

struct Arguments {
  const Number* from;         // [T, (H + 2K) * E]
  const float* scales;        // [T], of f32
  const float* bias;          // [(H + 2K) * E], or nothing
  const float* head_norm;     // [2, E]
  const float* query_angles;  // [positions, 2, E / 2], or nothing, which rotates nothing
  const float* key_angles;    // the same
  const int* positions;       // [T]
  Number* out;                // [T, (H + 2K) * E]
  int tokens, all_heads, query_heads, rotated_heads;
  float head_eps, value_eps;
};

template <int N, typename T>
__device__ __forceinline__ void read(float (&x)[N], const T* from) {
  if constexpr (N == 8) {
    read_eight(x, from);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = to_float(from[i]);
  }
}

// A head's k-th piece, times its row's scale and with its bias.
__device__ __forceinline__ void read_piece(float (&x)[PER], const Number* from, float scale, const float* bias, int k) {
  read(x, from + PER * k);
#pragma unroll
  for (int i = 0; i < PER; ++i) x[i] *= scale;
  if (!bias) return;
  float more[PER];
  read(more, bias + PER * k);
#pragma unroll
  for (int i = 0; i < PER; ++i) x[i] += more[i];
}

// Times what the norm makes of it; without weights these are ones.
__device__ __forceinline__ void scale(float (&x)[PER], float factor, const float* weight, int k) {
  float of[PER];
  if (weight) read(of, weight + PER * k);
#pragma unroll
  for (int i = 0; i < PER; ++i) x[i] *= weight ? factor * of[i] : factor;
}

template <int N>
__device__ __forceinline__ void write(Number* to, const float (&x)[N]) {
  if constexpr (N == 8) {
    write_eight(to, x);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = to_number(x[i]);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  const int lane = threadIdx.x % LANES;
  const u64 asked = (u64)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
  // Threads behind the last head take part in sums.
  const bool inside = asked < (u64)p.tokens * p.all_heads;
  const u64 at = inside ? asked : 0;
  u64 token;
  int head;
  divide(at, p.all_heads, token, head);
  const bool rotates = head < p.rotated_heads, queries = head < p.query_heads;
  const Number* from = p.from + at * HEAD_DIM;
  const float* bias = p.bias ? p.bias + head * HEAD_DIM : nullptr;
#if OF_F32
  const float own_scale = p.scales[token];
#else
  constexpr float own_scale = 1.f;
#endif
  float x[CHUNKS][PER], squares = 0.f, factor = 1.f;
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i) {
    const int k = lane + i * LANES;
    if (k >= PIECES) continue;
    read_piece(x[i], from, own_scale, bias, k);
#pragma unroll
    for (int j = 0; j < PER; ++j) squares += x[i][j] * x[i][j];
  }
  const bool normed = rotates ? HAS_HEAD_NORMS : HAS_VALUE_NORMS;
  if (HAS_HEAD_NORMS || HAS_VALUE_NORMS) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step >>= 1) squares += __shfl_xor_sync(0xffffffffu, squares, step);
    if (normed) factor = rsqrtf(squares / HEAD_DIM + (rotates ? p.head_eps : p.value_eps));
  }
  const float* weight = HAS_HEAD_NORMS && rotates ? p.head_norm + (queries ? 0 : HEAD_DIM) : nullptr;
  const float* angles = !rotates ? nullptr : queries ? p.query_angles : p.key_angles;
  const float* turns = angles ? angles + (u64)p.positions[token] * HEAD_DIM : nullptr;
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i) {
    const int k = lane + i * LANES;
    if (normed && k < PIECES) scale(x[i], factor, weight, k);
    // Numbers of one half rotate with those of the other.
    const bool first = k < PIECES / 2;
    float other[PER];
    if (!TRADITIONAL && PIECES == LANES) {
#pragma unroll
      for (int j = 0; j < PER; ++j) other[j] = __shfl_xor_sync(0xffffffffu, x[i][j], LANES / 2);
    }
    if (!inside || k >= PIECES) continue;
    if (turns && TRADITIONAL) {
#pragma unroll
      for (int j = 0; j < PER / 2; ++j) {
        const float cosine = turns[PER / 2 * k + j], sine = turns[HEAD_DIM / 2 + PER / 2 * k + j];
        const float a = x[i][2 * j], b = x[i][2 * j + 1];
        x[i][2 * j] = a * cosine - b * sine;
        x[i][2 * j + 1] = a * sine + b * cosine;
      }
    } else if (turns) {
      if (PIECES != LANES) {
        const int other_k = first ? k + PIECES / 2 : k - PIECES / 2;
        read_piece(other, from, own_scale, bias, other_k);
        if (normed) scale(other, factor, weight, other_k);
      }
      float cosines[PER], sines[PER];
      const float* pair = turns + PER * (first ? k : k - PIECES / 2);
      read(cosines, pair);
      read(sines, pair + HEAD_DIM / 2);
#pragma unroll
      for (int j = 0; j < PER; ++j) x[i][j] = x[i][j] * cosines[j] + (first ? -other[j] : other[j]) * sines[j];
    }
    write(p.out + at * HEAD_DIM + PER * k, x[i]);
  }
}
