// NVIDIA's run-time compiler.

#include "library.h"
#include "mlxsys.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "mlx/c/error.h"

namespace {

// NVRTC as far as it is used here.
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
    const MlxsysLibrary_ library(
        {"libnvrtc.so.13", "libnvrtc.so.12"},
        "[mlxsys_cuda_compile] NVIDIA's compiler library",
        "[mlxsys_cuda_compile] NVIDIA's compiler library, libnvrtc.so.13 or .12, can't be loaded; "
        "put its folder into LD_LIBRARY_PATH");
    library.find(version, "nvrtcVersion");
    library.find(create, "nvrtcCreateProgram");
    library.find(compile, "nvrtcCompileProgram");
    library.find(log_size, "nvrtcGetProgramLogSize");
    library.find(log, "nvrtcGetProgramLog");
    library.find(image_size, "nvrtcGetCUBINSize");
    library.find(image, "nvrtcGetCUBIN");
    library.find(destroy, "nvrtcDestroyProgram");
    library.find(message, "nvrtcGetErrorString");
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
