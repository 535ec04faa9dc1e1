// A callback of the caller's as an operation of MLX's CPU backend.

#include "mlxsys.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mlx/backend/common/utils.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/primitives.h"

namespace {

namespace mx = mlx::core;

// What is called, and with what. The primitive and each of its tasks share it, since MLX may let go of the primitive
// before the task has run.
struct MlxsysHostCall_ {
  std::string name;
  mlxsys_host_kernel_func run;
  std::shared_ptr<void> payload;
};

struct MlxsysHostArray_ {
  mx::Shape shape;
  mx::Strides strides;
  mx::allocator::Buffer buffer{nullptr};
  int64_t offset{0};
  size_t size{0};
  mx::Dtype dtype{mx::float32};
  bool row_contiguous{false};
  // Holds an input's memory until the task is done. An output's is not held: a second reference would keep the next
  // operation from reusing it, and MLX holds it itself.
  std::shared_ptr<mx::array::Data> owner{};
  // Of an input: its contents are found in an output.
  bool taken{false};
  // Of an output: the input that it starts with, or -1.
  int in_place_of{-1};
  // Of such an output: whether it has the input's memory already.
  bool donated{false};

  explicit MlxsysHostArray_(const mx::array& a)
      : shape(a.shape()),
        strides(a.strides()),
        offset(a.offset()),
        size(a.size()),
        dtype(a.dtype()),
        row_contiguous(a.flags().row_contiguous) {
    if (a.data_shared_ptr()) {
      buffer = a.buffer();
    }
  }

  // Asked for in the task, not before: on the CUDA build this is what brings memory to the host.
  char* data() {
    auto* start = static_cast<char*>(buffer.raw_ptr());
    return start ? start + offset : nullptr;
  }

  size_t nbytes() const {
    return size * dtype.size();
  }
};

// Memory from MLX for an output, starting on a cache line: MLX's own starts eight bytes behind a multiple of sixteen,
// where every load of a whole line takes two.
void mlxsys_host_allocate_(mx::array& out) {
  constexpr uintptr_t line = 64;
  auto buffer = mx::allocator::malloc(out.nbytes() + line);
  auto start = reinterpret_cast<uintptr_t>(buffer.raw_ptr());
  if (start == 0) {
    throw std::runtime_error("[mlxsys_host_kernel] no memory for " + std::to_string(out.nbytes()) + " bytes");
  }
  mx::array::Flags flags{};
  flags.contiguous = true;
  flags.row_contiguous = true;
  flags.col_contiguous = out.size() <= 1;
  for (auto n : out.shape()) {
    flags.col_contiguous = flags.col_contiguous || static_cast<size_t>(n) == out.size();
  }
  const int64_t offset = (line - start % line) % line;
  out.set_data(buffer, out.size(), out.strides(), flags, offset);
}

// Copies a strided array into row order.
void mlxsys_host_copy_(const char* from, const MlxsysHostArray_& array, char* to) {
  if (array.size == 0) {
    return;
  }
  if (array.row_contiguous) {
    std::memcpy(to, from, array.nbytes());
    return;
  }
  // Not row-contiguous, so there is a dimension.
  const size_t last = array.shape.size() - 1;
  const int64_t item = array.dtype.size();
  std::vector<int> index(last, 0);
  for (size_t done = 0; done < array.size; done += array.shape[last]) {
    const char* row = from;
    for (size_t i = 0; i < last; ++i) {
      row += index[i] * array.strides[i] * item;
    }
    for (int i = 0; i < array.shape[last]; ++i, to += item) {
      std::memcpy(to, row + i * array.strides[last] * item, item);
    }
    for (size_t i = last; i-- > 0 && ++index[i] == array.shape[i];) {
      index[i] = 0;
    }
  }
}

struct MlxsysHostTask_ {
  std::shared_ptr<MlxsysHostCall_> call;
  std::vector<MlxsysHostArray_> inputs;
  std::vector<MlxsysHostArray_> outputs;

