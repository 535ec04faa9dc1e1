// Memory that an operation lets go of because it failed.

#pragma once

// Waits for the tasks of the stream that this thread gave one to last.
void mlxsys_settle_() noexcept;
