// What follows the product for queries, keys and values where that runs apart: head norms and rotation; a warp a head.

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const u16* __restrict__ in,         // [T, (H + 2K) * E]
           const u16* __restrict__ bias,       // [(H + 2K) * E]
           const u16* __restrict__ head_norm,  // [2, E]
           const float* __restrict__ angles,   // [T, 2, E / 2]
           u16* __restrict__ out,  // [T, (H + 2K) * E]
           int tokens, int all_heads, int query_heads, int rotated_heads, float head_eps) {
  next_may_start();
  after_previous();
  const int lane = threadIdx.x & 31;
  const u64 warp = (u64)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
  if (warp >= (u64)tokens * all_heads) return;
  const u64 token = warp / all_heads;
  const int head = warp % all_heads;
  Head values;
#pragma unroll
  for (int i = 0; i < 2 * PAIRS; ++i) {
    const int element = i & 1 ? Head::second(lane, i / 2) : Head::first(lane, i / 2);
    values.x[i] = to_float(in[warp * HEAD_DIM + element]);
    if (HAS_BIAS) values.x[i] += to_float(bias[head * HEAD_DIM + element]);
  }
  if (head < rotated_heads) {
    if (HAS_HEAD_NORMS) values.normalise(head_norm + (head < query_heads ? 0 : HEAD_DIM), head_eps, lane);
    float turns[2 * PAIRS];
#pragma unroll
    for (int i = 0; i < 2 * PAIRS; ++i)
      turns[i] = angles[token * HEAD_DIM + (i & 1) * (HEAD_DIM / 2) + lane + i / 2 * 32];
    values.rotate(turns);
  }
  values.write(out + warp * HEAD_DIM, lane);
}
