//! Where the time of a pass goes: a decorator around a backend that times each operation (feature `bench`).

mod measurable;
mod parts;
mod watched;

pub(crate) use measurable::Measurable;
pub(crate) use parts::Record;
pub use parts::{Arithmetic, Level, Part};
pub(crate) use watched::Watched;
