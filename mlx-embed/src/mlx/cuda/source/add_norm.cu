// x + y and its norm, where the product before runs apart; a block a token.

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const u16* __restrict__ x,      // [T, D]
           const u16* __restrict__ y,      // [T, D]
           const u16* __restrict__ scale,  // [D]
           u16* __restrict__ out,          // [T, D]
           u16* __restrict__ normed,       // [T, D]
           int hidden, float eps) {
  extern __shared__ __align__(16) unsigned char memory[];
  u32* row = (u32*)memory;
  __shared__ float parts[THREADS / 32];
  const int thread = threadIdx.x, pairs = hidden / 2;
  const u32* xs = (const u32*)x + (u64)blockIdx.x * pairs;
  const u32* ys = (const u32*)y + (u64)blockIdx.x * pairs;
  float square = 0.f;
  for (int i = thread; i < pairs; i += THREADS) {
    const u32 a = xs[i], b = ys[i];
    const u32 both = pair(low(a) + low(b), high(a) + high(b));
    row[i] = both;
    ((u32*)out)[(u64)blockIdx.x * pairs + i] = both;
    square += low(both) * low(both) + high(both) * high(both);
  }
  square = warp_sum(square);
  if ((thread & 31) == 0) parts[thread >> 5] = square;
  __syncthreads();
  square = 0.f;
#pragma unroll
  for (int i = 0; i < THREADS / 32; ++i) square += parts[i];
  const float norm = rsqrtf(square / hidden + eps);
  for (int i = thread; i < pairs; i += THREADS) {
    const u32 both = row[i], weights = ((const u32*)scale)[i];
    ((u32*)normed)[(u64)blockIdx.x * pairs + i] =
        pair(low(both) * norm * low(weights), high(both) * norm * high(weights));
  }
}
