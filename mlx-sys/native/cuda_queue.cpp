// A queue of compiled CUDA kernels beside MLX's: launched at once, with a few microseconds each where an operation of
// MLX's takes more than ten.

#include "library.h"
#include "mlxsys.h"

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#include "mlx/c/cuda.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"

namespace {

namespace mx = mlx::core;

// The driver as far as it is used here.
struct MlxsysDriver_ {
  int (*start)(unsigned);
  int (*device_count)(int*);
  int (*context_state)(int, unsigned*, int*);
  int (*context_retain)(void**, int);
  int (*context_get)(void**);
  int (*context_set)(void*);
  int (*context_synchronize)();
  int (*stream_create)(void**, unsigned);
  int (*stream_destroy)(void*);
  int (*stream_synchronize)(void*);
  int (*capture_begin)(void*, int);
  int (*capture_end)(void*, void**);
  int (*graph_instantiate)(void**, void*, unsigned long long);
  int (*graph_destroy)(void*);
  int (*graph_upload)(void*, void*);
  int (*graph_launch)(void*, void*);
  int (*graph_exec_destroy)(void*);
  int (*module_load)(void**, const void*);
  int (*module_unload)(void*);
  int (*module_function)(void**, void*, const char*);
  int (*function_attribute)(void*, int, int);
  struct Attribute {
    int id;
    int padding;
    int value[16];
  };
  struct Config {
    unsigned blocks[3];
    unsigned threads[3];
    unsigned shared_memory;
    void* stream;
    const Attribute* attributes;
    unsigned n_attributes;
  };
  int (*limit_set)(int, size_t);
  int (*device_attribute)(int*, int, int);
  int (*pool)(void**, int);
  int (*pool_trim)(void*, size_t);
  int (*launch)(const Config*, void*, void**, void**);
  int (*encode_tiles)(
      void*, int, unsigned, void*, const uint64_t*, const uint64_t*, const unsigned*, const unsigned*, int, int, int, int);
  int (*copy_in)(uint64_t, const void*, size_t, void*);
  int (*copy_out)(void*, uint64_t, size_t, void*);
  int (*host_alloc)(void**, size_t, unsigned);
  int (*host_free)(void*);
  int (*error_string)(int, const char**);

  static const MlxsysDriver_& get() {
    static const MlxsysDriver_ driver;
    return driver;
  }

  void check(int code, const char* what) const {
    if (code != 0) {
      const char* text = nullptr;
      error_string(code, &text);
      throw std::runtime_error(
          std::string("[mlxsys_cuda_queue] ") + what + ": " + (text ? text : "error ") +
          (text ? "" : std::to_string(code)));
    }
  }

