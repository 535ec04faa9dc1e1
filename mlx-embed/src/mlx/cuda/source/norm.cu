// The norm of each row, where the product before runs apart; a block a row.

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const u16* __restrict__ x,      // [T, D]
           const u16* __restrict__ scale,  // [D]
           u16* __restrict__ out,          // [T, D]
           int hidden, float eps) {
  __shared__ float parts[THREADS / 32];
  const int thread = threadIdx.x, pairs = hidden / 2;
  const u32* row = (const u32*)x + (u64)blockIdx.x * pairs;
  float square = 0.f;
  for (int i = thread; i < pairs; i += THREADS) square += low(row[i]) * low(row[i]) + high(row[i]) * high(row[i]);
  square = warp_sum(square);
  if ((thread & 31) == 0) parts[thread >> 5] = square;
  __syncthreads();
  square = 0.f;
#pragma unroll
  for (int i = 0; i < THREADS / 32; ++i) square += parts[i];
  const float norm = rsqrtf(square / hidden + eps);
  for (int i = thread; i < pairs; i += THREADS) {
    const u32 both = row[i], weights = ((const u32*)scale)[i];
    ((u32*)out)[(u64)blockIdx.x * pairs + i] = pair(low(both) * norm * low(weights), high(both) * norm * high(weights));
  }
}
