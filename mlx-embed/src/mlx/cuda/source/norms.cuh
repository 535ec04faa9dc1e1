// Norms of a row whose numbers a block holds in shared memory, thread i those at i, i + THREADS, ..

struct Norm {
  const float* weight;  // [D]; a 1 that is added to it is in it
  const float* bias;    // [D], or nothing
  int kind;             // 0 none, 1 by the root mean square, 2 by mean and variance
  float eps;
};

template <int Threads>
__device__ __forceinline__ void normalise(float* row, int size, const Norm& norm) {
  if (norm.kind == 0) return;
  float mean = 0.f, square = 0.f;
  if (norm.kind == 2) {
    for (int i = threadIdx.x; i < size; i += Threads) mean += row[i];
    mean = block_sum<Threads>(mean) / size;
  }
  for (int i = threadIdx.x; i < size; i += Threads) square += (row[i] - mean) * (row[i] - mean);
  const float scale = rsqrtf(block_sum<Threads>(square) / size + norm.eps);
  for (int i = threadIdx.x; i < size; i += Threads)
    row[i] = (row[i] - mean) * scale * norm.weight[i] + (norm.bias ? norm.bias[i] : 0.f);
}