 private:
  MlxsysDriver_() {
    const MlxsysLibrary_ library(
        {"libcuda.so.1"},
        "[mlxsys_cuda_queue] NVIDIA's driver",
        "[mlxsys_cuda_queue] NVIDIA's driver, libcuda.so.1, can't be loaded");
    library.find(start, "cuInit");
    library.find(device_count, "cuDeviceGetCount");
    library.find(context_state, "cuDevicePrimaryCtxGetState");
    library.find(context_retain, "cuDevicePrimaryCtxRetain");
    library.find(context_get, "cuCtxGetCurrent");
    library.find(context_set, "cuCtxSetCurrent");
    library.find(context_synchronize, "cuCtxSynchronize");
    library.find(stream_create, "cuStreamCreate");
    library.find(stream_destroy, "cuStreamDestroy_v2");
    library.find(stream_synchronize, "cuStreamSynchronize");
    library.find(capture_begin, "cuStreamBeginCapture_v2");
    library.find(capture_end, "cuStreamEndCapture");
    library.find(graph_instantiate, "cuGraphInstantiateWithFlags");
    library.find(graph_destroy, "cuGraphDestroy");
    library.find(graph_upload, "cuGraphUpload");
    library.find(graph_launch, "cuGraphLaunch");
    library.find(graph_exec_destroy, "cuGraphExecDestroy");
    library.find(module_load, "cuModuleLoadData");
    library.find(module_unload, "cuModuleUnload");
    library.find(module_function, "cuModuleGetFunction");
    library.find(function_attribute, "cuFuncSetAttribute");
    library.find(device_attribute, "cuDeviceGetAttribute");
    library.find(limit_set, "cuCtxSetLimit");
    library.find(pool, "cuDeviceGetDefaultMemPool");
    library.find(pool_trim, "cuMemPoolTrimTo");
    library.find(launch, "cuLaunchKernelEx");
    library.find(encode_tiles, "cuTensorMapEncodeTiled");
    library.find(copy_in, "cuMemcpyHtoDAsync_v2");
    library.find(copy_out, "cuMemcpyDtoHAsync_v2");
    library.find(host_alloc, "cuMemHostAlloc");
    library.find(host_free, "cuMemFreeHost");
    library.find(error_string, "cuGetErrorString");
  }
};

// cuBLASLt as far as it is used here, with the numbers of its header.
struct MlxsysBlas_ {
  struct Heuristic {
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
  };
  int (*create)(void**);
  int (*destroy)(void*);
  int (*desc_create)(void**, int, int);
  int (*desc_destroy)(void*);
  int (*desc_set)(void*, int, const void*, size_t);
  int (*layout_create)(void**, int, uint64_t, uint64_t, int64_t);
  int (*layout_destroy)(void*);
  int (*preference_create)(void**);
  int (*preference_destroy)(void*);
  int (*preference_set)(void*, int, const void*, size_t);
  int (*heuristic)(void*, void*, void*, void*, void*, void*, void*, int, Heuristic*, int*);
  int (*matmul)(
      void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*, void*, void*,
      void*, const void*, void*, size_t, void*);

  static const MlxsysBlas_& get() {
    static const MlxsysBlas_ blas;
    return blas;
  }

  static void check(int code, const char* what) {
    if (code != 0) {
      throw std::runtime_error(
          std::string("[mlxsys_cuda_queue_matmul] ") + what + ": cuBLASLt says " + std::to_string(code));
    }
  }

 private:
  MlxsysBlas_() {
    const MlxsysLibrary_ library(
        {"libcublasLt.so.13", "libcublasLt.so.12"},
        "[mlxsys_cuda_queue_matmul] cuBLASLt",
        "[mlxsys_cuda_queue_matmul] NVIDIA's libcublasLt.so.13 or .12 can't be loaded; "
        "put its folder into LD_LIBRARY_PATH");
    library.find(create, "cublasLtCreate");
    library.find(destroy, "cublasLtDestroy");
    library.find(desc_create, "cublasLtMatmulDescCreate");
    library.find(desc_destroy, "cublasLtMatmulDescDestroy");
    library.find(desc_set, "cublasLtMatmulDescSetAttribute");
    library.find(layout_create, "cublasLtMatrixLayoutCreate");
    library.find(layout_destroy, "cublasLtMatrixLayoutDestroy");
    library.find(preference_create, "cublasLtMatmulPreferenceCreate");
    library.find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    library.find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    library.find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    library.find(matmul, "cublasLtMatmul");
  }
};

// A product of one size, chosen.
struct MlxsysProduct_ {
  void* desc{nullptr};
  void* w{nullptr};
  void* a{nullptr};
  void* out{nullptr};
  MlxsysBlas_::Heuristic chosen{};

