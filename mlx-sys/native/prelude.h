/* Included before every C++ file of mlx-c. */

#ifndef MLXSYS_PRELUDE_H
#define MLXSYS_PRELUDE_H

/* gcc 12 has no <format>. mlx-c formats strings and integers with plain `{}` and nothing else. */
#if __has_include(<format>)
#include <format>
#else
#include <sstream>
#include <string>
#include <string_view>

namespace std {
template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  [[maybe_unused]] auto next = [&](const auto& arg) {
    auto hole = pattern.find("{}");
    out << pattern.substr(0, hole);
    if (hole != string_view::npos) {
      out << arg;
      pattern.remove_prefix(hole + 2);
    } else {
      pattern = {};
    }
  };
  (next(args), ...);
  out << pattern;
  return out.str();
}
} // namespace std
#endif

/* mlx-c hands what() to printf as the format, so a file name with a % in it would be read as a conversion. */
#include "mlx/c/error.h"
#undef mlx_error
#define mlx_error(msg) _mlx_error(__FILE__, __LINE__, "%s", msg)

#endif
