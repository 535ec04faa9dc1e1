// What follows the product of the feed-forward part's first half where that runs apart: the bias, the activation and,
// where GATED, its product with up. A thread has eight numbers. Gate and up alternate eight by eight, or gate comes first.

constexpr int THREADS = 256;

struct Arguments {
  const Number* from;  // [T, I], or, gated, [T, 2I]
  const float* bias;  // [I] or [2I], or nothing
  Number* out;        // [T, I]
  int tokens, eights, alternating;  // eights of I
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  const u64 at = (u64)blockIdx.x * THREADS + threadIdx.x;
  if (at >= (u64)p.tokens * p.eights) return;
  const u64 token = at / p.eights;
  const int eight = at % p.eights;
  auto read = [&](float (&x)[8], int from) {
    read_eight(x, p.from + (token * p.eights * (GATED ? 2 : 1) + from) * 8);
    if (p.bias) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] += p.bias[from * 8 + i];
    }
  };
  float x[8];
  read(x, GATED && p.alternating ? 2 * eight : eight);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = activation<ACTIVATION>(x[i]);
#if GATED
  float up[8];
  read(up, p.alternating ? 2 * eight + 1 : eight + p.eights);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] *= up[i];
#endif
  write_eight(p.out + at * 8, x);
}
