/* What mlx-c lacks, in its style: results through the first argument, 0 for success, errors to its handler. */

#ifndef MLXSYS_H
#define MLXSYS_H

#include "mlx/c/array.h"
#include "mlx/c/stream.h"
#include "mlx/c/string.h"
#include "mlx/c/vector.h"

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
 * An input of a host kernel, while it runs.
 */
typedef struct mlxsys_host_input_ {
  /** The first element. NULL where an output is in place of this input, and allowed to be NULL where `size` is 0. */
  const void* data;
  const int* shape;
  /** Elements, not bytes, from one index to the next of each dimension. */
  const int64_t* strides;
  size_t ndim;
  /** Number of elements. */
  size_t size;
  mlx_dtype dtype;
  /** Whether the elements lie in row order without gaps. */
  bool row_contiguous;
} mlxsys_host_input;

/**
 * An output of a host kernel, while it runs: always in row order without gaps.
 */
typedef struct mlxsys_host_output_ {
  /**
   * The first element. Where the output is in place of no input, the memory is not initialised and starts at a multiple
   * of 64 bytes.
   */
  void* data;
  const int* shape;
  size_t ndim;
  /** Number of elements. */
  size_t size;
  mlx_dtype dtype;
  /** The input whose elements are here at the start, or -1. */
  int in_place_of;
} mlxsys_host_output;

/**
 * What an output of a host kernel will be.
 */
typedef struct mlxsys_host_output_spec_ {
  const int* shape;
  size_t ndim;
  mlx_dtype dtype;
  /**
   * An input of the same shape and type whose elements the output starts with, or a negative number. If nobody else
   * refers to the input by then, its memory becomes the output's; otherwise its elements are copied.
   */
  int in_place_of;
} mlxsys_host_output_spec;

/**
 * The work of a host kernel. Runs on a thread of MLX's, several at a time where there are several streams, and must
 * not throw, nor unwind, nor evaluate arrays: MLX would wait for tasks of all streams, this one among them. Everything it
 * is given lives until it returns.
 *
 * Returns 0, or another number for failure; then it may also set `message`, with mlx_string_set() or by
 * `*message = mlx_string_new_data(...)`. On success all elements of all outputs must have been written.
 */
typedef int (*mlxsys_host_kernel_func)(
    void* payload,
    const mlxsys_host_input* inputs,
    size_t n_inputs,
    const mlxsys_host_output* outputs,
    size_t n_outputs,
    mlx_string* message);

/**
 * New arrays that `run` computes from `inputs` on the CPU: the sibling of mlx_fast_metal_kernel and
 * mlx_fast_cuda_kernel. As with any operation, nothing runs before the arrays are evaluated.
 *
 * `dtor(payload)` runs exactly once: when neither a graph nor a queue holds the kernel any more, which may be on a
 * thread of MLX's, or before this function returns if it fails. A NULL `dtor` is allowed.
 *
 * A failure of `run` becomes an error of the evaluation, "[name] message", on the thread that waits for it. Operations
 * queued behind it run all the same and find zeros in its outputs (or what an input left there); the stream goes on
 * working. Don't read arrays that came out of the failed evaluation. Elsewhere than on Linux, with MLX 0.32.2: on the
 * first thread that used it, an error of a stream may cost it the count of one running task, and after ten such losses
 * every evaluation waits for ever. A callback that must fail hundreds of times there returns 0 and keeps its failure in
 * its payload.
 *
 * There are no derivatives, no vmap, no export and no shapeless compilation: MLX reports them as not implemented.
 *
 * @param name Name of the operation, for messages.
 * @param s A stream of the CPU; one of a GPU is an error.
 */
int mlxsys_host_kernel(
    mlx_vector_array* res,
    const char* name,
    const mlx_vector_array inputs,
    const mlxsys_host_output_spec* outputs,
    size_t n_outputs,
    mlxsys_host_kernel_func run,
    void* payload,
    void (*dtor)(void*),
    const mlx_stream s);

/**
 * Version of NVIDIA's run-time compiler. Fails where it can't be loaded.
 */
int mlxsys_cuda_compiler_version(int* major, int* minor);

