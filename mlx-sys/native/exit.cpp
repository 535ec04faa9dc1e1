// Threads that compute while the process ends.
//
// exit() runs the destructors of libraries while other threads go on. MLX's threads, and whoever uses MLX, then find its
// tables and its allocator gone. Nothing that these destructors do outlasts the process, so they don't run.
//
// When a thread ends, what MLX has of it is destroyed last, since other objects of the thread may use it until then.

#include "mlxsys.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <utility>

#include <unistd.h>

#ifdef __linux__

#include <cstring>

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>

#include "mlx/backend/gpu/device_info.h"
#include "mlx/version.h"

namespace {

std::atomic<bool> mlxsys_keeps_mlx_{false};

// Takes the place of __cxa_atexit(): there is nothing to be called.
int mlxsys_never_(void (*)(void*), void*, void*) {
  return 0;
}

std::atomic<bool> mlxsys_ends_{false};
std::atomic<int> mlxsys_ending_threads_{0};

// A thread of MLX's. On CUDA one stands behind each stream of a thread's. It is told to end when that thread does, nobody
// waits for it, and it takes streams and events of its own along: MLX ends the process where the driver is gone by then.
// So what it has is destroyed before the process ends, or not at all.
struct MlxsysThread_ : std::thread::_State {
  std::thread::_State_ptr state;

  explicit MlxsysThread_(std::thread::_State_ptr state) : state(std::move(state)) {}

  void _M_run() override {
    state->_M_run();
    ++mlxsys_ending_threads_;
    if (mlxsys_ends_) {
      --mlxsys_ending_threads_;
      for (;;) {
        pause();
      }
    }
    state.reset();
    --mlxsys_ending_threads_;
  }
};

constexpr const char* mlxsys_start_thread_name_ =
    "_ZNSt6thread15_M_start_threadESt10unique_ptrINS_6_StateESt14default_deleteIS1_EEPFvvE";

// Takes the place of std::thread's own function that starts it.
void mlxsys_start_thread_(std::thread* thread, std::thread::_State_ptr state, void (*depends)()) {
  using Start = void (*)(std::thread*, std::thread::_State_ptr, void (*)());
  auto start = reinterpret_cast<Start>(dlsym(RTLD_DEFAULT, mlxsys_start_thread_name_));
  start(thread, std::make_unique<MlxsysThread_>(std::move(state)), depends);
}

struct MlxsysRange_ {
  ElfW(Addr) place;
  bool is_read_only;
};

// Whether the loader made `place` read-only once it had filled it in.
int mlxsys_look_for_relro_(dl_phdr_info* library, size_t, void* data) {
  auto* range = static_cast<MlxsysRange_*>(data);
  const ElfW(Addr) page = sysconf(_SC_PAGESIZE);
  for (int i = 0; i < library->dlpi_phnum; ++i) {
    auto& header = library->dlpi_phdr[i];
    if (header.p_type == PT_GNU_RELRO) {
      const ElfW(Addr) start = library->dlpi_addr + header.p_vaddr;
      const ElfW(Addr) end = (start + header.p_memsz) / page * page;
      if (range->place >= start / page * page && range->place < end) {
        range->is_read_only = true;
        return 1;
      }
    }
  }
  return 0;
}

bool mlxsys_write_word_(ElfW(Addr) place, ElfW(Addr) value) {
  MlxsysRange_ range{place, false};
  dl_iterate_phdr(mlxsys_look_for_relro_, &range);
  const ElfW(Addr) page = sysconf(_SC_PAGESIZE);
  // A word lies within a page, as it is aligned.
  auto* start = reinterpret_cast<void*>(place / page * page);
  if (range.is_read_only && mprotect(start, page, PROT_READ | PROT_WRITE) != 0) {
    return false;
  }
  __atomic_store_n(reinterpret_cast<ElfW(Addr)*>(place), value, __ATOMIC_RELEASE);
  if (range.is_read_only) {
    mprotect(start, page, PROT_READ);
  }
  return true;
}

// The dynamic section of the library that `address` lies in.
const link_map* mlxsys_library_of_(const void* address) {
  Dl_info info{};
  link_map* map = nullptr;
  const bool found = dladdr1(address, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) != 0;
  return found ? map : nullptr;
}

// An address in a dynamic section, which not every loader has relocated.
ElfW(Addr) mlxsys_relocated_(const link_map* map, ElfW(Addr) address) {
  return address < map->l_addr ? map->l_addr + address : address;
}

// Has the library call `with` where it calls a function of another library.
bool mlxsys_replace_(const link_map* map, const char* function, const void* with) {
  ElfW(Addr) symbols = 0, strings = 0, tables[2] = {0, 0};
  size_t sizes[2] = {0, 0};
  for (auto* entry = map->l_ld; entry->d_tag != DT_NULL; ++entry) {
    switch (entry->d_tag) {
      case DT_SYMTAB:
        symbols = mlxsys_relocated_(map, entry->d_un.d_ptr);
        break;
      case DT_STRTAB:
        strings = mlxsys_relocated_(map, entry->d_un.d_ptr);
        break;
      case DT_JMPREL:
        tables[0] = mlxsys_relocated_(map, entry->d_un.d_ptr);
        break;
      case DT_PLTRELSZ:
        sizes[0] = entry->d_un.d_val;
        break;
      case DT_RELA:
        tables[1] = mlxsys_relocated_(map, entry->d_un.d_ptr);
        break;
      case DT_RELASZ:
        sizes[1] = entry->d_un.d_val;
        break;
    }
  }
  if (!symbols || !strings) {
    return false;
  }
  bool done = false;
  for (int i = 0; i < 2; ++i) {
    auto* relocations = reinterpret_cast<const ElfW(Rela)*>(tables[i]);
    for (size_t k = 0; relocations && k < sizes[i] / sizeof(ElfW(Rela)); ++k) {
      auto& symbol = reinterpret_cast<const ElfW(Sym)*>(symbols)[ELF64_R_SYM(relocations[k].r_info)];
      auto* name = reinterpret_cast<const char*>(strings) + symbol.st_name;
      if (std::strcmp(name, function) == 0) {
        if (!mlxsys_write_word_(map->l_addr + relocations[k].r_offset, reinterpret_cast<ElfW(Addr)>(with))) {
          return false;
        }
        done = true;
      }
    }
  }
  return done;
}

// What MLX has of a thread's, to be destroyed at its end.
struct MlxsysLast_ {
  void (*destroy)(void*);
  void* object;
  MlxsysLast_* before;
};

pthread_key_t mlxsys_last_;

void mlxsys_destroy_last_(void* last) {
  for (auto* next = static_cast<MlxsysLast_*>(last); next;) {
    next->destroy(next->object);
    delete std::exchange(next, next->before);
  }
}

extern "C" int __cxa_thread_atexit(void (*)(void*), void*, void*);

// Takes the place of __cxa_thread_atexit(). A thread's objects are destroyed in the reverse order of their making, and
// those that were there before MLX's may use MLX in their destructors: so MLX's are destroyed behind all others. With a
// GPU they keep their place, which is between what surrounds them with a turn there.
int mlxsys_at_thread_end_(void (*destroy)(void*), void* object, void* library) {
  if (mlx::core::gpu::is_available()) {
    return __cxa_thread_atexit(destroy, object, library);
  }
  auto* before = static_cast<MlxsysLast_*>(pthread_getspecific(mlxsys_last_));
  auto* last = new (std::nothrow) MlxsysLast_{destroy, object, before};
  if (!last || pthread_setspecific(mlxsys_last_, last) != 0) {
    // Then it is not destroyed at all.
    delete last;
  }
  return 0;
}

// When this library is loaded nothing has used MLX yet, so none of its static objects that matter is there.
__attribute__((constructor)) void mlxsys_keep_mlx_() {
  auto* map = mlxsys_library_of_(reinterpret_cast<const void*>(&mlx::core::version));
  if (!map) {
    return;
  }
  // An object with static storage that is made from now on is never destroyed.
  mlxsys_keeps_mlx_ = mlxsys_replace_(map, "__cxa_atexit", reinterpret_cast<const void*>(&mlxsys_never_));
  if (pthread_key_create(&mlxsys_last_, mlxsys_destroy_last_) == 0) {
    mlxsys_replace_(map, "__cxa_thread_atexit", reinterpret_cast<const void*>(&mlxsys_at_thread_end_));
  }
  if (dlsym(RTLD_DEFAULT, mlxsys_start_thread_name_)) {
    mlxsys_replace_(map, mlxsys_start_thread_name_, reinterpret_cast<const void*>(&mlxsys_start_thread_));
  }
}

} // namespace

