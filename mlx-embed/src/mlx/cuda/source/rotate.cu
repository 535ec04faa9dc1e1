// What follows the product for queries, keys and values where that runs apart: biases, head norms and rotation, and, where
// HAS_VALUE_NORMS, norms of values without a weight; a warp a head.

constexpr int THREADS = 128;

struct Arguments {
  const Number* from;         // [T, (H + 2K) * E]
  const float* bias;          // [(H + 2K) * E], or nothing
  const float* head_norm;     // [2, E]
  const float* query_angles;  // [positions, 2, E / 2], or nothing, which rotates nothing
  const float* key_angles;    // the same
  const int* positions;       // [T]
  Number* out;                // [T, (H + 2K) * E]
  int tokens, all_heads, query_heads, rotated_heads;
  float head_eps, value_eps;
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  const int lane = threadIdx.x & 31;
  const u64 warp = (u64)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
  if (warp >= (u64)p.tokens * p.all_heads) return;
  const u64 token = warp / p.all_heads;
  const int head = warp % p.all_heads;
  Head values;
#pragma unroll
  for (int i = 0; i < 2 * PAIRS; ++i) {
    const int element = i & 1 ? Head::second(lane, i / 2) : Head::first(lane, i / 2);
    if (!Head::has(lane, i / 2)) continue;
    values.x[i] = to_float(p.from[warp * HEAD_DIM + element]);
    if (p.bias) values.x[i] += p.bias[head * HEAD_DIM + element];
  }
  if (head < p.rotated_heads) {
    if (HAS_HEAD_NORMS) values.normalise(p.head_norm + (head < p.query_heads ? 0 : HEAD_DIM), p.head_eps, lane);
    const float* angles = head < p.query_heads ? p.query_angles : p.key_angles;
    if (angles) {
      const float* of = angles + (u64)p.positions[token] * HEAD_DIM;
      float turns[2 * PAIRS];
#pragma unroll
      for (int i = 0; i < 2 * PAIRS; ++i)
        turns[i] = Head::has(lane, i / 2) ? of[(i & 1) * (HEAD_DIM / 2) + lane + i / 2 * 32] : 0.f;
      values.rotate(turns);
    }
  } else if (HAS_VALUE_NORMS) {
    values.normalise<false>(nullptr, p.value_eps, lane);
  }
  values.write(p.out + warp * HEAD_DIM, lane);
}