/**
 * Compile CUDA source to code for the architecture that `options` name. Several threads may at once.
 *
 * @param image The code, to be freed with mlxsys_cuda_image_free().
 * @param size Its size in bytes.
 * @param name What messages call the source.
 */
int mlxsys_cuda_compile(
    unsigned char** image,
    size_t* size,
    const char* source,
    const char* name,
    const char* const* options,
    size_t n_options);

void mlxsys_cuda_image_free(unsigned char* image);

/**
 * A queue of kernels on a GPU that are launched at once, beside MLX's own: what it launches is not ordered with what MLX
 * does. Evaluate MLX's arrays before a queue reads them and wait for the queue before MLX reads what it wrote. One thread
 * at a time uses a queue.
 */
typedef struct mlxsys_cuda_queue_ {
  void* ctx;
} mlxsys_cuda_queue;

/**
 * Call it before anything that makes MLX allocate memory. Where nothing in this process has used a GPU yet, the stack of
 * its threads is set to 0: the driver keeps 1 KiB for each thread that the GPU can hold otherwise, 264 MiB on an H200.
 * Kernels get what they were compiled to need in any case, and none of MLX's calls itself. Without a GPU it does nothing.
 */
int mlxsys_cuda_prepare(void);

/**
 * Whether the GPU has failed for good, as after a kernel's access to memory that isn't there: all that CUDA is asked from
 * then on fails, and MLX ends the process where that happens in a destructor. If so, the process ends with its own exit
 * code from now on, without MLX's destructors. Arrays on that GPU must not be freed any more, unless into MLX's cache, and
 * a thread that has a stream there must not end.
 */
bool mlxsys_cuda_survive(void);

/**
 * A queue on the device with this index.
 */
int mlxsys_cuda_queue_new(mlxsys_cuda_queue* res, int device);

/**
 * Waits for what was launched, and unloads what was loaded.
 */
void mlxsys_cuda_queue_free(mlxsys_cuda_queue queue);

/**
 * The kernel `name` of compiled code, to be launched on this queue.
 */
int mlxsys_cuda_queue_load(
    void** function,
    mlxsys_cuda_queue queue,
    const void* image,
    const char* name,
    int shared_memory);

/**
 * How many multiprocessors the GPU has.
 */
int mlxsys_cuda_queue_multiprocessors(int* res, mlxsys_cuda_queue queue);

/**
 * A row-major matrix of bf16 that Hopper's copies read in tiles of `tile_rows` by 64, in the order of the 128-byte swizzle;
 * zeros beyond its end. It begins at a multiple of 16 bytes, and so do its rows.
 */
typedef struct mlxsys_cuda_tiles_ {
  uint64_t matrix;
  int rows;
  int columns;
  int tile_rows;
} mlxsys_cuda_tiles;

/**
 * What the driver makes of tiles (CUtensorMap), for a kernel's arguments.
 *
 * @param words Of 16, at a multiple of 64 bytes.
 */
int mlxsys_cuda_tiles_encode(uint64_t* words, const mlxsys_cuda_tiles* tiles);

/**
 * Launches a kernel whose one parameter is the struct at `arguments`. The caller answers for what it does. From compute
 * capability 9.0 on it may start while what was launched before still runs, and waits for that itself
 * (griddepcontrol.wait).
 */
int mlxsys_cuda_queue_launch(
    mlxsys_cuda_queue queue,
    void* function,
    const void* arguments,
    const int* blocks,
    int threads,
    int shared_memory);

/**
 * Copies to the GPU's memory behind what was launched before. `from` is free again when the call returns.
 */
int mlxsys_cuda_queue_write(mlxsys_cuda_queue queue, uint64_t to, const void* from, size_t size);

/**
 * Copies from the GPU's memory what all launched before have written, and waits for it.
 */
int mlxsys_cuda_queue_read(mlxsys_cuda_queue queue, void* to, uint64_t from, size_t size);

/**
 * What a product multiplies, and what it gives. Sums are of f32.
 */
typedef enum mlxsys_cuda_numbers_ {
  MLXSYS_CUDA_BF16,
  MLXSYS_CUDA_F32,
  // Gives f32.
  MLXSYS_CUDA_F16,
} mlxsys_cuda_numbers;