  MlxsysProduct_(void* handle, const mlxsys_cuda_matmul& of, size_t workspace) {
    auto& blas = MlxsysBlas_::get();
    constexpr int compute_32f = 68, r_32f = 0, r_16f = 2, r_16bf = 14;
    constexpr int transpose_a = 3, op_t = 1, most_workspace = 1;
    constexpr int alignments[4] = {5, 6, 7, 8};  // of w, of a, and of out, read and written
    const int type = of.numbers == MLXSYS_CUDA_BF16 ? r_16bf : of.numbers == MLXSYS_CUDA_F16 ? r_16f : r_32f;
    const int out_type = of.numbers == MLXSYS_CUDA_F16 ? r_32f : type;
    blas.check(blas.desc_create(&desc, compute_32f, r_32f), "a product");
    blas.check(blas.desc_set(desc, transpose_a, &op_t, sizeof(op_t)), "a product");
    // It thinks in columns: out^T = w a^T.
    blas.check(blas.layout_create(&w, type, of.inputs, of.outputs, of.w_stride), "a matrix");
    blas.check(blas.layout_create(&a, type, of.inputs, of.tokens, of.a_stride), "a matrix");
    blas.check(blas.layout_create(&out, out_type, of.outputs, of.tokens, of.out_stride), "a matrix");
    void* preference = nullptr;
    blas.check(blas.preference_create(&preference), "a preference");
    blas.preference_set(preference, most_workspace, &workspace, sizeof(workspace));
    // What is a part of something larger may begin anywhere in it.
    const bool whole = of.out_stride == of.outputs && of.a_stride == of.inputs && of.w_stride == of.inputs;
    if (!whole) {
      const uint32_t bytes = 16;
      for (int alignment : alignments) {
        blas.preference_set(preference, alignment, &bytes, sizeof(bytes));
      }
    }
    int found = 0;
    int code = blas.heuristic(handle, desc, w, a, out, out, preference, 1, &chosen, &found);
    blas.preference_destroy(preference);
    blas.check(code, "choosing a kernel");
    if (found == 0) {
      throw std::runtime_error("[mlxsys_cuda_queue_matmul] cuBLASLt has no kernel for the product");
    }
  }

  MlxsysProduct_(const MlxsysProduct_&) = delete;
  MlxsysProduct_& operator=(const MlxsysProduct_&) = delete;

  ~MlxsysProduct_() {
    auto& blas = MlxsysBlas_::get();
    for (auto* layout : {w, a, out}) {
      if (layout) {
        blas.layout_destroy(layout);
      }
    }
    if (desc) {
      blas.desc_destroy(desc);
    }
  }
};

// Memory of the host that the GPU copies from by itself.
struct MlxsysPinned_ {
  char* memory{nullptr};
  size_t size{0};

  void reserve(size_t bytes) {
    release();
    auto& driver = MlxsysDriver_::get();
    void* found = nullptr;
    driver.check(driver.host_alloc(&found, bytes, 0), "no memory of the host");
    memory = static_cast<char*>(found);
    size = bytes;
  }

  void release() {
    if (memory) {
      MlxsysDriver_::get().host_free(memory);
      memory = nullptr;
      size = 0;
    }
  }
};

struct MlxsysQueue_ {
  void* context{nullptr};
  void* stream{nullptr};
  int device;
  int major{0};
  int multiprocessors{0};
  std::vector<void*> modules;
  // What lies before `used` may be under way.
  MlxsysPinned_ staging;
  size_t used{0};
  // What graphs write, those of one pass behind one another. Passes take turns.
  MlxsysPinned_ of_graphs;
  bool graphs_run{false};
  // While what is launched becomes a graph instead: how much of it lies before the next write.
  bool records{false};
  size_t recorded{0};
  void* blas{nullptr};
  std::map<std::array<int, 7>, std::unique_ptr<MlxsysProduct_>> products;

  explicit MlxsysQueue_(int index) : device(index) {
    auto& driver = MlxsysDriver_::get();
    driver.check(driver.context_retain(&context, device), "no context");
    driver.check(driver.context_set(context), "no context");
    constexpr int multiprocessor_count = 16, compute_capability_major = 75;
    driver.check(driver.device_attribute(&multiprocessors, multiprocessor_count, device), "no device");
    driver.check(driver.device_attribute(&major, compute_capability_major, device), "no device");
    constexpr unsigned non_blocking = 1;
    driver.check(driver.stream_create(&stream, non_blocking), "no stream");
  }

  ~MlxsysQueue_() {
    auto& driver = MlxsysDriver_::get();
    driver.context_set(context);
    driver.stream_synchronize(stream);
    products.clear();
    if (blas) {
      MlxsysBlas_::get().destroy(blas);
    }
    for (auto* module : modules) {
      driver.module_unload(module);
    }
    staging.release();
    of_graphs.release();
    driver.stream_destroy(stream);
    // The context is the process's, as MLX uses it too.
  }

