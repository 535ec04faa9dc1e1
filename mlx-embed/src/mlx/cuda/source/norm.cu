// The norm of each row, where the product before runs apart; a block a row.

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const u16* __restrict__ x,      // [T, D]
           const u16* __restrict__ scale,  // [D]
           u16* __restrict__ out,          // [T, D]
           int hidden, float eps) {
  next_may_start();
  after_previous();
  const int thread = threadIdx.x, pairs = hidden / 2;
  const u32* row = (const u32*)x + (u64)blockIdx.x * pairs;
  float square = 0.f;
  for (int i = thread; i < pairs; i += THREADS) square += low(row[i]) * low(row[i]) + high(row[i]) * high(row[i]);
  const float norm = rsqrtf(block_sum<THREADS>(square) / hidden + eps);
  for (int i = thread; i < pairs; i += THREADS) {
    const u32 both = row[i], weights = ((const u32*)scale)[i];
    ((u32*)out)[(u64)blockIdx.x * pairs + i] = pair(low(both) * norm * low(weights), high(both) * norm * high(weights));
  }
}
