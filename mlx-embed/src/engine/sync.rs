//! What the engine's own data structures lock with. A test puts a model checker's types in this module's place, so
//! they use no others.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
