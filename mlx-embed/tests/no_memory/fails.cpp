// Makes allocations of MLX's bookkeeping (operator new) fail. Preloaded by the tests in no_memory.rs:
//
//     FAILS_STEP=3    the first, the 4th, the 7th ... since MLX was first used, each in a process of its own
//
// When MLX's handler of errors is set, the first thing that is done with MLX, the process forks for each of them and
// prints, for each, which it was and how the process ended, as waitpid() says. The last is one that there was not.

#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>

static std::atomic<long> nth{0};
static std::atomic<long> calls{0};
static std::atomic<int>* fired;

void* operator new(std::size_t size) {
  if (nth > 0 && ++calls == nth) {
    *fired = 1;
    throw std::bad_alloc();
  }
  if (void* memory = std::malloc(size ? size : 1)) {
    return memory;
  }
  throw std::bad_alloc();
}

// Comes back in each of the processes.
static void fork_for_each(long step) {
  void* shared = mmap(nullptr, sizeof(*fired), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  fired = new (shared) std::atomic<int>(1);
  for (long n = 1; *fired; n += step) {
    *fired = 0;
    std::fflush(nullptr);
    const pid_t process = fork();
    if (process == 0) {
      // It hangs.
      alarm(120);
      nth = n;
      return;
    }
    int status = -1;
    waitpid(process, &status, 0);
    std::printf("allocation %ld: %d\n", n, status);
  }
  std::fflush(nullptr);
  _exit(0);
}

extern "C" void mlx_set_error_handler(void (*handler)(const char*, void*), void* data, void (*drop)(void*)) {
  using Set = void (*)(void (*)(const char*, void*), void*, void (*)(void*));
  reinterpret_cast<Set>(dlsym(RTLD_NEXT, "mlx_set_error_handler"))(handler, data, drop);
  if (auto* step = std::getenv("FAILS_STEP")) {
    fork_for_each(std::atol(step));
  }
}
