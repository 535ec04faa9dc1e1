/* What the machine can do at best, in the kinds of arithmetic that matrix kernels use.
 *
 *     cc -O3 -pthread -o peak peak.c && ./peak THREADS
 *
 * Prints one JSON object: GFLOP/s (a multiply and an add are two) of f32 FMA, of products of int16
 * and of int8 pairs accumulated in int32, and GB/s of reading memory, all with THREADS threads
 * that start together. A kind that the CPU lacks is null. Each figure is the best of eight bursts. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BURSTS 8
#define STEPS 4000000L
#define READ_BYTES (512UL << 20)

typedef double (*kernel)(const uint8_t *memory); /* runs once, returns the operations or bytes done */

#if defined(__x86_64__)
#include <immintrin.h>

/* Twelve independent accumulators hide four or five cycles of latency on two ports. */
#define REPEAT12(S) S(0) S(1) S(2) S(3) S(4) S(5) S(6) S(7) S(8) S(9) S(10) S(11)

#define LOOP(NAME, TARGET, VECTOR, ZERO, ONE, STEP, OPERATIONS)                                    \
    __attribute__((target(TARGET), noinline)) static double NAME(const uint8_t *memory)            \
    {                                                                                              \
        VECTOR a = ONE, b = ONE, acc[12];                                                          \
        for (int i = 0; i < 12; i++)                                                               \
            acc[i] = ZERO;                                                                         \
        for (long step = 0; step < STEPS; step++) {                                                \
            REPEAT12(STEP)                                                                         \
        }                                                                                          \
        VECTOR kept = acc[0];                                                                      \
        for (int i = 1; i < 12; i++)                                                               \
            __asm__ volatile("" : "+m"(kept) : "x"(acc[i]));                                       \
        (void)memory;                                                                              \
        return 12.0 * STEPS * (OPERATIONS);                                                        \
    }

/* Instructions in assembly, so that no compiler folds constants or drops the loop. */
#define STEP_VNNI512_8(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(acc[i]) : "v"(a), "v"(b));
#define STEP_VNNI512_16(i) __asm__ volatile("vpdpwssd %2, %1, %0" : "+v"(acc[i]) : "v"(a), "v"(b));
#define STEP_VNNI256_8(i) __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc[i]) : "x"(a), "x"(b));
#define STEP_VNNI256_16(i) __asm__ volatile("%{vex%} vpdpwssd %2, %1, %0" : "+x"(acc[i]) : "x"(a), "x"(b));
#define STEP_FMA512(i) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(acc[i]) : "v"(a), "v"(b));
#define STEP_FMA256(i) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+x"(acc[i]) : "x"(a), "x"(b));
/* Without VNNI a step is a product and an addition; int8 needs one more product to widen. */
#define STEP_MADD16(i)                                                                             \
    __asm__ volatile("vpmaddwd %2, %1, %%ymm15\n\tvpaddd %%ymm15, %0, %0"                          \
                     : "+x"(acc[i]) : "x"(a), "x"(b) : "xmm15");
#define STEP_MADD8(i)                                                                              \
    __asm__ volatile("vpmaddubsw %2, %1, %%ymm15\n\tvpmaddwd %2, %%ymm15, %%ymm15\n\t"             \
                     "vpaddd %%ymm15, %0, %0" : "+x"(acc[i]) : "x"(a), "x"(b) : "xmm15");

LOOP(fma512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_set1_ps(0.5f), STEP_FMA512, 32)
LOOP(fma256, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_set1_ps(0.5f), STEP_FMA256, 16)
LOOP(i16_512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_set1_epi16(3), STEP_VNNI512_16, 64)
LOOP(i8_512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_set1_epi8(3), STEP_VNNI512_8, 128)
LOOP(i16_vnni256, "avx2", __m256i, _mm256_setzero_si256(), _mm256_set1_epi16(3), STEP_VNNI256_16, 32)
LOOP(i8_vnni256, "avx2", __m256i, _mm256_setzero_si256(), _mm256_set1_epi8(3), STEP_VNNI256_8, 64)
LOOP(i16_256, "avx2", __m256i, _mm256_setzero_si256(), _mm256_set1_epi16(3), STEP_MADD16, 32)
LOOP(i8_256, "avx2", __m256i, _mm256_setzero_si256(), _mm256_set1_epi8(3), STEP_MADD8, 64)

/* AVX-VNNI without AVX-512 (leaf 7, subleaf 1, eax bit 4). */
#include <cpuid.h>
static int avx_vnni(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1) && __builtin_cpu_supports("avx2");
}

static kernel f32_kernel(void)
{
    if (__builtin_cpu_supports("avx512f"))
        return fma512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? fma256 : NULL;
}

static kernel i16_kernel(void)
{
    if (__builtin_cpu_supports("avx512vnni"))
        return i16_512;
    return avx_vnni() ? i16_vnni256 : __builtin_cpu_supports("avx2") ? i16_256 : NULL;
}

