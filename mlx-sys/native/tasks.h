// Tasks of MLX's streams of the CPU.

#pragma once

#include "mlx/stream.h"

// Starts the thread behind a stream if there is none. A runtime_error where that can't be.
void mlxsys_start_stream_(mlx::core::Stream stream);

// Waits for the tasks of the stream that this thread gave one to last: memory that an operation lets go of because it
// failed.
void mlxsys_settle_() noexcept;
