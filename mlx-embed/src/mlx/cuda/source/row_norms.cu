// The Euclidean norms of a matrix's rows, each column times a number; a block a row.

constexpr int THREADS = 128;

struct Arguments {
  const u16* matrix;    // [N, inputs] of f16
  const float* weight;  // [inputs]
  float* out;           // [N]
  int inputs;
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  const u16* row = p.matrix + (u64)blockIdx.x * p.inputs;
  float square = 0.f;
  for (int i = threadIdx.x; i < p.inputs; i += THREADS) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(row[i]));
    x *= p.weight[i];
    square += x * x;
  }
  square = block_sum<THREADS>(square);
  if (threadIdx.x == 0) p.out[blockIdx.x] = sqrtf(square);
}
