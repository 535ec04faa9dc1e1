// What the kernels share. Every kernel is compiled on its own, at run time, with this in front and its sizes as macros;
// no header of CUDA's is needed. Its arguments are one struct, `Arguments`; arguments.rs has its twin, and the fields'
// names and places are compared whenever the kernel is compiled.
//
// Letters: T tokens of a batch, one text behind the other; D hidden; H heads; K key and value heads; E head_dim.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// A kernel may be launched while the one before it still runs (programmatic dependent launch, since Hopper): before it
// reads or writes what others do it calls `after_previous`. What it does before that must concern nobody else.
__device__ __forceinline__ void after_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel's blocks may take up places that are free.
__device__ __forceinline__ void next_may_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }

__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ float to_float(u16 x) { return __uint_as_float((u32)x << 16); }

// Two floats to f16, rounded to nearest.
__device__ __forceinline__ u32 pair_of_f16(float first, float second) {
  u32 out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
  return out;
}

// The same to bf16.
__device__ __forceinline__ u32 pair(float first, float second) {
  u32 out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
  return out;
}

__device__ __forceinline__ u16 to_bf16(float x) { return (u16)pair(x, 0.f); }

__device__ __forceinline__ float round_bf16(float x) { return low(pair(x, 0.f)); }

// What activations are stored as: f32 where OF_F32, else bf16. MULTIPLIED is what products take: of f32, f16. Where OF_F16,
// too, what a kernel reads and writes is f16 but for the residual stream: numbers times a power of two of the layer's.
#if OF_F32
#define MULTIPLIED "f16"
#else
#define MULTIPLIED "bf16"
#endif
#if OF_F32 && !OF_F16
typedef float Number;
__device__ __forceinline__ Number to_number(float x) { return x; }
#else
typedef u16 Number;
__device__ __forceinline__ u32 pair_of_numbers(float first, float second) {
  return OF_F32 ? pair_of_f16(first, second) : pair(first, second);
}
__device__ __forceinline__ Number to_number(float x) { return (u16)pair_of_numbers(x, 0.f); }
#endif

__device__ __forceinline__ float to_float(float x) { return x; }

// Eight numbers.
__device__ __forceinline__ void read_eight(float (&out)[8], const float* from) {
  const float4 first = *(const float4*)from, second = *(const float4*)(from + 4);
  out[0] = first.x, out[1] = first.y, out[2] = first.z, out[3] = first.w;
  out[4] = second.x, out[5] = second.y, out[6] = second.z, out[7] = second.w;
}

__device__ __forceinline__ void write_eight(float* to, const float (&x)[8]) {
  *(float4*)to = make_float4(x[0], x[1], x[2], x[3]);
  *(float4*)(to + 4) = make_float4(x[4], x[5], x[6], x[7]);
}

__device__ __forceinline__ void read_eight(float (&out)[8], const u16* from) {
  const uint4 both = *(const uint4*)from;
  const u32 pairs[4] = {both.x, both.y, both.z, both.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) out[2 * i] = low(pairs[i]), out[2 * i + 1] = high(pairs[i]);
}

__device__ __forceinline__ void write_eight(u16* to, const float (&x)[8]) {
  *(uint4*)to = make_uint4(pair(x[0], x[1]), pair(x[2], x[3]), pair(x[4], x[5]), pair(x[6], x[7]));
}

// The function inside the feed-forward part, by its number in arguments.rs.
template <int Which>
__device__ __forceinline__ float activation(float x) {
  if (Which == 0) return __fdividef(x, 1.f + __expf(-x));                                        // SiLU
  if (Which == 1) return .5f * x * (1.f + erff(x * .70710678f));                                 // GELU
  if (Which == 2) return x - __fdividef(x, 1.f + __expf(1.5957691f * (x + .044715f * x * x * x)));  // GELU by tanh
  if (Which == 3) return fmaxf(x, 0.f);                                                          // ReLU
  if (Which == 4) return x;
  if (Which == 5) return tanhf(x);
  const float share = __fdividef(1.f, 1.f + __expf(-(Which == 7 ? 1.702f : 1.f) * x));
  if (Which == 6) return share;
  if (Which == 7) return x * share;                                                              // GELU by sigmoid
  if (Which == 8) return fminf(activation<1>(x), 10.f);
  if (Which == 9) return fminf(fmaxf(x, 0.f), 6.f);                                              // ReLU6
  if (Which == 10) return fmaxf(x, .01f * x);                                                    // leaky ReLU
  if (Which == 11) return fmaxf(x, 0.f) * fmaxf(x, 0.f);
  if (Which == 12) return x * fminf(fmaxf(x + 3.f, 0.f), 6.f) * (1.f / 6.f);                     // hard SiLU
  const float rest = __fdividef(1.f, 1.f + __expf(x));  // 1 - share
  if (Which == 13) return x * share * __fdividef(1.f + rest, 1.f + rest * rest);                 // Mish
  return .5f * (1.f + erff((x - .707107f) * 2.5066264f));                                        // Laplace
}

