// The norm behind the last layer, in float; a block a row.

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const u16* __restrict__ x,      // [N, D]
           const u16* __restrict__ scale,  // [D]
           float* __restrict__ out,        // [N, D]
           int hidden, int normalise, float eps) {
  next_may_start();
  after_previous();
  const u16* row = x + (u64)blockIdx.x * hidden;
  float norm = 1.f;
  if (normalise) {
    float square = 0.f;
    for (int i = threadIdx.x; i < hidden; i += THREADS) square += to_float(row[i]) * to_float(row[i]);
    norm = rsqrtf(block_sum<THREADS>(square) / hidden + eps);
  }
  for (int i = threadIdx.x; i < hidden; i += THREADS)
    out[(u64)blockIdx.x * hidden + i] = to_float(row[i]) * (normalise ? norm * to_float(scale[i]) : 1.f);
}