static kernel i8_kernel(void)
{
    if (__builtin_cpu_supports("avx512vnni"))
        return i8_512;
    return avx_vnni() ? i8_vnni256 : __builtin_cpu_supports("avx2") ? i8_256 : NULL;
}

#elif defined(__aarch64__)
#include <arm_neon.h>

#define REPEAT16(S) \
    S(0) S(1) S(2) S(3) S(4) S(5) S(6) S(7) S(8) S(9) S(10) S(11) S(12) S(13) S(14) S(15)
#define LOOP(NAME, VECTOR, ZERO, ONE, STEP, OPERATIONS)                                            \
    static double NAME(const uint8_t *memory)                                                      \
    {                                                                                              \
        VECTOR acc[16];                                                                            \
        __typeof__(ONE) a = ONE, b = ONE;                                                          \
        for (int i = 0; i < 16; i++)                                                               \
            acc[i] = ZERO;                                                                         \
        for (long step = 0; step < STEPS; step++) {                                                \
            REPEAT16(STEP)                                                                         \
        }                                                                                          \
        (void)memory;                                                                              \
        return 16.0 * STEPS * (OPERATIONS);                                                        \
    }
#define STEP_FMLA(i) __asm__ volatile("fmla %0.4s, %1.4s, %2.4s" : "+w"(acc[i]) : "w"(a), "w"(b));
#define STEP_SMLAL(i) __asm__ volatile("smlal %0.4s, %1.4h, %2.4h" : "+w"(acc[i]) : "w"(a), "w"(b));
LOOP(f32_neon, float32x4_t, vdupq_n_f32(0), vdupq_n_f32(0.5f), STEP_FMLA, 8)
LOOP(i16_neon, int32x4_t, vdupq_n_s32(0), vdupq_n_s16(3), STEP_SMLAL, 8)
static kernel f32_kernel(void) { return f32_neon; }
static kernel i16_kernel(void) { return i16_neon; }
#if defined(__ARM_FEATURE_DOTPROD)
#define STEP_SDOT(i) __asm__ volatile("sdot %0.4s, %1.16b, %2.16b" : "+w"(acc[i]) : "w"(a), "w"(b));
LOOP(i8_neon, int32x4_t, vdupq_n_s32(0), vdupq_n_s8(3), STEP_SDOT, 32)
static kernel i8_kernel(void) { return i8_neon; }
#else
static kernel i8_kernel(void) { return NULL; }
#endif

#else
static kernel f32_kernel(void) { return NULL; }
static kernel i16_kernel(void) { return NULL; }
static kernel i8_kernel(void) { return NULL; }
#endif

static double read_memory(const uint8_t *memory)
{
    const uint64_t *words = (const uint64_t *)memory;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < READ_BYTES / 8; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] += words[i + j];
    for (int j = 0; j < 8; j++)
        __asm__ volatile("" : : "r"(sum[j]));
    return READ_BYTES;
}

struct job {
    kernel run;
    const uint8_t *memory;
    pthread_barrier_t *start;
    double rate;
};

/* Processor time of this thread: what other processes take does not lower the peak. */
static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static void *work(void *argument)
{
    struct job *job = argument;
    pthread_barrier_wait(job->start);
    double begin = seconds();
    double done = job->run(job->memory);
    job->rate = done / (seconds() - begin) / 1e9;
    return NULL;
}

/* Billions a second, over all threads, of the best burst; 0 without a kernel. */
static double best(kernel run, int threads, uint8_t **memory)
{
    double rate = 0;
    for (int burst = 0; run && burst < BURSTS; burst++) {
        pthread_t ids[threads];
        struct job jobs[threads];
        pthread_barrier_t start;
        pthread_barrier_init(&start, NULL, threads);
        for (int i = 0; i < threads; i++) {
            jobs[i] = (struct job){run, memory ? memory[i] : NULL, &start, 0};
            pthread_create(&ids[i], NULL, work, &jobs[i]);
        }
        double now = 0;
        for (int i = 0; i < threads; i++) {
            pthread_join(ids[i], NULL);
            now += jobs[i].rate;
        }
        rate = now > rate ? now : rate;
        pthread_barrier_destroy(&start);
    }
    return rate;
}

static void print(const char *name, double value, const char *after)
{
    if (value > 0)
        printf("\"%s\": %.1f%s", name, value, after);
    else
        printf("\"%s\": null%s", name, after);
}

int main(int count, char **arguments)
{
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    if (threads < 1 || threads > 1024) {
        fprintf(stderr, "usage: peak THREADS\n");
        return 1;
    }
    uint8_t *memory[threads];
    for (int i = 0; i < threads; i++) {
        memory[i] = malloc(READ_BYTES);
        if (!memory[i]) {
            fprintf(stderr, "peak: not enough memory\n");
            return 1;
        }
        memset(memory[i], i + 1, READ_BYTES);
    }
    printf("{");
    print("f32", best(f32_kernel(), threads, NULL), ", ");
    print("int16", best(i16_kernel(), threads, NULL), ", ");
    print("int8", best(i8_kernel(), threads, NULL), ", ");
    print("read", best(read_memory, threads, memory), "}\n");
    return 0;
}
