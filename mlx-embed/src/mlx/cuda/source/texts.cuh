// A walk over each text's rows; a block for 32 columns of a text, a warp for every eighth row.

constexpr int THREADS = 256, WARPS = THREADS / 32;

struct Column {
  int index, first, end;  // which one, and the text's first row that counts and the one behind the last

  // `texts` is [texts, 2].
  __device__ __forceinline__ explicit Column(const int* texts)
      : index(blockIdx.x * 32 + (threadIdx.x & 31)), first(texts[2 * blockIdx.y]), end(texts[2 * blockIdx.y + 1]) {}

  // What `join` makes of the column's numbers in `x` [T, columns], from `none` on; each row is times its scale, if there
  // are such.
  template <typename T, typename Join>
  __device__ __forceinline__ float joined(const T* x, int columns, float none, Join join, const float* scales = nullptr) const {
    __shared__ float parts[WARPS][32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    float all = none;
    if (index < columns)
      for (int row = first + warp; row < end; row += WARPS) all = join(all, to_float(x[(u64)row * columns + index]) * (scales ? scales[row] : 1.f));
    parts[warp][lane] = all;
    __syncthreads();
    all = none;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) all = join(all, parts[i][lane]);
    return all;
  }

  // To `out` [texts, columns].
  __device__ __forceinline__ void write(float* out, int columns, float x) const {
    if (threadIdx.x < 32 && index < columns) out[(u64)blockIdx.y * columns + index] = x;
  }
};
