// Rows of f32 to f16. A block has a row.

constexpr int THREADS = 128;

struct Arguments {
  const float* from;  // [rows, columns]
  Halves to;          // without `out`, only scales are written
  int columns;
  int padded;         // numbers of a row of f16, with zeros behind them
  float factor;       // of all rows, or 0 where each has its own
};

// Zeros behind the row's end.
__device__ __forceinline__ void read(float (&x)[8], const float* from, int at, int columns) {
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    const float4 four = at + i < columns ? *(const float4*)(from + at + i) : make_float4(0.f, 0.f, 0.f, 0.f);
    x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  const u64 row = blockIdx.x;
  const float* from = p.from + row * p.columns;
  float factor = p.factor, x[8];
  if (factor == 0.f) {
    float largest = 0.f;
    for (int at = threadIdx.x * 8; at < p.padded; at += THREADS * 8) {
      read(x, from, at, p.columns);
      largest = larger(largest, x);
    }
    const int exponent = exponent_of(largest_of<THREADS>(largest));
    factor = power_of_two(exponent);
    if (threadIdx.x == 0) p.to.scales[row] = power_of_two(-exponent);
  }
  if (!p.to.out) return;
  for (int at = threadIdx.x * 8; at < p.padded; at += THREADS * 8) {
    read(x, from, at, p.columns);
    write_halves(p.to, row, at, x, factor);
  }
}
