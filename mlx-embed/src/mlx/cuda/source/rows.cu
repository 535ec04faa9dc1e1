// Rows of a matrix, by a list; a block a row.

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const u16* __restrict__ in,    // [.., width]
           const int* __restrict__ rows,  // [N]
           u16* __restrict__ out,         // [N, width]
           int width) {
  next_may_start();
  after_previous();
  const u64 from = rows[blockIdx.x];
  for (int i = threadIdx.x; i < width / 8; i += THREADS)
    ((uint4*)out)[(u64)blockIdx.x * (width / 8) + i] = ((const uint4*)in)[from * (width / 8) + i];
}