// a * b + c for two of MULTIPLIED each.
__device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
  u32 out;
  asm("fma.rn." MULTIPLIED "x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// The sum over four neighbouring threads, which share a row of a product's result.
__device__ __forceinline__ float sum_of_four(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// The sum over a block of `Threads`, for all of them.
template <int Threads>
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float parts[Threads / 32];
  x = warp_sum(x);
  __syncthreads();  // an earlier sum was read
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = x;
  __syncthreads();
  x = 0.f;
#pragma unroll
  for (int i = 0; i < Threads / 32; ++i) x += parts[i];
  return x;
}

// In 32 bits where these suffice, which takes a fraction of the time.
__device__ __forceinline__ void divide(u64 what, int by, u64& quotient, int& rest) {
  if (what >> 32) {
    quotient = what / by, rest = what % by;
  } else {
    quotient = (u32)what / (u32)by, rest = (u32)what % (u32)by;
  }
}

// D += A B, with A 16x16 and B 16x8 of MULTIPLIED and D of float, spread over a warp.
__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32." MULTIPLIED "." MULTIPLIED ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same with A 16x8 and B 8x8 of f32, of which the cores take 10 bits behind the point (TF32).
__device__ __forceinline__ void mma_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The nearest number that the cores take.
__device__ __forceinline__ u32 nearest_of(u32 x) {
  u32 out;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(__uint_as_float(x)));
  return out;
}

// A number's first bits that the cores take, and what these leave out.
__device__ __forceinline__ u32 high_of(u32 x) { return x & 0xffffe000u; }

__device__ __forceinline__ u32 low_of(u32 x) { return __float_as_uint(__uint_as_float(x) - __uint_as_float(high_of(x))); }

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// 16 bytes to shared memory behind the back of the threads; zeros where `valid` is false.
__device__ __forceinline__ void copy16(u32 to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `Left` of the latest groups of copies are under way.
template <int Left>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

__device__ __forceinline__ uint4 read16(u32 from) {
  uint4 out;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w) : "r"(from));
  return out;
}

__device__ __forceinline__ uint2 read8(u32 from) {
  uint2 out;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(out.x), "=r"(out.y) : "r"(from));
  return out;
}

__device__ __forceinline__ u32 read4(u32 from) {
  u32 out;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(out) : "r"(from) : "memory");
  return out;
}

__device__ __forceinline__ void write4(u32 to, u32 x) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
}

__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from));
}

__device__ __forceinline__ void load_transposed(u32 (&r)[4], u32 from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from));
}

// One head of one token: norm of queries and keys, then rotation; a warp holds it. Numbers 2i and 2i + 1 of a lane's `x`
// are elements `first(i)` and `second(i)` of the head, which rotate together.
#ifdef HEAD_DIM
constexpr int PAIRS = (HEAD_DIM + 63) / 64;

struct Head {
  float x[2 * PAIRS];

  // Whether the lane has an i-th pair.
  static __device__ __forceinline__ bool has(int lane, int i) {
    return HEAD_DIM % 64 == 0 || lane + 32 * i < HEAD_DIM / 2;
  }
  static __device__ __forceinline__ int first(int lane, int i) {
    return TRADITIONAL ? 2 * (lane + 32 * i) : lane + 32 * i;
  }
  static __device__ __forceinline__ int second(int lane, int i) {
    return TRADITIONAL ? first(lane, i) + 1 : first(lane, i) + HEAD_DIM / 2;
  }

  // The lane's part of the sum of squares.
  __device__ __forceinline__ float squares(int lane) const {
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i)
      if (has(lane, i)) sum += x[2 * i] * x[2 * i] + x[2 * i + 1] * x[2 * i + 1];
    return sum;
  }

  // Times `factor` and `weight` of E, which are ones where not Weighted.
  template <bool Weighted = true>
  __device__ __forceinline__ void scale(const float* weight, float factor, int lane) {
#pragma unroll
    for (int i = 0; i < PAIRS; ++i)
      if (has(lane, i)) {
        x[2 * i] *= Weighted ? factor * weight[first(lane, i)] : factor;
        x[2 * i + 1] *= Weighted ? factor * weight[second(lane, i)] : factor;
      }
  }

  template <bool Weighted = true>
  __device__ __forceinline__ void normalise(const float* weight, float eps, int lane) {
    scale<Weighted>(weight, rsqrtf(warp_sum(squares(lane)) / HEAD_DIM + eps), lane);
  }

  // `turns` are the cosine and sine of each pair's angle.
  __device__ __forceinline__ void rotate(const float (&turns)[2 * PAIRS]) {
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = a * turns[2 * i] - b * turns[2 * i + 1];
      x[2 * i + 1] = a * turns[2 * i + 1] + b * turns[2 * i];
    }
  }

  __device__ __forceinline__ void write(Number* to, int lane) const {
#pragma unroll
    for (int i = 0; i < PAIRS; ++i)
      if (has(lane, i)) {
        to[first(lane, i)] = to_number(x[2 * i]);
        to[second(lane, i)] = to_number(x[2 * i + 1]);
      }
  }
};
#endif
