// Packed weights to what products multiply, [N, inputs]: what one of many tokens reads. A block has 64 outputs by 64 inputs.

constexpr int THREADS = 128;

struct Arguments {
  const u32* weight;     // as `pack` writes it
  const uint2* factors;  // as `pack` writes it
  u16* out;              // [N, inputs]
  int n, inputs;
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  __shared__ __align__(16) u32 tile[64][36];  // two numbers each; four more keep rows on different banks
  next_may_start();
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int step = blockIdx.x, block = blockIdx.y;
  u32 words[BITS];
  read_words(words, p.weight + (((u64)block * gridDim.x + step) * 4 + warp) * UNIT, lane);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int group = (step * 64 + k * 16) / GROUP;
    const uint2 both = __ldg(p.factors + (((u64)block * (p.inputs / GROUP) + group) * 4 + warp) * 8 + (lane >> 2));
    u32 values[4];
    dequantize(values, words, k, both);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      tile[warp * 16 + (lane >> 2) + 8 * (i & 1)][k * 8 + (lane & 3) + 4 * (i >> 1)] = values[i];
  }
  __syncthreads();
  after_previous();
#pragma unroll
  for (int i = thread; i < 64 * 8; i += THREADS) {
    const int row = i / 8, chunk = i % 8;
    if (block * 64 + row < p.n)
      *(uint4*)(p.out + (u64)(block * 64 + row) * p.inputs + step * 64 + chunk * 8) =
          *(const uint4*)&tile[row][chunk * 4];
  }
}
