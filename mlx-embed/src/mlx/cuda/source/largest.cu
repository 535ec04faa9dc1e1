// The largest numbers of each text's rows; a block for 32 columns of a text, a warp for every eighth row.

constexpr int THREADS = 256, WARPS = THREADS / 32;

struct Arguments {
  const Number* x;   // [T, N]
  const int* texts;  // [texts, 2], the first row and the one behind the last
  float* out;        // [texts, N]
  int columns;       // N
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  __shared__ float parts[WARPS][32];
  next_may_start();
  after_previous();
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, column = blockIdx.x * 32 + lane;
  const int first = p.texts[2 * blockIdx.y], end = p.texts[2 * blockIdx.y + 1];
  float largest = __uint_as_float(0xff800000u);  // -infinity
  if (column < p.columns)
    for (int row = first + warp; row < end; row += WARPS)
      largest = fmaxf(largest, to_float(p.x[(u64)row * p.columns + column]));
  parts[warp][lane] = largest;
  __syncthreads();
  if (warp > 0 || column >= p.columns) return;
#pragma unroll
  for (int i = 0; i < WARPS; ++i) largest = fmaxf(largest, parts[i][lane]);
  p.out[(u64)blockIdx.y * p.columns + column] = largest;
}
