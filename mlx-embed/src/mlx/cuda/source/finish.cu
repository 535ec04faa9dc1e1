// Rows in float, as they are or with the norm behind the last layer; a block a row.

constexpr int THREADS = 128;

struct Arguments {
  const Number* x;  // [N, D]
  Norm norm;
  float* out;       // [N, D]
  int hidden;
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  extern __shared__ float row[];
  next_may_start();
  after_previous();
  const u64 from = (u64)blockIdx.x * p.hidden;
  for (int i = threadIdx.x; i < p.hidden; i += THREADS) row[i] = to_float(p.x[from + i]);
  normalise<THREADS>(row, p.hidden, p.norm);
  for (int i = threadIdx.x; i < p.hidden; i += THREADS) p.out[from + i] = row[i];
}
