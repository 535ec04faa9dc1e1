// The residual connection and the norms around it, where the product before runs apart:
// x = sum(x + output(y + bias)), where HAS_FACTOR times a factor, and next(x).
//
// PER_ROW threads have a token's row of at most WIDTH numbers in registers, eight side by side and CHUNKS such.

constexpr int THREADS = PER_ROW < 128 ? 128 : PER_ROW;
constexpr int CHUNKS = (WIDTH + 8 * PER_ROW - 1) / (8 * PER_ROW);

struct Arguments {
  const Number* x;    // [T, D]
  const Number* y;    // [T, D], or nothing, which adds nothing
  const float* scales;  // of f32, one of `sharing` rows each: of y or, where there is none, of x; or nothing
  const float* bias;  // [D], or nothing
  Norm output, sum, next;
  Number* out;     // [T, D], or nothing where nothing is added
  Number* normed;  // [T, D] of bf16, or nothing
  Halves halved;   // the same of f32
  int rows, hidden, sharing;
  float factor;
};

struct Row {
  float x[CHUNKS][8];
};

// Where the thread's i-th eight numbers begin.
__device__ __forceinline__ int place(int i) { return (i * PER_ROW + threadIdx.x % PER_ROW) * 8; }

// Zeros behind the row's end.
template <typename T>
__device__ __forceinline__ Row read(const T* from, int size) {
  Row row;
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i) {
    const int at = place(i);
    if (size % 8 == 0 && at < size) {
      read_eight(row.x[i], from + at);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) row.x[i][j] = at + j < size ? to_float(from[at + j]) : 0.f;
    }
  }
  return row;
}

__device__ __forceinline__ void write(Number* to, const Row& row, int size) {
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i) {
    const int at = place(i);
    if (size % 8 == 0 && at < size) {
      write_eight(to + at, row.x[i]);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (at + j < size) to[at + j] = to_number(row.x[i][j]);
    }
  }
}

__device__ __forceinline__ void add(Row& row, const Row& other) {
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) row.x[i][j] += other.x[i][j];
}

__device__ __forceinline__ void multiply(Row& row, float factor) {
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) row.x[i][j] *= factor;
}

// Over the threads that share a row.
__device__ __forceinline__ float row_sum(float x) { return PER_ROW == 32 ? warp_sum(x) : block_sum<THREADS>(x); }

__device__ __forceinline__ void normalise(Row& row, int size, const Norm& norm, const Row& weight) {
  if (norm.kind == 0) return;
  float mean = 0.f, square = 0.f;
  if (norm.kind == 2) {
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) mean += row.x[i][j];
    mean = row_sum(mean) / size;
  }
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      row.x[i][j] = place(i) + j < size ? row.x[i][j] - mean : 0.f;
      square += row.x[i][j] * row.x[i][j];
    }
  const float scale = rsqrtf(row_sum(square) / size + norm.eps);
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) row.x[i][j] *= scale * weight.x[i][j];
  if (norm.bias) add(row, read(norm.bias, size));
}

// What a norm multiplies with, if it is one.
__device__ __forceinline__ Row weight_of(const Norm& norm, int size) {
  if (norm.kind) return read(norm.weight, size);
  return Row{};
}

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  const u64 token = (u64)blockIdx.x * (THREADS / PER_ROW) + threadIdx.x / PER_ROW, from = token * p.hidden;
  next_may_start();
  // Weights don't change: they are on their way while the kernel before still runs.
  const Row output = weight_of(p.output, p.hidden), next = weight_of(p.next, p.hidden);
  after_previous();
  // Where several rows share a block, no thread waits for another's.
  if (token >= p.rows) return;
  const float scale = OF_F32 && p.scales ? p.scales[token / p.sharing] : 1.f;
  Row row = read(p.x + from, p.hidden);
  if (!p.y) multiply(row, scale);
  if (p.y) {
    Row product = read(p.y + from, p.hidden);
    multiply(product, scale);
    if (p.bias) add(product, read(p.bias, p.hidden));
    normalise(product, p.hidden, p.output, output);
    add(row, product);
  }
  normalise(row, p.hidden, p.sum, weight_of(p.sum, p.hidden));
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) row.x[i][j] = to_float(to_number(HAS_FACTOR ? row.x[i][j] * p.factor : row.x[i][j]));
  if (p.out) write(p.out + from, row, p.hidden);
#if OF_F32
  if (!p.halved.out) return;
  normalise(row, p.hidden, p.next, next);
  float largest = 0.f;
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i) largest = larger(largest, row.x[i]);
  const int exponent = exponent_of(largest_of<PER_ROW>(largest));
  if (threadIdx.x % PER_ROW == 0) p.halved.scales[token] = power_of_two(-exponent);
#pragma unroll
  for (int i = 0; i < CHUNKS; ++i)
    if (place(i) < p.hidden) write_halves(p.halved, token, place(i), row.x[i], power_of_two(exponent));
#else
  if (!p.normed) return;
  normalise(row, p.hidden, p.next, next);
  write(p.normed + from, row, p.hidden);
#endif
}
