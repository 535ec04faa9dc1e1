//! What measuring needs to know of a backend.

use crate::mlx::{Array, Dtype, MlxError, ops};
use crate::model::{Backend, Cpu, Cuda, Mlx};

use super::parts::Arithmetic;

/// A backend whose operations can be waited for.
pub(crate) trait Measurable: Backend {
    /// Whether operations are computed after they return, when they are waited for.
    const DEFERS: bool;

    /// Whether [`Operations::qkv`](crate::model::Operations::qkv) norms heads and rotates, too.
    const ROTATES_WITH_QKV: bool;

    /// The numbers that products with these weights multiply, or those of everything else.
    fn arithmetic(&self, projection: Option<&Self::Projection>) -> Arithmetic;

    fn wait_hidden(&self, x: &Self::Hidden) -> Result<(), MlxError>;
    fn wait_wide(&self, x: &Self::Wide) -> Result<(), MlxError>;
    fn wait_heads(&self, x: &Self::Heads) -> Result<(), MlxError>;
}

impl Measurable for Mlx {
    const DEFERS: bool = true;
    const ROTATES_WITH_QKV: bool = false;

    fn arithmetic(&self, _projection: Option<&Self::Projection>) -> Arithmetic {
        match self.activation() {
            Dtype::F32 => Arithmetic::F32,
            _ => Arithmetic::Half,
        }
    }

    fn wait_hidden(&self, x: &Array) -> Result<(), MlxError> {
        x.eval()
    }

    fn wait_wide(&self, x: &Vec<Array>) -> Result<(), MlxError> {
        ops::eval(x)
    }

    fn wait_heads(&self, x: &[Array; 3]) -> Result<(), MlxError> {
        ops::eval(x)
    }
}

/// Its operations are done when they return.
impl Measurable for Cpu {
    const DEFERS: bool = false;
    const ROTATES_WITH_QKV: bool = false;

    fn arithmetic(&self, projection: Option<&Self::Projection>) -> Arithmetic {
        match projection.and_then(|projection| self.rounding(projection).activations) {
            Some(16) => Arithmetic::Int16,
            Some(_) => Arithmetic::Int8,
            None => Arithmetic::F32,
        }
    }

    fn wait_hidden(&self, _x: &Self::Hidden) -> Result<(), MlxError> {
        Ok(())
    }

    fn wait_wide(&self, _x: &Self::Wide) -> Result<(), MlxError> {
        Ok(())
    }

    fn wait_heads(&self, _x: &Self::Heads) -> Result<(), MlxError> {
        Ok(())
    }
}

impl Measurable for Cuda {
    const DEFERS: bool = true;
    const ROTATES_WITH_QKV: bool = true;

    fn arithmetic(&self, _projection: Option<&Self::Projection>) -> Arithmetic {
        match self.activation() {
            Dtype::F32 => Arithmetic::F32,
            _ => Arithmetic::Half,
        }
    }

    fn wait_hidden(&self, _x: &Self::Hidden) -> Result<(), MlxError> {
        self.wait()
    }

    fn wait_wide(&self, _x: &Self::Wide) -> Result<(), MlxError> {
        self.wait()
    }

    fn wait_heads(&self, _x: &Self::Heads) -> Result<(), MlxError> {
        self.wait()
    }
}