  void run() {
    std::vector<mlxsys_host_input> in;
    in.reserve(inputs.size());
    for (auto& a : inputs) {
      in.push_back(
          {a.taken ? nullptr : a.data(),
           a.shape.data(),
           a.strides.data(),
           a.shape.size(),
           a.size,
           mlx_dtype_to_c(a.dtype),
           a.row_contiguous});
    }
    std::vector<mlxsys_host_output> out;
    out.reserve(outputs.size());
    for (auto& a : outputs) {
      auto* data = a.data();
      if (a.in_place_of >= 0 && !a.donated) {
        auto& source = inputs[a.in_place_of];
        mlxsys_host_copy_(source.data(), source, data);
      }
      out.push_back({data, a.shape.data(), a.shape.size(), a.size, mlx_dtype_to_c(a.dtype), a.in_place_of});
    }

    mlx_string message = mlx_string_new();
    int code = call->run(call->payload.get(), in.data(), in.size(), out.data(), out.size(), &message);
    std::string text = message.ctx ? mlx_string_get_(message) : std::string();
    mlx_string_free(message);
    if (code == 0) {
      return;
    }
    // What is queued behind this one runs all the same. It shall not find what other arrays left in the memory.
    for (size_t i = 0; i < out.size(); ++i) {
      if (outputs[i].in_place_of < 0 && outputs[i].size > 0) {
        std::memset(out[i].data, 0, outputs[i].nbytes());
      }
    }
    if (text.empty()) {
      text = "failed with code " + std::to_string(code);
    }
    throw std::runtime_error("[" + call->name + "] " + text);
  }
};

class MlxsysHostKernel_ : public mx::Primitive {
 public:
  MlxsysHostKernel_(mx::Stream stream, std::shared_ptr<MlxsysHostCall_> call, std::vector<int> in_place_of)
      : Primitive(stream), call_(std::move(call)), in_place_of_(std::move(in_place_of)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto task = std::make_shared<MlxsysHostTask_>();
    task->call = call_;
    task->inputs.reserve(inputs.size());
    for (auto& in : inputs) {
      task->inputs.emplace_back(in);
    }
    task->outputs.reserve(outputs.size());
    for (size_t i = 0; i < outputs.size(); ++i) {
      auto& out = outputs[i];
      const int source = in_place_of_[i];
      bool donated = false;
      if (source >= 0) {
        auto& in = inputs[source];
        task->inputs[source].taken = true;
        donated = in.flags().row_contiguous && mx::is_donatable(in, out);
        if (donated) {
          // With strides of its own: those of an input's dimensions of size 1 may be anything.
          out.copy_shared_buffer(in, out.strides(), in.flags(), in.data_size());
        }
      }
      if (!donated) {
        mlxsys_host_allocate_(out);
      }
      auto& described = task->outputs.emplace_back(out);
      described.in_place_of = source;
      described.donated = donated;
    }
    // After the outputs, as a second reference to an input would have kept it from being handed over.
    for (size_t i = 0; i < inputs.size(); ++i) {
      task->inputs[i].owner = inputs[i].data_shared_ptr();
    }
    for (auto& out : task->outputs) {
      if (out.donated) {
        task->inputs[out.in_place_of].owner = nullptr;
      }
    }
    mx::cpu::get_command_encoder(stream()).dispatch([task = std::move(task)] { task->run(); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("[" + call_->name + "] a host kernel can't run on a GPU");
  }

  const char* name() const override {
    return call_->name.c_str();
  }

 private:
  std::shared_ptr<MlxsysHostCall_> call_;
  std::vector<int> in_place_of_;
};

mx::Shape mlxsys_host_shape_(const mlxsys_host_output_spec& spec) {
  if (spec.ndim > 0 && !spec.shape) {
    throw std::invalid_argument("[mlxsys_host_kernel] an output has no shape");
  }
  // MLX counts elements in an int in places.
  int64_t size = 1;
  for (size_t i = 0; i < spec.ndim; ++i) {
    if (spec.shape[i] < 0) {
      throw std::invalid_argument("[mlxsys_host_kernel] a dimension of an output is negative");
    }
    size *= spec.shape[i];
    if (size > std::numeric_limits<int>::max()) {
      throw std::invalid_argument("[mlxsys_host_kernel] an output has more elements than an int can count");
    }
  }
  return mx::Shape(spec.shape, spec.shape + spec.ndim);
}

void mlxsys_host_check_in_place_(
    const std::vector<mx::array>& inputs,
    const std::vector<int>& in_place_of,
    const mx::Shape& shape,
    mx::Dtype dtype,
    int source) {
  if (source < 0) {
    return;
  }
  if (static_cast<size_t>(source) >= inputs.size()) {
    throw std::invalid_argument("[mlxsys_host_kernel] an output is in place of an input that is not there");
  }
  if (inputs[source].shape() != shape || inputs[source].dtype() != dtype) {
    throw std::invalid_argument(
        "[mlxsys_host_kernel] an output is in place of an input of another shape or type");
  }
  for (int other : in_place_of) {
    if (other == source) {
      throw std::invalid_argument("[mlxsys_host_kernel] two outputs are in place of the same input");
    }
  }
}

} // namespace

extern "C" int mlxsys_host_kernel(
    mlx_vector_array* res,
    const char* name,
    const mlx_vector_array inputs,
    const mlxsys_host_output_spec* outputs,
    size_t n_outputs,
    mlxsys_host_kernel_func run,
    void* payload,
    void (*dtor)(void*),
    const mlx_stream s) {
  try {
    // First of all, so that the payload has an owner whatever fails behind it.
    auto owner = dtor ? std::shared_ptr<void>(payload, dtor) : std::shared_ptr<void>(payload, [](void*) {});
    if (!name || !run) {
      throw std::invalid_argument("[mlxsys_host_kernel] needs a name and a function");
    }
    if (n_outputs == 0 || !outputs) {
      throw std::invalid_argument("[mlxsys_host_kernel] needs an output");
    }
    auto stream = mlx_stream_get_(s);
    if (stream.device != mx::Device::cpu) {
      throw std::invalid_argument(
          "[mlxsys_host_kernel] a host kernel needs a stream of the CPU, and this is one of a GPU");
    }
    auto& arrays = mlx_vector_array_get_(inputs);
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    std::vector<int> in_place_of;
    for (size_t i = 0; i < n_outputs; ++i) {
      auto shape = mlxsys_host_shape_(outputs[i]);
      auto dtype = mlx_dtype_to_cpp(outputs[i].dtype);
      const int source = outputs[i].in_place_of < 0 ? -1 : outputs[i].in_place_of;
      mlxsys_host_check_in_place_(arrays, in_place_of, shape, dtype, source);
      shapes.push_back(std::move(shape));
      dtypes.push_back(dtype);
      in_place_of.push_back(source);
    }
    auto call = std::make_shared<MlxsysHostCall_>(MlxsysHostCall_{name, run, std::move(owner)});
    auto primitive = std::make_shared<MlxsysHostKernel_>(stream, std::move(call), std::move(in_place_of));
    mlx_vector_array_set_(*res, mx::array::make_arrays(std::move(shapes), dtypes, primitive, arrays));
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}
