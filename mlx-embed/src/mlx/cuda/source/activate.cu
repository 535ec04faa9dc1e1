// What follows the product of the feed-forward part's first half where that runs apart: the bias, the activation and, where
// GATED is 1, its product with up; where it is 2, its product with columns of another matrix. A thread has eight numbers.
// Gate and up alternate eight by eight, or gate comes first.

constexpr int THREADS = 256;

struct Arguments {
  const Number* from;  // [T, I], or, where GATED is 1, [T, 2I]
  const float* scales;  // [T], of f32
  const float* bias;  // [I] or [2I], or nothing
  Number* out;        // [T, I]
  int tokens, eights, alternating;  // eights of I
  int other_eights;                 // of a row of `other`
  const Number* other;              // where GATED is 2: [T, ..], from the first of I columns on
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  const u64 at = (u64)blockIdx.x * THREADS + threadIdx.x;
  if (at >= (u64)p.tokens * p.eights) return;
  u64 token;
  int eight;
  divide(at, p.eights, token, eight);
#if OF_F32
  const float scale = p.scales[token];
#else
  constexpr float scale = 1.f;
#endif
  auto read = [&](float (&x)[8], int from) {
    read_eight(x, p.from + (token * p.eights * (GATED == 1 ? 2 : 1) + from) * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= scale;
    if (p.bias) {
      float bias[8];
      read_eight(bias, p.bias + from * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] += bias[i];
    }
  };
  float x[8];
  read(x, GATED == 1 && p.alternating ? 2 * eight : eight);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = activation<ACTIVATION>(x[i]);
#if GATED
  float factors[8];
#if GATED == 1
  read(factors, p.alternating ? 2 * eight + 1 : eight + p.eights);
#else
  read_eight(factors, p.other + (token * p.other_eights + eight) * 8);
#endif
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] *= factors[i];
#endif
  write_eight(p.out + at * 8, x);
}