  MlxsysProduct_& product(const mlxsys_cuda_matmul& of, size_t workspace) {
    auto& library = MlxsysBlas_::get();
    if (!blas) {
      library.check(library.create(&blas), "starting");
    }
    constexpr size_t most = 4096;
    if (products.size() >= most) {
      products.clear();
    }
    auto& known =
        products[{of.numbers, of.tokens, of.outputs, of.inputs, of.a_stride, of.w_stride, of.out_stride}];
    if (!known) {
      known = std::make_unique<MlxsysProduct_>(blas, of, workspace);
    }
    return *known;
  }

  void synchronize() {
    auto& driver = MlxsysDriver_::get();
    driver.check(driver.stream_synchronize(stream), "a kernel failed");
    used = 0;
    graphs_run = false;
  }

  static constexpr size_t line = 256;

  char* stage(size_t bytes) {
    if (used + bytes > staging.size) {
      synchronize();
      if (bytes > staging.size) {
        staging.reserve((2 * bytes + 0xffff) / 0x10000 * 0x10000);
      }
    }
    char* at = staging.memory + used;
    used += (bytes + line - 1) / line * line;
    used = used < staging.size ? used : staging.size;
    return at;
  }

  // Where a graph that is being recorded will find what it writes next.
  char* stage_recorded(size_t bytes) {
    if (recorded + bytes > of_graphs.size) {
      throw std::runtime_error("[mlxsys_cuda_graph] it writes too much");
    }
    char* at = of_graphs.memory + recorded;
    recorded += bytes;
    return at;
  }
};

// How MLX's CUDA allocator describes memory (cu::CudaBuffer in its allocator.h).
struct MlxsysCudaBuffer_ {
  void* data;
  size_t size;
  int device;
};

MlxsysQueue_& mlxsys_queue_(mlxsys_cuda_queue queue) {
  if (!queue.ctx) {
    throw std::invalid_argument("[mlxsys_cuda_queue] no queue");
  }
  return *static_cast<MlxsysQueue_*>(queue.ctx);
}

} // namespace

