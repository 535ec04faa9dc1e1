//! Cosines and sines of rotary embeddings on the GPU.

use std::cell::RefCell;
use std::rc::Rc;

use crate::checkpoint::rope::RopeSpec;
use crate::mlx::cuda::Fixed;
use crate::mlx::{Array, MlxError};
use crate::model::rope::Rope;

/// A rotary embedding, and cosines and sines on the GPU: of the last base, for as many positions as were asked for so far,
/// of queries and of keys.
#[derive(Debug)]
pub(super) struct Rotation {
    rope: Rope,
    angles: RefCell<Option<Angles>>,
}

#[derive(Debug)]
struct Angles {
    base: u64,
    positions: usize,
    angles: OfHeads,
}

/// Cosines and sines of queries and of keys.
pub(super) type OfHeads = [Rc<Fixed>; 2];

impl Rotation {
    pub(super) fn new(spec: &RopeSpec) -> Self {
        Self { rope: Rope::new(spec), angles: RefCell::default() }
    }

    /// What rotated vectors are multiplied with.
    pub(super) fn magnitude(&self) -> f32 {
        self.rope.magnitude()
    }

    /// Cosines and sines, f32 `[at least positions, 2, E / 2]`, flat.
    pub(super) fn of(&self, positions: usize) -> Result<OfHeads, MlxError> {
        let Self { rope, angles } = self;
        let base = rope.base(positions).to_bits();
        let mut angles = angles.borrow_mut();
        if let Some(kept) = &*angles
            && kept.base == base
            && kept.positions >= positions
        {
            return Ok(kept.angles.clone());
        }
        let fixed = |numbers: &[f32]| -> Result<_, MlxError> {
            Ok(Rc::new(Fixed::new(Array::from_slice(numbers, &[numbers.len() as i32])?)?))
        };
        let numbers = rope.angles(positions);
        let of_keys = fixed(&numbers)?;
        let of_queries =
            if rope.grows() { fixed(&rope.query_angles(positions))? } else { Rc::clone(&of_keys) };
        let positions = numbers.len() / rope.dims();
        let made = [of_queries, of_keys];
        *angles = Some(Angles { base, positions, angles: made.clone() });
        Ok(made)
    }
}
