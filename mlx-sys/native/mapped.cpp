// Arrays over memory that MLX did not allocate.

#include "mlxsys.h"

#include <cstdint>
#include <memory>
#include <stdexcept>

#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"

namespace {

// MLX's CPU allocator keeps a buffer's size in the word before its data, and Buffer points at that word. Nothing in
// the interface says so, so ask the allocator that is loaded.
bool mlxsys_cpu_allocator_() {
  static const bool answer = [] {
    constexpr size_t size = 64;
    auto buffer = mlx::core::allocator::malloc(size);
    auto* head = static_cast<size_t*>(buffer.ptr());
    // The word is read only once the data is known to begin right behind it.
    bool yes = buffer.raw_ptr() == head + 1 && *head >= size;
    mlx::core::allocator::free(buffer);
    return yes;
  }();
  return answer;
}

mlx::core::array mlxsys_mapped_(
    const void* data,
    mlx::core::Shape shape,
    mlx::core::Dtype dtype,
    std::shared_ptr<void> owner) {
  if (!data) {
    throw std::invalid_argument("[mlxsys_array_new_mapped] data is NULL");
  }
  for (auto n : shape) {
    if (n < 0) {
      throw std::invalid_argument("[mlxsys_array_new_mapped] a dimension is negative");
    }
  }
  if (reinterpret_cast<uintptr_t>(data) % dtype.size() != 0) {
    throw std::invalid_argument("[mlxsys_array_new_mapped] data is not aligned for its type");
  }
  // `owner` lives in the deleter: the last copy of the deleter to go lets go of the payload, on every path.
  auto* start = static_cast<char*>(const_cast<void*>(data));
  if (mlx::core::metal::is_available()) {
    return mlx::core::array(static_cast<void*>(start), std::move(shape), dtype, [owner = std::move(owner)](void*) {});
  }
  if (!mlxsys_cpu_allocator_()) {
    throw std::runtime_error(
        "[mlxsys_array_new_mapped] memory can't be used in place with this build of MLX "
        "(its allocator is not the CPU one); copy it with mlx_array_new_data");
  }
  return mlx::core::array(
      mlx::core::allocator::Buffer{start - sizeof(size_t)},
      std::move(shape),
      dtype,
      [owner = std::move(owner)](mlx::core::allocator::Buffer) {});
}

} // namespace

extern "C" int mlxsys_array_can_map(bool* res) {
  try {
    *res = mlx::core::metal::is_available() || mlxsys_cpu_allocator_();
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

extern "C" int mlxsys_array_new_mapped(
    mlx_array* res,
    const void* data,
    const int* shape,
    int ndim,
    mlx_dtype dtype,
    void* payload,
    void (*dtor)(void*)) {
  try {
    // First of all, so that the payload has an owner whatever fails behind it.
    auto owner = dtor ? std::shared_ptr<void>(payload, dtor) : std::shared_ptr<void>();
    if (ndim < 0 || (ndim > 0 && !shape)) {
      throw std::invalid_argument("[mlxsys_array_new_mapped] no shape");
    }
    mlx_array_set_(
        *res,
        mlxsys_mapped_(
            data, mlx::core::Shape(shape, shape + ndim), mlx_dtype_to_cpp(dtype), std::move(owner)));
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}
