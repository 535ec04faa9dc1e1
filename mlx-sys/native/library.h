/* A library of NVIDIA's that is found at run time: nothing is linked to it, so that MLX's CPU build does without. */

#ifndef MLXSYS_LIBRARY_H
#define MLXSYS_LIBRARY_H

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#ifndef _WIN32
#include <dlfcn.h>
#endif

class MlxsysLibrary_ {
 public:
  /* The first of `names` that is loaded already, as in a CUDA build of MLX, else the first that can be. `what` begins the
     message of a function that it lacks, `missing` is the message where there is none. */
  MlxsysLibrary_(std::initializer_list<const char*> names, std::string what, const char* missing)
      : what_(std::move(what)) {
#ifdef _WIN32
    throw std::runtime_error(what_ + " is not looked for on this system");
#else
    for (int flags : {RTLD_LAZY | RTLD_NOLOAD, RTLD_LAZY}) {
      for (auto* name : names) {
        handle_ = handle_ ? handle_ : dlopen(name, flags);
      }
    }
    if (!handle_) {
      throw std::runtime_error(missing);
    }
#endif
  }

  template <typename Function>
  void find(Function& function, const char* name) const {
#ifndef _WIN32
    function = reinterpret_cast<std::decay_t<Function>>(dlsym(handle_, name));
#endif
    if (!function) {
      throw std::runtime_error(what_ + " lacks " + name);
    }
  }

 private:
  std::string what_;
  void* handle_{nullptr};
};

#endif
