// silu(gate) * up, where the product before runs apart. Gate and up alternate eight by eight; a thread has eight.

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const u16* __restrict__ both,  // [T, 2 * intermediate]
           u16* __restrict__ out,         // [T, intermediate]
           int eights) {
  next_may_start();
  after_previous();
  const u64 at = (u64)blockIdx.x * THREADS + threadIdx.x;
  if (at >= (u64)eights) return;
  const uint4 gates = ((const uint4*)both)[2 * at], ups = ((const uint4*)both)[2 * at + 1];
  const u32 gate[4] = {gates.x, gates.y, gates.z, gates.w}, up[4] = {ups.x, ups.y, ups.z, ups.w};
  u32 y[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float a = low(gate[i]), b = high(gate[i]);
    y[i] = pair(a / (1.f + __expf(-a)) * low(up[i]), b / (1.f + __expf(-b)) * high(up[i]));
  }
  ((uint4*)out)[at] = make_uint4(y[0], y[1], y[2], y[3]);
}
