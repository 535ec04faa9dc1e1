// New streams of the CPU, while others compute.
//
// MLX keeps a command encoder for each stream that any thread may use in one table. A new stream is written to it, and
// every operation that is evaluated looks its stream up there, without a lock. On Linux both go by one here.

#include "mlxsys.h"
#include "tasks.h"

#include <exception>
#include <mutex>
#include <new>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <utility>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/backend/gpu/device_info.h"
#include "mlx/c/device.h"
#include "mlx/c/error.h"
#include "mlx/c/stream.h"
#include "mlx/scheduler.h"
#include "mlx/stream.h"

#ifdef __linux__
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace {

std::shared_mutex* mlxsys_make_encoders_mutex_();

// Never destroyed, as threads may compute until the process is gone. Made as this library is loaded: a fork would wait for
// ever for another thread to have made it.
std::shared_mutex& mlxsys_encoders_mutex_ = *mlxsys_make_encoders_mutex_();

std::shared_mutex* mlxsys_make_encoders_mutex_() {
#ifdef __linux__
  // A fork would find it locked if another thread held it. It can't unlock what its parent has locked, as a lock knows
  // its thread.
  pthread_atfork(
      []() { mlxsys_encoders_mutex_.lock(); },
      []() { mlxsys_encoders_mutex_.unlock(); },
      []() {
        new (&mlxsys_encoders_mutex_) std::shared_mutex;
        // MLX would wait for tasks of threads that the fork doesn't have. What the old one holds is left as it is.
        if (!mlx::core::gpu::is_available()) {
          new (&mlx::core::scheduler::scheduler()) mlx::core::scheduler::Scheduler;
        }
      });
#endif
  return new std::shared_mutex;
}

} // namespace

#ifdef __linux__

using MlxsysLookup_ = mlx::core::cpu::CommandEncoder& (*)(mlx::core::Stream);

// MLX's own function.
static const auto mlxsys_next_lookup_ =
    reinterpret_cast<MlxsysLookup_>(dlsym(RTLD_NEXT, "_ZN3mlx4core3cpu19get_command_encoderENS0_6StreamE"));

// The stream that this thread looked up last, to give it a task.
static thread_local std::optional<mlx::core::Stream> mlxsys_last_stream_;

void mlxsys_settle_() noexcept {
  if (auto stream = std::exchange(mlxsys_last_stream_, std::nullopt)) {
    try {
      mlx::core::synchronize(*stream);
    } catch (...) {
      // Not waited for: there was no memory for a task.
    }
  }
}

namespace mlx::core::cpu {

// libmlx looks encoders up by this name, too, and finds this function: see allocator.cpp. Encoders don't move when the
// table grows, and one belongs to whoever uses its stream.
MLX_API CommandEncoder& get_command_encoder(Stream stream) {
  if (!mlxsys_next_lookup_) {
    throw std::runtime_error("[stream] this build of MLX has no encoders of the name that is known");
  }
  mlxsys_start_stream_(stream);
  mlxsys_last_stream_ = stream;
  std::shared_lock lock(mlxsys_encoders_mutex_);
  return mlxsys_next_lookup_(stream);
}

} // namespace mlx::core::cpu

#endif

extern "C" int mlxsys_stream_new_cpu(mlx_stream* res) {
  try {
    auto device = mlx_device_new_type(MLX_CPU, 0);
    {
      std::unique_lock lock(mlxsys_encoders_mutex_);
      *res = mlx_stream_new_thread_unsafe(device);
    }
    mlx_device_free(device);
    return res->ctx ? 0 : 1;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}
