// The residual connection and the norms around it, where the product before runs apart; a block a token:
// x = sum(x + output(y + bias)), where HAS_FACTOR times a factor, and next(x).

constexpr int THREADS = 128;

struct Arguments {
  const Number* x;    // [T, D]
  const Number* y;    // [T, D], or nothing, which adds nothing
  const float* bias;  // [D], or nothing
  Norm output, sum, next;
  Number* out;     // [T, D], or nothing where nothing is added
  Number* normed;  // [T, D], or nothing
  int hidden;
  float factor;
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  extern __shared__ float row[];
  next_may_start();
  after_previous();
  const u64 from = (u64)blockIdx.x * p.hidden;
  if (p.y) {
    for (int i = threadIdx.x; i < p.hidden; i += THREADS)
      row[i] = to_float(p.y[from + i]) + (p.bias ? p.bias[i] : 0.f);
    normalise<THREADS>(row, p.hidden, p.output);
    for (int i = threadIdx.x; i < p.hidden; i += THREADS) row[i] += to_float(p.x[from + i]);
  } else {
    for (int i = threadIdx.x; i < p.hidden; i += THREADS) row[i] = to_float(p.x[from + i]);
  }
  normalise<THREADS>(row, p.hidden, p.sum);
  for (int i = threadIdx.x; i < p.hidden; i += THREADS) {
    const Number rounded = to_number(HAS_FACTOR ? row[i] * p.factor : row[i]);
    if (p.out) p.out[from + i] = rounded;
    row[i] = to_float(rounded);
  }
  if (!p.normed) return;
  normalise<THREADS>(row, p.hidden, p.next);
  for (int i = threadIdx.x; i < p.hidden; i += THREADS) p.normed[from + i] = to_number(row[i]);
}
