// Rows of a matrix, by a list; a block a row.

constexpr int THREADS = 128;

struct Arguments {
  const u16* from;   // [.., width]
  const int* rows;  // [N]
  u16* out;         // [N, width]
  int width;
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  const u64 from = p.rows[blockIdx.x];
  const int eights = p.width / 8;
  for (int i = threadIdx.x; i < eights; i += THREADS)
    ((uint4*)p.out)[(u64)blockIdx.x * eights + i] = ((const uint4*)p.from)[from * eights + i];
}
