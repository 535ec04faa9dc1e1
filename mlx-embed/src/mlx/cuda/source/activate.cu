// What follows the product of the feed-forward part's first half where that runs apart: the bias, the activation and, where
// GATED is 1, its product with up; where it is 2, its product with columns of another matrix. Gate and up alternate eight by
// eight, or gate comes first. A thread has eight numbers or, with HALVED, a block a row, since what a row is multiplied with
// depends on all of it.

constexpr int THREADS = 256;

struct Arguments {
  const Number* from;   // [T, I], or, where GATED is 1, [T, 2I]
  const float* scales;  // [T], of f32
  const float* bias;    // [I] or [2I], or nothing
  Number* out;          // [T, I], or nothing with HALVED
  Halves halved;        // [T, I], with HALVED
  int tokens, eights, alternating;  // eights of I
  int other_eights;                 // of a row of `other`
  const Number* other;              // where GATED is 2: [T, ..], from the first of I columns on
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  auto read = [&](float (&x)[8], u64 token, int from) {
    read_eight(x, p.from + (token * p.eights * (GATED == 1 ? 2 : 1) + from) * 8);
#if OF_F32
    const float scale = p.scales[token];
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= scale;
#endif
    if (p.bias) {
      float bias[8];
      read_eight(bias, p.bias + from * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] += bias[i];
    }
  };
  auto activate = [&](float (&x)[8], u64 token, int eight) {
    read(x, token, GATED == 1 && p.alternating ? 2 * eight : eight);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = activation<ACTIVATION>(x[i]);
#if GATED
    float factors[8];
#if GATED == 1
    read(factors, token, p.alternating ? 2 * eight + 1 : eight + p.eights);
#else
    read_eight(factors, p.other + (token * p.other_eights + eight) * 8);
#endif
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= factors[i];
#endif
  };
  float x[8];
#if HALVED
  const u64 token = blockIdx.x;
  float largest = 0.f;
  for (int eight = threadIdx.x; eight < p.eights; eight += THREADS) {
    activate(x, token, eight);
    largest = larger(largest, x);
  }
  const int exponent = exponent_of(largest_of<THREADS>(largest));
  if (threadIdx.x == 0) p.halved.scales[token] = power_of_two(-exponent);
  for (int eight = threadIdx.x; eight < p.eights; eight += THREADS) {
    if (p.eights > THREADS) activate(x, token, eight);  // else it is there
    write_halves(p.halved, token, eight * 8, x, power_of_two(exponent));
  }
#else
  const u64 at = (u64)blockIdx.x * THREADS + threadIdx.x;
  if (at >= (u64)p.tokens * p.eights) return;
  u64 token;
  int eight;
  divide(at, p.eights, token, eight);
  activate(x, token, eight);
  write_eight(p.out + at * 8, x);
#endif
}
