// Hopper's products of a warpgroup: D += A B, with A 64x16 in registers or shared memory, B 16xN in shared memory, both of
// MULTIPLIED, and D of float.
//
// Matrices in shared memory lie in rows of 128 bytes, 16 bytes at a time in the order of the 128-byte swizzle, at a
// multiple of 1024 bytes. A row has 64 inputs or, of a transposed B, 64 of its N columns.

__device__ __forceinline__ u64 wgmma_matrix(u32 at) {
  // Rows of 128 bytes, eight of them 1024 bytes apart, swizzled over 128 bytes.
  return (u64)((at & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

// The same for a B whose rows are inputs; the next 64 columns are `panel` bytes further.
__device__ __forceinline__ u64 wgmma_transposed(u32 at, u32 panel) {
  return (u64)((at & 0x3ffff) >> 4) | (u64)(panel >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `Left` of the latest groups of products are under way.
template <int Left>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory");
}

// Keeps the compiler from using the sums of a product before this place.
template <int N>
__device__ __forceinline__ void wgmma_done(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// What the threads wrote to shared memory becomes visible to products.
__device__ __forceinline__ void wgmma_sees_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The operands of sums, four at a time, and their names.
#define SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS_16(i) SUMS_4(i), SUMS_4(i + 4), SUMS_4(i + 8), SUMS_4(i + 12)
#define NAMES_4 "%0, %1, %2, %3"
#define NAMES_8 NAMES_4 ", %4, %5, %6, %7"
#define NAMES_16 NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_20 NAMES_16 ", %16, %17, %18, %19"
#define NAMES_32 NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_40 NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define NAMES_64                                                                                                \
  NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                  \
           "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

template <int Transposed = 0>
__device__ __forceinline__ void wgmma(float (&d)[4], const u32 (&a)[4], u64 b, bool add = true) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %9, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32." MULTIPLIED "." MULTIPLIED " "
      "{" NAMES_4 "}, {%4, %5, %6, %7}, %8, p, 1, 1, %10;}"
      : SUMS_4(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(Transposed));
}

template <int Transposed = 0>
__device__ __forceinline__ void wgmma(float (&d)[8], const u32 (&a)[4], u64 b, bool add = true) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %13, 0; wgmma.mma_async.sync.aligned.m64n16k16.f32." MULTIPLIED "." MULTIPLIED " "
      "{" NAMES_8 "}, {%8, %9, %10, %11}, %12, p, 1, 1, %14;}"
      : SUMS_4(0), SUMS_4(4)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(Transposed));
}

template <int Transposed = 0>
__device__ __forceinline__ void wgmma(float (&d)[16], const u32 (&a)[4], u64 b, bool add = true) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %21, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32." MULTIPLIED "." MULTIPLIED " "
      "{" NAMES_16 "}, {%16, %17, %18, %19}, %20, p, 1, 1, %22;}"
      : SUMS_16(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(Transposed));
}

template <int Transposed = 0>
__device__ __forceinline__ void wgmma(float (&d)[20], const u32 (&a)[4], u64 b, bool add = true) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %25, 0; wgmma.mma_async.sync.aligned.m64n40k16.f32." MULTIPLIED "." MULTIPLIED " "
      "{" NAMES_20 "}, {%20, %21, %22, %23}, %24, p, 1, 1, %26;}"
      : SUMS_16(0), SUMS_4(16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(Transposed));
}

template <int Transposed = 0>
__device__ __forceinline__ void wgmma(float (&d)[32], const u32 (&a)[4], u64 b, bool add = true) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." MULTIPLIED "." MULTIPLIED " "
      "{" NAMES_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;}"
      : SUMS_16(0), SUMS_16(16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(Transposed));
}

template <int Transposed = 0>
__device__ __forceinline__ void wgmma(float (&d)[40], const u32 (&a)[4], u64 b, bool add = true) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %45, 0; wgmma.mma_async.sync.aligned.m64n80k16.f32." MULTIPLIED "." MULTIPLIED " "
      "{" NAMES_40 "}, {%40, %41, %42, %43}, %44, p, 1, 1, %46;}"
      : SUMS_16(0), SUMS_16(16), SUMS_4(32), SUMS_4(36)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(Transposed));
}

template <int Transposed = 0>
__device__ __forceinline__ void wgmma(float (&d)[64], const u32 (&a)[4], u64 b, bool add = true) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." MULTIPLIED "." MULTIPLIED " "
      "{" NAMES_64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;}"
      : SUMS_16(0), SUMS_16(16), SUMS_16(32), SUMS_16(48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(Transposed));
}

__device__ __forceinline__ void wgmma(float (&d)[32], u64 a, u64 b, bool add) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." MULTIPLIED "." MULTIPLIED " "
      "{" NAMES_32 "}, %32, %33, p, 1, 1, 0, 0;}"
      : SUMS_16(0), SUMS_16(16)
      : "l"(a), "l"(b), "r"((int)add));
}

__device__ __forceinline__ void wgmma(float (&d)[64], u64 a, u64 b, bool add) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." MULTIPLIED "." MULTIPLIED " "
      "{" NAMES_64 "}, %64, %65, p, 1, 1, 0, 0;}"
      : SUMS_16(0), SUMS_16(16), SUMS_16(32), SUMS_16(48)
      : "l"(a), "l"(b), "r"((int)add));
}
