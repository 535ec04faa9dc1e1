/* What bindgen reads. */
#include "mlx/c/mlx.h"
#include "mlxsys.h"
