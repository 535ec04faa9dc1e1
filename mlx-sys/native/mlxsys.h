/* What mlx-c lacks, in its style: results through the first argument, 0 for success, errors to its handler. */

#ifndef MLXSYS_H
#define MLXSYS_H

#include "mlx/c/array.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Whether mlxsys_array_new_mapped() can work with the MLX that is loaded: yes on the CPU build and on Metal, no on
 * CUDA, also for arrays of its CPU device.
 */
int mlxsys_array_can_map(bool* res);

/**
 * New array over memory of the caller's, without a copy.
 *
 * `dtor(payload)` runs exactly once: when the last array that shares the memory is gone, which may be on a thread of
 * MLX's, or before this function returns if it fails. A NULL `dtor` is allowed.
 *
 * On the CPU the eight bytes before `data` must be readable, as MLX takes them for the buffer's size. On Metal the
 * memory is taken in place where it is page-aligned and copied otherwise.
 *
 * MLX may write an operation's result into the memory of an input that nobody else refers to. Keep the array, or a
 * view of it, for as long as others made from it are in use, or the memory must be writable and yours to lose.
 *
 * @param data Start of the memory, aligned for `dtype`.
 * @param shape Shape of the array.
 * @param ndim Number of dimensions (size of `shape`).
 */
int mlxsys_array_new_mapped(
    mlx_array* res,
    const void* data,
    const int* shape,
    int ndim,
    mlx_dtype dtype,
    void* payload,
    void (*dtor)(void*));

/**
 * Set how many threads the BLAS behind MLX's CPU matrix products may use, for the whole process.
 * Without a BLAS of ours (macOS) this does nothing.
 */
int mlxsys_blas_set_num_threads(int n);

/**
 * How many threads BLAS may use; 1 without a BLAS of ours.
 */
int mlxsys_blas_get_num_threads(int* res);

#ifdef __cplusplus
}
#endif

#endif
