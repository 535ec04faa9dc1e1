/* A fast BLAS for libmlx. It is loaded when its first product is computed, since it starts its threads as it is loaded. */

#define _GNU_SOURCE

#include <stddef.h>

#include "mlx/c/error.h"
#include "mlxsys.h"

#ifdef MLXSYS_BLAS

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#define MLXSYS_TEXT_(name) #name
#define MLXSYS_TEXT(name) MLXSYS_TEXT_(name)
#ifdef MLXSYS_BLAS_PREFIX
#define MLXSYS_IN_BLAS(name) MLXSYS_TEXT(MLXSYS_BLAS_PREFIX) name
#else
#define MLXSYS_IN_BLAS(name) name
#endif

__attribute__((visibility("hidden"))) void mlxsys_never_unload_(const void* address);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int wanted_threads;
static int is_loaded;
static void* sgemm;
static void* dgemm;
static void* cgemm;
static void (*set_num_threads)(int);
static int (*get_num_threads)(void);

/*
 * OpenBLAS ends its threads before a fork, also those that compute, and whoever waits for them waits for ever. So
 * products are kept apart from forks.
 */
#ifdef PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP
static pthread_rwlock_t products = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
#else
static pthread_rwlock_t products = PTHREAD_RWLOCK_INITIALIZER;
#endif

static void before_fork(void) {
  pthread_mutex_lock(&lock);
  pthread_rwlock_wrlock(&products);
}

static void after_fork(void) {
  pthread_rwlock_unlock(&products);
  pthread_mutex_unlock(&lock);
}

/* A lock knows the thread that took it, which the fork doesn't have. */
static void in_fork(void) {
  pthread_rwlock_init(&products, NULL);
  pthread_mutex_init(&lock, NULL);
}

/*
 * Wheels of OpenBLAS 0.3.34 for arm64 Linux choose kernels for SME where the processor has it, and were built without
 * them: products are whatever was in memory. OPENBLAS_CORETYPE chooses others, which are right.
 */
static int computes(void* library) {
  char* (*core)(void);
  *(void**)&core = dlsym(library, MLXSYS_IN_BLAS("openblas_get_corename"));
  const char* name = core ? core() : NULL;
  return !name || strcmp(name, "armv9sme") != 0;
}

static void load(void) {
  pthread_mutex_lock(&lock);
  void* library = dlopen(MLXSYS_BLAS, RTLD_NOW | RTLD_LOCAL);
  if (library && !computes(library)) {
    library = NULL;
  }
  sgemm = library ? dlsym(library, MLXSYS_IN_BLAS("cblas_sgemm")) : NULL;
  dgemm = library ? dlsym(library, MLXSYS_IN_BLAS("cblas_dgemm")) : NULL;
  cgemm = library ? dlsym(library, MLXSYS_IN_BLAS("cblas_cgemm")) : NULL;
  if (sgemm && dgemm && cgemm) {
    *(void**)&set_num_threads = dlsym(library, MLXSYS_IN_BLAS("openblas_set_num_threads"));
    *(void**)&get_num_threads = dlsym(library, MLXSYS_IN_BLAS("openblas_get_num_threads"));
    /* Its destructor takes the memory of products that other threads compute while the process ends. */
    mlxsys_never_unload_(sgemm);
  } else {
    /* The slow library that comes with libmlx. */
    sgemm = dlsym(RTLD_NEXT, "cblas_sgemm");
    dgemm = dlsym(RTLD_NEXT, "cblas_dgemm");
    cgemm = dlsym(RTLD_NEXT, "cblas_cgemm");
  }
  if (set_num_threads && wanted_threads > 0) {
    set_num_threads(wanted_threads);
  }
  is_loaded = 1;
  /* What is registered last is called first. */
  pthread_atfork(before_fork, after_fork, in_fork);
  pthread_mutex_unlock(&lock);
}

/*
 * libmlx calls these by their standard names and brings a slow library that defines them. The loader looks through
 * libraries breadth-first, so these, a level nearer to the program, are the ones it binds.
 *
 * The enum arguments of cblas.h are ints to the caller.
 */
#define MLXSYS_GEMM(name, function, scalar, pointer)                           \
  void name(                                                                   \
      int order, int trans_a, int trans_b, int m, int n, int k, scalar alpha,  \
      const pointer* a, int lda, const pointer* b, int ldb, scalar beta,       \
      pointer* c, int ldc) {                                                   \
    typedef void (*gemm)(                                                      \
        int, int, int, int, int, int, scalar, const pointer*, int,             \
        const pointer*, int, scalar, pointer*, int);                           \
    pthread_once(&once, load);                                                 \
    pthread_rwlock_rdlock(&products);                                          \
    ((gemm)function)(                                                          \
        order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c,      \
        ldc);                                                                  \
    pthread_rwlock_unlock(&products);                                          \
  }

MLXSYS_GEMM(cblas_sgemm, sgemm, float, float)
MLXSYS_GEMM(cblas_dgemm, dgemm, double, double)
MLXSYS_GEMM(cblas_cgemm, cgemm, const void*, void)

int mlxsys_blas_set_num_threads(int n) {
  if (n < 1) {
    mlx_error("[mlxsys_blas_set_num_threads] needs at least one thread");
    return 1;
  }
  pthread_mutex_lock(&lock);
  wanted_threads = n;
  if (set_num_threads) {
    set_num_threads(n);
  }
  pthread_mutex_unlock(&lock);
  return 0;
}

int mlxsys_blas_get_num_threads(int* res) {
  pthread_mutex_lock(&lock);
  const int is_set = !is_loaded && wanted_threads > 0;
  *res = wanted_threads;
  pthread_mutex_unlock(&lock);
  if (!is_set) {
    pthread_once(&once, load);
    *res = get_num_threads ? get_num_threads() : 1;
  }
  return 0;
}

#else

int mlxsys_blas_set_num_threads(int n) {
  if (n < 1) {
    mlx_error("[mlxsys_blas_set_num_threads] needs at least one thread");
    return 1;
  }
  return 0;
}

int mlxsys_blas_get_num_threads(int* res) {
  *res = 1;
  return 0;
}

#endif