// Whether no thread of MLX's is ending, nor will. Without a lock, as a handler of a signal may ask.
bool mlxsys_threads_stay_() {
  mlxsys_ends_ = true;
  for (int waited = 0; mlxsys_ending_threads_ > 0; ++waited) {
    if (waited == 50) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

extern "C" bool mlxsys_outlives_exit(void) {
  return mlxsys_keeps_mlx_;
}

extern "C" __attribute__((visibility("hidden"))) void mlxsys_never_unload_(const void* address) {
  auto* map = mlxsys_library_of_(address);
  if (!map) {
    return;
  }
  for (auto* entry = map->l_ld; entry->d_tag != DT_NULL; ++entry) {
    if (entry->d_tag == DT_FINI_ARRAYSZ) {
      mlxsys_write_word_(reinterpret_cast<ElfW(Addr)>(&entry->d_un.d_val), 0);
    }
  }
}

#else

static bool mlxsys_threads_stay_() {
  return true;
}

extern "C" bool mlxsys_outlives_exit(void) {
  return false;
}

#endif

namespace {

std::atomic<bool (*)(void)> mlxsys_quiet_{nullptr};

#ifdef __GLIBC__
void mlxsys_leave_(int status, void*) {
  auto quiet = mlxsys_quiet_.load();
  if (quiet && !(quiet() && mlxsys_threads_stay_())) {
    std::fflush(nullptr);
    _exit(status);
  }
}
#else
void mlxsys_leave_() {
  auto quiet = mlxsys_quiet_.load();
  if (quiet) {
    quiet();
  }
}
#endif

} // namespace

extern "C" void mlxsys_before_exit(bool (*quiet)(void)) {
  mlxsys_quiet_ = quiet;
#ifdef __GLIBC__
  on_exit(mlxsys_leave_, nullptr);
#else
  std::atexit(mlxsys_leave_);
#endif
}
