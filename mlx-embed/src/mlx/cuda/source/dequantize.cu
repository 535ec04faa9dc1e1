// Packed weights to bf16, [N, inputs]: what a product by cuBLAS reads. A block dequantises 64 outputs by 64 inputs.

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const uint4* __restrict__ weight,   // as `pack` writes it
           const uint2* __restrict__ factors,  // as `pack` writes it
           u16* __restrict__ out,              // [N, inputs]
           int n, int inputs) {
  __shared__ __align__(16) u32 tile[64][36];  // two numbers each; four more keep rows on different banks
  next_may_start();
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int step = blockIdx.x, block = blockIdx.y;
  const uint4 words = weight[((block * gridDim.x + step) * 4 + warp) * 32 + lane];
  const u32 packed[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int group = (step * 64 + k * 16) / GROUP;
    const uint2 both = factors[((block * (inputs / GROUP) + group) * 4 + warp) * 8 + (lane >> 2)];
    u32 values[4];
    dequantize(values, packed[k], both);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      tile[warp * 16 + (lane >> 2) + 8 * (i & 1)][k * 8 + (lane & 3) + 4 * (i >> 1)] = values[i];
  }
  __syncthreads();
  after_previous();
#pragma unroll
  for (int i = thread; i < 64 * 8; i += THREADS) {
    const int row = i / 8, chunk = i % 8;
    if (block * 64 + row < n)
      *(uint4*)(out + (u64)(block * 64 + row) * inputs + step * 64 + chunk * 8) = *(const uint4*)&tile[row][chunk * 4];
  }
}