extern "C" int mlxsys_cuda_prepare(void) {
  try {
    bool cuda = false;
    if (mlx_cuda_is_available(&cuda) != 0 || !cuda) {
      return 0;
    }
    auto& driver = MlxsysDriver_::get();
    driver.check(driver.start(0), "no driver");
    int devices = 0;
    driver.check(driver.device_count(&devices), "no device");
    struct Current {
      void* context{nullptr};
      ~Current() {
        MlxsysDriver_::get().context_set(context);
      }
    } current;
    driver.check(driver.context_get(&current.context), "no context");
    for (int device = 0; device < devices; ++device) {
      unsigned flags = 0;
      int active = 0;
      void* context = nullptr;
      driver.check(driver.context_state(device, &flags, &active), "no context");
      // With work already recorded in it a smaller stack makes that work fail, with an error that nothing recovers from.
      if (!active) {
        driver.check(driver.context_retain(&context, device), "no context");
        driver.check(driver.context_set(context), "no context");
        constexpr int stack_size = 0;
        driver.check(driver.limit_set(stack_size, 0), "no smaller stack");
      }
    }
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" bool mlxsys_cuda_survive(void) {
  try {
    bool cuda = false;
    if (mlx_cuda_is_available(&cuda) != 0 || !cuda) {
      return false;
    }
    auto& driver = MlxsysDriver_::get();
    void* context = nullptr;
    if (driver.context_get(&context) != 0 || !context) {
      return false;
    }
    // Other errors, such as a lack of memory, leave the context in order.
    constexpr int uncorrectable_memory = 214, illegal_address = 700, launch_failed = 719;
    const int code = driver.context_synchronize();
    if (code != uncorrectable_memory && (code < illegal_address || code > launch_failed)) {
      return false;
    }
    static const bool prepared = []() {
#ifdef __GLIBC__
      on_exit(
          [](int status, void*) {
            std::fflush(nullptr);
            _exit(status);
          },
          nullptr);
#endif
      return true;
    }();
    return prepared;
  } catch (std::exception&) {
    return false;
  }
}

extern "C" int mlxsys_cuda_queue_new(mlxsys_cuda_queue* res, int device) {
  try {
    res->ctx = new MlxsysQueue_(device);
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" void mlxsys_cuda_queue_free(mlxsys_cuda_queue queue) {
  delete static_cast<MlxsysQueue_*>(queue.ctx);
}

extern "C" int mlxsys_cuda_queue_load(
    void** function,
    mlxsys_cuda_queue queue,
    const void* image,
    const char* name,
    int shared_memory) {
  try {
    auto& q = mlxsys_queue_(queue);
    auto& driver = MlxsysDriver_::get();
    driver.check(driver.context_set(q.context), "no context");
    void* module = nullptr;
    driver.check(driver.module_load(&module, image), name);
    q.modules.push_back(module);
    driver.check(driver.module_function(function, module, name), name);
    constexpr int without_asking = 48000, max_dynamic_shared_size = 8;
    if (shared_memory > without_asking) {
      driver.check(driver.function_attribute(*function, max_dynamic_shared_size, shared_memory), name);
    }
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_queue_multiprocessors(int* res, mlxsys_cuda_queue queue) {
  try {
    *res = mlxsys_queue_(queue).multiprocessors;
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_tiles_encode(uint64_t* words, const mlxsys_cuda_tiles* tiles) {
  try {
    constexpr int bfloat16 = 9, swizzle_128_bytes = 3, promote_to_256_bytes = 3;
    constexpr unsigned columns = 64;
    const uint64_t sizes[2] = {static_cast<uint64_t>(tiles->columns), static_cast<uint64_t>(tiles->rows)};
    const uint64_t row_bytes[1] = {sizes[0] * 2};
    const unsigned tile[2] = {columns, static_cast<unsigned>(tiles->tile_rows)}, every[2] = {1, 1};
    auto& driver = MlxsysDriver_::get();
    driver.check(
        driver.encode_tiles(
            words,
            bfloat16,
            2,
            reinterpret_cast<void*>(tiles->matrix),
            sizes,
            row_bytes,
            tile,
            every,
            0,
            swizzle_128_bytes,
            promote_to_256_bytes,
            0),
        "tiles of a matrix");
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_queue_launch(
    mlxsys_cuda_queue queue,
    void* function,
    const void* arguments,
    const int* blocks,
    int threads,
    int shared_memory) {
  try {
    auto& q = mlxsys_queue_(queue);
    void* parameters[] = {const_cast<void*>(arguments)};
    constexpr int programmatic_stream_serialization = 6;
    const MlxsysDriver_::Attribute early{programmatic_stream_serialization, 0, {1}};
    const MlxsysDriver_::Config config{
        {static_cast<unsigned>(blocks[0]), static_cast<unsigned>(blocks[1]), static_cast<unsigned>(blocks[2])},
        {static_cast<unsigned>(threads), 1, 1},
        static_cast<unsigned>(shared_memory),
        q.stream,
        &early,
        q.major >= 9 ? 1u : 0u};
    auto& driver = MlxsysDriver_::get();
    driver.check(driver.launch(&config, function, parameters, nullptr), "a launch");
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_queue_write(mlxsys_cuda_queue queue, uint64_t to, const void* from, size_t size) {
  try {
    auto& q = mlxsys_queue_(queue);
    auto& driver = MlxsysDriver_::get();
    driver.check(driver.context_set(q.context), "no context");
    char* staged = q.records ? q.stage_recorded(size) : q.stage(size);
    if (!q.records) {
      std::memcpy(staged, from, size);
    }
    driver.check(driver.copy_in(to, staged, size, q.stream), "a copy to the GPU");
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_queue_read(mlxsys_cuda_queue queue, void* to, uint64_t from, size_t size) {
  try {
    auto& q = mlxsys_queue_(queue);
    auto& driver = MlxsysDriver_::get();
    char* staged = q.stage(size);
    driver.check(driver.copy_out(staged, from, size, q.stream), "a copy from the GPU");
    q.synchronize();
    std::memcpy(to, staged, size);
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_queue_matmul(
    mlxsys_cuda_queue queue,
    const mlxsys_cuda_matmul* of,
    uint64_t workspace,
    size_t workspace_size) {
  try {
    auto& q = mlxsys_queue_(queue);
    auto& product = q.product(*of, workspace_size);
    auto pointer = [](uint64_t address) { return reinterpret_cast<void*>(address); };
    const float added = of->adds ? 1 : 0;
    auto& blas = MlxsysBlas_::get();
    blas.check(
        blas.matmul(
            q.blas,
            product.desc,
            &of->factor,
            pointer(of->w),
            product.w,
            pointer(of->a),
            product.a,
            &added,
            pointer(of->out),
            product.out,
            pointer(of->out),
            product.out,
            product.chosen.algorithm,
            pointer(workspace),
            workspace_size,
            q.stream),
        "a product");
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_graph_begin(mlxsys_cuda_queue queue, size_t offset) {
  try {
    auto& q = mlxsys_queue_(queue);
    auto& driver = MlxsysDriver_::get();
    driver.check(driver.context_set(q.context), "no context");
    if (!q.of_graphs.memory) {
      q.of_graphs.reserve(MLXSYS_CUDA_GRAPH_WRITES);
    }
    // Other threads, and MLX on other streams, go on allocating memory meanwhile.
    constexpr int relaxed = 2;
    driver.check(driver.capture_begin(q.stream, relaxed), "a graph");
    q.records = true;
    q.recorded = offset;
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_graph_end(mlxsys_cuda_graph* res, mlxsys_cuda_queue queue) {
  try {
    auto& q = mlxsys_queue_(queue);
    auto& driver = MlxsysDriver_::get();
    q.records = false;
    void* graph = nullptr;
    driver.check(driver.capture_end(q.stream, &graph), "a graph");
    void* made = nullptr;
    const int code = driver.graph_instantiate(&made, graph, 0);
    driver.graph_destroy(graph);
    driver.check(code, "a graph");
    res->ctx = made;
    driver.check(driver.graph_upload(made, q.stream), "a graph");
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_graph_launch(
    mlxsys_cuda_graph graph,
    mlxsys_cuda_queue queue,
    size_t offset,
    const void* written,
    size_t size) {
  try {
    auto& q = mlxsys_queue_(queue);
    auto& driver = MlxsysDriver_::get();
    driver.check(driver.context_set(q.context), "no context");
    if (!graph.ctx || offset > q.of_graphs.size || size > q.of_graphs.size - offset) {
      throw std::invalid_argument("[mlxsys_cuda_graph] no graph of this queue");
    }
    if (offset == 0 && size > 0 && q.graphs_run) {
      q.synchronize();
    }
    std::memcpy(q.of_graphs.memory + offset, written, size);
    q.graphs_run = true;
    driver.check(driver.graph_launch(graph.ctx, q.stream), "a launch");
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" void mlxsys_cuda_graph_free(mlxsys_cuda_graph graph) {
  if (graph.ctx) {
    MlxsysDriver_::get().graph_exec_destroy(graph.ctx);
  }
}

extern "C" int mlxsys_cuda_queue_synchronize(mlxsys_cuda_queue queue) {
  try {
    mlxsys_queue_(queue).synchronize();
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_queue_trim(mlxsys_cuda_queue queue) {
  try {
    auto& q = mlxsys_queue_(queue);
    q.synchronize();
    auto& driver = MlxsysDriver_::get();
    void* pool = nullptr;
    driver.check(driver.pool(&pool, q.device), "no pool of memory");
    driver.check(driver.pool_trim(pool, 0), "giving memory back");
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_array_pointer(uint64_t* res, const mlx_array array) {
  try {
    bool cuda = false;
    if (mlx_cuda_is_available(&cuda) != 0 || !cuda) {
      throw std::runtime_error("[mlxsys_cuda_array_pointer] this is not MLX's CUDA build");
    }
    auto& a = mlx_array_get_(array);
    if (!a.data_shared_ptr() || !a.flags().row_contiguous) {
      throw std::invalid_argument("[mlxsys_cuda_array_pointer] not evaluated, or not in row order");
    }
    auto* buffer = static_cast<const MlxsysCudaBuffer_*>(a.buffer().ptr());
    constexpr int devices = 1024;
    if (!buffer || buffer->device < -1 || buffer->device > devices || buffer->size < a.nbytes() + a.offset()) {
      throw std::runtime_error("[mlxsys_cuda_array_pointer] this build of MLX describes its memory another way");
    }
    *res = reinterpret_cast<uint64_t>(buffer->data) + a.offset();
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}
