/* A fast BLAS for libmlx. */

#include <stddef.h>

#include "mlx/c/error.h"
#include "mlxsys.h"

#ifdef MLXSYS_BLAS

#define MLXSYS_PASTE_(a, b) a##b
#define MLXSYS_PASTE(a, b) MLXSYS_PASTE_(a, b)
#define MLXSYS_IN_BLAS(name) MLXSYS_PASTE(MLXSYS_BLAS_PREFIX, name)

#ifdef MLXSYS_BLAS_PREFIX

/*
 * libmlx calls these by their standard names and brings a slow library that defines them. The loader looks through
 * libraries breadth-first, so these, a level nearer to the program, are the ones it binds.
 *
 * The enum arguments of cblas.h are ints to the caller.
 */
#define MLXSYS_GEMM(name, scalar, pointer)                                     \
  void MLXSYS_IN_BLAS(name)(                                                   \
      int, int, int, int, int, int, scalar, const pointer*, int,               \
      const pointer*, int, scalar, pointer*, int);                             \
  void name(                                                                   \
      int order, int trans_a, int trans_b, int m, int n, int k, scalar alpha,  \
      const pointer* a, int lda, const pointer* b, int ldb, scalar beta,       \
      pointer* c, int ldc) {                                                   \
    MLXSYS_IN_BLAS(name)                                                       \
    (order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);   \
  }

MLXSYS_GEMM(cblas_sgemm, float, float)
MLXSYS_GEMM(cblas_dgemm, double, double)
MLXSYS_GEMM(cblas_cgemm, const void*, void)

#else
#define MLXSYS_BLAS_PREFIX
#endif

void MLXSYS_IN_BLAS(openblas_set_num_threads)(int);
int MLXSYS_IN_BLAS(openblas_get_num_threads)(void);

int mlxsys_blas_set_num_threads(int n) {
  if (n < 1) {
    mlx_error("[mlxsys_blas_set_num_threads] needs at least one thread");
    return 1;
  }
  MLXSYS_IN_BLAS(openblas_set_num_threads)(n);
  return 0;
}

int mlxsys_blas_get_num_threads(int* res) {
  *res = MLXSYS_IN_BLAS(openblas_get_num_threads)();
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
