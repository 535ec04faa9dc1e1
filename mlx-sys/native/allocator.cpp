// MLX's CPU allocator hands out what malloc() returned, NULL included, and its operations write to it.

#ifdef __linux__

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <typeinfo>

#include "mlx/allocator.h"
#include "tasks.h"

namespace {

namespace allocator = mlx::core::allocator;

std::shared_mutex* mlxsys_make_allocator_mutex_();

// Kept from being locked in a fork; the allocator's own mutex is only ever locked while this one is shared. Made as this
// library is loaded: a fork would wait for ever for another thread to have made it.
std::shared_mutex& mlxsys_allocator_mutex_ = *mlxsys_make_allocator_mutex_();

std::shared_mutex* mlxsys_make_allocator_mutex_() {
  pthread_atfork(
      []() { mlxsys_allocator_mutex_.lock(); },
      []() { mlxsys_allocator_mutex_.unlock(); },
      []() { new (&mlxsys_allocator_mutex_) std::shared_mutex; });
  return new std::shared_mutex;
}

[[noreturn]] void mlxsys_no_memory_(size_t size) {
  throw std::runtime_error("[malloc] no memory for " + std::to_string(size) + " bytes");
}

// Another allocator whose failures are exceptions, as those of MLX's allocators for GPUs are.
class MlxsysAllocator_ : public allocator::Allocator {
 public:
  explicit MlxsysAllocator_(allocator::Allocator& real) : real_(real) {}

  allocator::Buffer malloc(size_t size) override {
    // The allocator adds a word to it.
    if (size > std::numeric_limits<size_t>::max() / 2) {
      mlxsys_no_memory_(size);
    }
    // The allocator counts a size as in use before it knows whether there is memory for it, and the count would stay.
    // So what may well fail is tried first. No page of it is touched.
    constexpr size_t large = 1 << 20;
    if (size >= large) {
      void* volatile tried = std::malloc(size);
      if (!tried) {
        mlxsys_no_memory_(size);
      }
      std::free(tried);
    }
    auto buffer = [&]() {
      std::shared_lock lock(mlxsys_allocator_mutex_);
      return real_.malloc(size);
    }();
    if (!buffer.ptr()) {
      mlxsys_no_memory_(size);
    }
    return buffer;
  }

  void free(allocator::Buffer buffer) override {
    // An operation that fails half-way lets go of copies which tasks that it has begun still write.
    if (std::uncaught_exceptions() > 0) {
      mlxsys_settle_();
    }
    std::shared_lock lock(mlxsys_allocator_mutex_);
    real_.free(buffer);
  }

  size_t size(allocator::Buffer buffer) const override {
    return real_.size(buffer);
  }

  allocator::Buffer make_buffer(void* data, size_t size) override {
    return real_.make_buffer(data, size);
  }

  void release(allocator::Buffer buffer) override {
    real_.release(buffer);
  }

 private:
  allocator::Allocator& real_;
};

allocator::Allocator& mlxsys_choose_allocator_() {
  static allocator::Allocator& chosen = []() -> allocator::Allocator& {
    auto* next = reinterpret_cast<allocator::Allocator& (*)()>(dlsym(RTLD_NEXT, "_ZN3mlx4core9allocator9allocatorEv"));
    if (!next) {
      throw std::runtime_error("[malloc] this build of MLX has no allocator of the name that is known");
    }
    auto& real = next();
    if (!std::strstr(typeid(real).name(), "CommonAllocator")) {
      return real;
    }
    return *new MlxsysAllocator_(real);
  }();
  return chosen;
}

std::atomic<allocator::Allocator*> mlxsys_chosen_allocator_{nullptr};

} // namespace

namespace mlx::core::allocator {

// libmlx asks for its allocator by this name, too. The loader looks through libraries breadth-first, so it finds this
// function, which is a level nearer to the program.
MLX_API Allocator& allocator() {
  if (auto* chosen = mlxsys_chosen_allocator_.load(std::memory_order_acquire)) {
    return *chosen;
  }
  // A fork waits until it is chosen.
  std::shared_lock lock(mlxsys_allocator_mutex_);
  auto& chosen = mlxsys_choose_allocator_();
  mlxsys_chosen_allocator_.store(&chosen, std::memory_order_release);
  return chosen;
}

} // namespace mlx::core::allocator

#endif
