// A checkpoint's 4-bit matrix as `product` reads it: 64 outputs and 64 inputs after the other, outputs outside, and in
// each a lane's 16 bytes side by side. Of a warp's 16 outputs lane 4g + t has rows g and g + 8, and of 16 inputs 2t,
// 2t + 1, 2t + 8 and 2t + 9: a word. What is missing of the last 64 outputs is 0.
//
// A pair of neighbours is four bits apart from the next and 16 bits within, so that a shift and a mask give it.

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const u32* __restrict__ weight,  // [N, inputs / 8]
           const u16* __restrict__ scales,  // [N, inputs / GROUP]
           const u16* __restrict__ biases,  // [N, inputs / GROUP]
           u32* __restrict__ packed,        // [N / 64, inputs / 64, 4 warps, 32 lanes, 4 steps]
           u32* __restrict__ factors,       // [N / 64, inputs / GROUP, 4 warps, 8 rows, 2], bias in the upper half
           int n, int inputs) {
  next_may_start();
  after_previous();
  const u32 at = blockIdx.x * THREADS + threadIdx.x;
  const u32 words = (n + 63) / 64 * 8 * inputs;
  if (at >= words) return;
  const u32 k = at % 4, lane = at / 4 % 32, warp = at / 128 % 4;
  const u32 step = at / 512 % (inputs / 64), block = at / 512 / (inputs / 64);
  const u32 row = block * 64 + warp * 16 + lane / 4, input = step * 64 + k * 16 + lane % 4 * 2;
  u32 out = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const u32 from_row = row + 8 * (i & 1), from = input + 8 * (i >> 1);
    if (from_row < n) {
      const u32 two = weight[from_row * (inputs / 8) + from / 8] >> (4 * (from % 8));
      out |= (two & 15u) << (4 * i) | (two >> 4 & 15u) << (16 + 4 * i);
    }
  }
  packed[at] = out;
  const u32 groups = inputs / GROUP, all = (n + 63) / 64 * 64 * groups;
  if (at < all) {
    const u32 half = at % 2, g = at / 2 % 8, of = at / 16 % 4, group = at / 64 % groups, outer = at / 64 / groups;
    const u32 from_row = outer * 64 + of * 16 + g + 8 * half;
    factors[at] = from_row < n ? (u32)biases[from_row * groups + group] << 16 | scales[from_row * groups + group] : 0;
  }
}
