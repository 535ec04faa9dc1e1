// Rows of a matrix, by a list; a block a row.

constexpr int THREADS = 128;

struct Arguments {
  const Number* from;  // [.., width]
  const int* rows;     // [N]
  Number* out;         // [N, width]
  int width;
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  const u64 from = p.rows[blockIdx.x];
  const int pieces = p.width * sizeof(Number) / 16;
  for (int i = threadIdx.x; i < pieces; i += THREADS)
    ((uint4*)p.out)[(u64)blockIdx.x * pieces + i] = ((const uint4*)p.from)[from * pieces + i];
}
