// The mean of each text's rows, all but its first few; a block for 32 columns of a text, a warp for every eighth row.

constexpr int THREADS = 256, WARPS = THREADS / 32;

struct Arguments {
  const float* x;    // [T, D]
  const int* texts;  // [texts, 2], the first row that counts and the one behind the last
  float* out;        // [texts, D]
  int hidden;
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  __shared__ float parts[WARPS][32];
  next_may_start();
  after_previous();
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, column = blockIdx.x * 32 + lane;
  const int first = p.texts[2 * blockIdx.y], end = p.texts[2 * blockIdx.y + 1];
  float sum = 0.f;
  if (column < p.hidden)
    for (int row = first + warp; row < end; row += WARPS) sum += p.x[(u64)row * p.hidden + column];
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= p.hidden) return;
  sum = 0.f;
#pragma unroll
  for (int i = 0; i < WARPS; ++i) sum += parts[i][lane];
  p.out[(u64)blockIdx.y * p.hidden + column] = sum / max(end - first, 1);
}
