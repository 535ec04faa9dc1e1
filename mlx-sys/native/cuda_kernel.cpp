// Compiled CUDA code as an operation of MLX's CUDA backend, and the compiler that makes it.

#include "mlxsys.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#ifndef _WIN32
#include <dlfcn.h>
#endif

#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/fast.h"
#include "mlx/version.h"

namespace {

namespace mx = mlx::core;

// NVRTC as far as it is used here. A CUDA build of MLX has it loaded already; nothing is linked to it, so that the CPU
// build does without.
struct MlxsysNvrtc_ {
  using Program = struct _nvrtcProgram*;
  int (*version)(int*, int*);
  int (*create)(Program*, const char*, const char*, int, const char* const*, const char* const*);
  int (*compile)(Program, int, const char* const*);
  int (*log_size)(Program, size_t*);
  int (*log)(Program, char*);
  int (*image_size)(Program, size_t*);
  int (*image)(Program, char*);
  int (*destroy)(Program*);
  const char* (*message)(int);

  static const MlxsysNvrtc_& get() {
    static const MlxsysNvrtc_ nvrtc;
    return nvrtc;
  }

  void check(int code, const char* what) const {
    if (code != 0) {
      throw std::runtime_error(std::string("[mlxsys_cuda_compile] ") + what + ": " + message(code));
    }
  }

 private:
  MlxsysNvrtc_() {
#ifdef _WIN32
    throw std::runtime_error("[mlxsys_cuda_compile] not on this system");
#else
    const char* names[] = {"libnvrtc.so.13", "libnvrtc.so.12"};
    void* library = nullptr;
    for (int flags : {RTLD_LAZY | RTLD_NOLOAD, RTLD_LAZY}) {
      for (auto* name : names) {
        library = library ? library : dlopen(name, flags);
      }
    }
    if (!library) {
      throw std::runtime_error(
          "[mlxsys_cuda_compile] NVIDIA's compiler library, libnvrtc.so.13 or .12, can't be loaded; "
          "put its folder into LD_LIBRARY_PATH");
    }
    auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      if (!function) {
        throw std::runtime_error(std::string("[mlxsys_cuda_compile] NVIDIA's compiler library lacks ") + name);
      }
    };
    find(version, "nvrtcVersion");
    find(create, "nvrtcCreateProgram");
    find(compile, "nvrtcCompileProgram");
    find(log_size, "nvrtcGetProgramLogSize");
    find(log, "nvrtcGetProgramLog");
    find(image_size, "nvrtcGetCUBINSize");
    find(image, "nvrtcGetCUBIN");
    find(destroy, "nvrtcDestroyProgram");
    find(message, "nvrtcGetErrorString");
#endif
  }
};

} // namespace

extern "C" int mlxsys_cuda_compiler_version(int* major, int* minor) {
  try {
    auto& nvrtc = MlxsysNvrtc_::get();
    nvrtc.check(nvrtc.version(major, minor), "asking for the version");
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_compile(
    unsigned char** image,
    size_t* size,
    const char* source,
    const char* name,
    const char* const* options,
    size_t n_options) {
  try {
    if (!source || !name || (n_options > 0 && !options)) {
      throw std::invalid_argument("[mlxsys_cuda_compile] needs a source, a name and options");
    }
    auto& nvrtc = MlxsysNvrtc_::get();
    struct Owner {
      MlxsysNvrtc_::Program program{nullptr};
      ~Owner() {
        if (program) {
          MlxsysNvrtc_::get().destroy(&program);
        }
      }
    } owner;
    nvrtc.check(nvrtc.create(&owner.program, source, name, 0, nullptr, nullptr), name);
    if (nvrtc.compile(owner.program, static_cast<int>(n_options), options) != 0) {
      size_t length = 0;
      nvrtc.check(nvrtc.log_size(owner.program, &length), name);
      std::string log(length, '\0');
      nvrtc.check(nvrtc.log(owner.program, log.data()), name);
      throw std::runtime_error(std::string("[mlxsys_cuda_compile] ") + name + ": " + log.c_str());
    }
    nvrtc.check(nvrtc.image_size(owner.program, size), name);
    auto* bytes = static_cast<unsigned char*>(std::malloc(*size));
    if (!bytes) {
      throw std::bad_alloc();
    }
    if (int code = nvrtc.image(owner.program, reinterpret_cast<char*>(bytes)); code != 0) {
      std::free(bytes);
      nvrtc.check(code, name);
    }
    *image = bytes;
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" void mlxsys_cuda_image_free(unsigned char* image) {
  std::free(image);
}

// As get_jit_module() is asked for it in MLX's custom_kernel.cpp.
extern "C" int mlxsys_cuda_module_name(mlx_string* res, const char* name, const char* image, size_t size) {
  try {
    char hash[2 * sizeof(size_t) + 1];
    std::snprintf(hash, sizeof(hash), "%zx", std::hash<std::string>{}(std::string(image, size)));
    mlx_string_set_(*res, std::string(name) + "_" + hash);
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

// As ptx_cache_dir() in MLX's jit_module.cpp.
extern "C" int mlxsys_cuda_cache_dir(mlx_string* res) {
  try {
    if (auto* dir = std::getenv("MLX_PTX_CACHE_DIR")) {
      mlx_string_set_(*res, std::string(dir));
    } else {
      mlx_string_set_(*res, (std::filesystem::temp_directory_path() / "mlx" / mx::version() / "ptx").string());
    }
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_cuda_kernel(
    mlx_vector_array* res,
    const char* name,
    const char* image,
    size_t image_size,
    const mlx_vector_array inputs,
    const mlxsys_cuda_output* outputs,
    size_t n_outputs,
    const int* ints,
    size_t n_ints,
    const float* floats,
    size_t n_floats,
    const int* blocks,
    const int* threads,
    int shared_memory,
    const mlx_stream s) {
  try {
    if (!name || !image || !blocks || !threads) {
      throw std::invalid_argument("[mlxsys_cuda_kernel] needs a name, an image and a grid");
    }
    if (n_outputs == 0 || !outputs) {
      throw std::invalid_argument("[mlxsys_cuda_kernel] needs an output");
    }
    auto stream = mlx_stream_get_(s);
    if (stream.device != mx::Device::gpu) {
      throw std::invalid_argument("[mlxsys_cuda_kernel] needs a stream of a GPU, and this is one of the CPU");
    }
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    for (size_t i = 0; i < n_outputs; ++i) {
      shapes.emplace_back(outputs[i].shape, outputs[i].shape + outputs[i].ndim);
      dtypes.push_back(mlx_dtype_to_cpp(outputs[i].dtype));
    }
    std::vector<mx::fast::ScalarArg> scalars;
    scalars.insert(scalars.end(), ints, ints + n_ints);
    scalars.insert(scalars.end(), floats, floats + n_floats);
    for (int i = 0; i < 3; ++i) {
      if (blocks[i] < 1 || threads[i] < 1) {
        throw std::invalid_argument("[mlxsys_cuda_kernel] a grid without blocks or threads");
      }
    }
    // MLX wants the grid in threads.
    mlx_vector_array_set_(
        *res,
        mx::fast::precompiled_cuda_kernel(
            name,
            std::string(image, image_size),
            mlx_vector_array_get_(inputs),
            shapes,
            dtypes,
            scalars,
            {blocks[0] * threads[0], blocks[1] * threads[1], blocks[2] * threads[2]},
            {threads[0], threads[1], threads[2]},
            shared_memory,
            std::nullopt,
            /* ensure_row_contiguous */ true,
            stream));
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}
