// Tasks of MLX's streams of the CPU: each is handed over, and none fails for want of memory.
//
// MLX (0.32.2) counts every tenth task of a stream before it hands it over, and waits while there are more than ten. Where
// handing over fails the count stays, so after some such failures every evaluation waits for ever. On the thread that used
// MLX first it fails where a task before has failed, and a stream that shall be waited for isn't.
//
// A task that has failed leaves arrays behind that look computed.

#ifdef __linux__

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "mlx/event.h"
#include "mlx/scheduler.h"
#include "mlx/stream.h"
#include "tasks.h"

namespace {

namespace mx = mlx::core;
using mx::scheduler::Scheduler;

using MlxsysTask_ = std::function<void()>;
using MlxsysEventTask_ = std::function<void(mx::Event&)>;

// libmlx's own function that is called by this name here and, as the loader looks through libraries breadth-first, in
// libmlx, too. Found as this library is loaded, before there are threads.
template <typename... Arguments>
class MlxsysNext_ {
 public:
  explicit MlxsysNext_(const char* name) : found_(dlsym(RTLD_NEXT, name)) {}

  void operator()(Scheduler* scheduler, mx::Stream stream, Arguments... arguments) const {
    if (!found_) {
      throw std::logic_error("[scheduler] this build of MLX has no scheduler of the names that are known");
    }
    reinterpret_cast<void (*)(Scheduler*, mx::Stream, Arguments...)>(found_)(scheduler, stream, std::move(arguments)...);
  }

 private:
  void* const found_;
};

const MlxsysNext_<> mlxsys_next_get_thread_("_ZN3mlx4core9scheduler9Scheduler10get_threadENS0_6StreamE");
const MlxsysNext_<MlxsysTask_> mlxsys_next_enqueue_(
    "_ZN3mlx4core9scheduler9Scheduler7enqueueENS0_6StreamESt8functionIFvvEE");
const MlxsysNext_<mx::Event, MlxsysEventTask_> mlxsys_next_wait_event_(
    "_ZN3mlx4core9scheduler9Scheduler10wait_eventENS0_6StreamENS0_5EventESt8functionIFvRS4_EE");
const MlxsysNext_<mx::Event, MlxsysEventTask_> mlxsys_next_signal_event_(
    "_ZN3mlx4core9scheduler9Scheduler12signal_eventENS0_6StreamENS0_5EventESt8functionIFvRS4_EE");

// What Rust does where there is no memory for something small. Memory of arrays is another matter (allocator.cpp).
[[noreturn]] void mlxsys_end_() noexcept {
  std::fputs("mlx-sys: no memory for a task of MLX's\n", stderr);
  std::abort();
}

void mlxsys_run_(const MlxsysTask_& task) {
  try {
    task();
  } catch (const std::bad_alloc&) {
    mlxsys_end_();
  }
}

// Calls `give`, which hands something over to a stream, until it isn't told of a failure before it. MLX forgets what it
// has told of, so the stream fails again, right before what is handed over.
template <typename Give>
void mlxsys_give_(Scheduler* scheduler, mx::Stream stream, Give give) {
  for (std::string failure;;) {
    try {
      std::optional<std::promise<void>> given;
      if (!failure.empty()) {
        // Not at once, or `give` is told of it.
        given.emplace();
        mlxsys_next_enqueue_(scheduler, stream, [failure, given = given->get_future().share()]() {
          given.wait();
          throw std::runtime_error(failure);
        });
      }
      give();
      return;
    } catch (const std::bad_alloc&) {
      mlxsys_end_();
    } catch (const std::system_error&) {
      // There is no thread for the stream.
      throw;
    } catch (const std::runtime_error& told) {
      failure = failure.empty() ? told.what() : std::move(failure);
    }
  }
}

} // namespace

void mlxsys_start_stream_(mx::Stream stream) {
  mlxsys_next_get_thread_(&mx::scheduler::scheduler(), stream);
}

namespace mlx::core::scheduler {

MLX_API void Scheduler::enqueue(Stream stream, std::function<void()> task) {
  std::unique_ptr<MlxsysTask_> held;
  mlxsys_give_(this, stream, [&]() {
    if (!held) {
      held = std::make_unique<MlxsysTask_>(std::move(task));
    }
    // Run once, and it is its own from when it is handed over on.
    mlxsys_next_enqueue_(this, stream, [task = held.get()]() {
      std::unique_ptr<MlxsysTask_> own(task);
      mlxsys_run_(*own);
    });
    held.release();
  });
}

MLX_API void Scheduler::wait_event(Stream stream, Event event, std::function<void(Event&)> task) {
  mlxsys_give_(this, stream, [&]() { mlxsys_next_wait_event_(this, stream, event, task); });
}

MLX_API void Scheduler::signal_event(Stream stream, Event event, std::function<void(Event&)> task) {
  mlxsys_give_(this, stream, [&]() { mlxsys_next_signal_event_(this, stream, event, task); });
}

} // namespace mlx::core::scheduler

#endif