/**
 * out = factor * a w^T, or that added to out: row-major matrices, a of tokens x inputs, w of outputs x inputs, out of
 * tokens x outputs. Rows of a, w and out are so many numbers apart. Those of f16 are multiples of 16 bytes.
 */
typedef struct mlxsys_cuda_matmul_ {
  mlxsys_cuda_numbers numbers;
  uint64_t a;
  uint64_t w;
  uint64_t out;
  int tokens;
  int outputs;
  int inputs;
  int a_stride;
  int w_stride;
  int out_stride;
  float factor;
  bool adds;
} mlxsys_cuda_matmul;

/**
 * A product by NVIDIA's cuBLASLt, whose choice of a kernel is kept for each size.
 */
int mlxsys_cuda_queue_matmul(
    mlxsys_cuda_queue queue,
    const mlxsys_cuda_matmul* product,
    uint64_t workspace,
    size_t workspace_size);

/**
 * Waits for all that was launched.
 */
int mlxsys_cuda_queue_synchronize(mlxsys_cuda_queue queue);

/**
 * What was launched, written and multiplied on a queue, to be launched again as one.
 */
typedef struct mlxsys_cuda_graph_ {
  void* ctx;
} mlxsys_cuda_graph;

/**
 * How much a queue's graphs may write between two waits, in bytes.
 */
#define MLXSYS_CUDA_GRAPH_WRITES 4096

/**
 * From here on launches, writes and products on this queue become a graph instead of being done. It must be ended, whatever
 * they return, before anything else is asked of the queue.
 *
 * @param offset What graphs write that are launched before it and with it, in bytes.
 */
int mlxsys_cuda_graph_begin(mlxsys_cuda_queue queue, size_t offset);

/**
 * Makes the graph. Free it before the queue; `res` has to be freed also where this fails and `ctx` was set.
 */
int mlxsys_cuda_graph_end(mlxsys_cuda_graph* res, mlxsys_cuda_queue queue);

/**
 * Does all of it, behind what was launched before. One that writes at an offset of 0 waits for graphs that still run.
 *
 * @param offset As it was made with.
 * @param written What it writes this time, one write's bytes behind the other's.
 */
int mlxsys_cuda_graph_launch(
    mlxsys_cuda_graph graph,
    mlxsys_cuda_queue queue,
    size_t offset,
    const void* written,
    size_t size);

void mlxsys_cuda_graph_free(mlxsys_cuda_graph graph);

/**
 * Gives memory that is free in the GPU's default pool back to the driver.
 */
int mlxsys_cuda_queue_trim(mlxsys_cuda_queue queue);

/**
 * Where the GPU finds the elements of an evaluated array in row order. Valid as long as the array, if nobody reads it on
 * the host, which may move it.
 */
int mlxsys_cuda_array_pointer(uint64_t* res, const mlx_array array);

/**
 * New stream of the CPU that any thread may use, one at a time. Unlike mlx_stream_new_thread_unsafe(), it may be called
 * while other threads evaluate (Linux; elsewhere before the first evaluation).
 */
int mlxsys_stream_new_cpu(mlx_stream* res);

/**
 * Set how many threads the BLAS behind MLX's CPU matrix products may use, for the whole process. It doesn't load the
 * BLAS, whose threads start with the first product. Without a BLAS of ours (macOS) this does nothing.
 */
int mlxsys_blas_set_num_threads(int n);

/**
 * How many threads BLAS may use; 1 without a BLAS of ours.
 */
int mlxsys_blas_get_num_threads(int* res);

/**
 * Whether MLX's static objects stay when the process ends, so that threads may compute on the CPU until it is gone: on
 * Linux, where libmlx is a library of its own. What they hold is the system's to take back.
 */
bool mlxsys_outlives_exit(void);

/**
 * Has exit() call `quiet`, before the destructors of all that was used before this call. Where it says that threads
 * still compute, the process ends at once, with its own code and its streams written out (glibc).
 */
void mlxsys_before_exit(bool (*quiet)(void));

#ifdef __cplusplus
}
#endif

#endif
