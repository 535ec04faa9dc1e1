//! The decoder's operations as this crate's kernels for NVIDIA GPUs.
//!
//! Norms, rotation, residual connections and the activation are part of the products; a layer is five kernels. Products of
//! few tokens read packed weights, those of many weights that are expanded to bf16 before, or are there as such (see
//! [`policy`]). On GPUs other than Hopper products of expanded weights are cuBLASLt's, and what follows them are kernels of
//! their own.

mod attention;
mod embedding;
mod mlp;
mod policy;
mod support;
mod weight;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::file::hex;
use crate::mlx::cuda::{self, Fixed, Plan, Scaled, Tensor};
use crate::mlx::{Array, MlxError, Stream, memory};

use super::rope::Rope;

pub(super) use attention::Attention;
pub(super) use embedding::Embedding;
pub(super) use mlp::Mlp;
pub use policy::MatmulPolicy;
pub(crate) use support::{Form, form};

use policy::Calibration;
use weight::Weight;

/// What all layers share.
#[derive(Debug)]
pub(crate) struct Cuda {
    pub(super) ops: cuda::Ops,
    digest: String,
    form: Form,
    pub(super) policy: MatmulPolicy,
    /// From so many tokens on weights are expanded.
    expand_from: Cell<i32>,
    angles: RefCell<Option<Angles>>,
}

/// Cosines and sines on the GPU: of the last base, for as many positions as were asked for so far.
#[derive(Debug)]
struct Angles {
    base: u64,
    positions: usize,
    angles: Rc<Fixed>,
}

/// One batch on its way through the layers.
#[derive(Debug)]
pub(in crate::model) struct Call {
    pub(super) plan: Plan,
    /// The plan on the GPU.
    pub(super) meta: Tensor,
    /// `[T, E]`
    pub(super) angles: Tensor,
}

/// What a layer computed ahead for the next norm.
#[derive(Debug)]
pub(in crate::model) enum Ahead {
    /// For products that the norm is part of.
    Scaled(Scaled),
    /// For products by cuBLASLt: bf16 `[T, D]`.
    Normed(Tensor),
}

impl Cuda {
    pub(crate) fn new(
        kernels: &Arc<cuda::Kernels>,
        gpu: i32,
        form: Form,
        policy: MatmulPolicy,
    ) -> Result<Self, MlxError> {
        let expand_from = if form.packed && policy != MatmulPolicy::Expanded { i32::MAX } else { 0 };
        Ok(Self {
            ops: cuda::Ops::new(kernels, gpu)?,
            digest: kernels.digest().to_owned(),
            form,
            policy,
            expand_from: Cell::new(expand_from),
            angles: RefCell::new(None),
        })
    }

    /// Gives memory that nobody uses back to the driver.
    pub(in crate::model) fn trim(&self) -> Result<(), MlxError> {
        memory::clear_cache()?;
        self.ops.trim()
    }

    /// Waits for all that was launched.
    pub(in crate::model) fn wait(&self) -> Result<(), MlxError> {
        self.ops.synchronize()
    }

    /// A state as an array of f32 `[T, D]`.
    pub(in crate::model) fn read(&self, x: &Tensor, stream: &Stream) -> Result<Array, MlxError> {
        let numbers = self.ops.finish(x, None, stream)?;
        Array::from_slice(&numbers, &x.shape())
    }

    /// These rows of a state.
    pub(in crate::model) fn rows(
        &self,
        x: &Tensor,
        rows: &[u32],
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        self.ops.rows(x, rows, stream)
    }

    /// The norm, with weight `scale`, of a state, in rows of D; computed ahead or not.
    pub(in crate::model) fn finish(
        &self,
        x: &Tensor,
        ahead: Option<&Ahead>,
        scale: &Fixed,
        stream: &Stream,
    ) -> Result<Vec<f32>, MlxError> {
        match ahead {
            Some(Ahead::Normed(normed)) => self.ops.finish(normed, None, stream),
            _ => self.ops.finish(x, Some(scale), stream),
        }
    }

    /// `x` plus the product of `a`, and what the next norm, with weight `scale`, is computed from, in the form that `ahead`
    /// has.
    fn add(
        &self,
        x: &Tensor,
        a: &Tensor,
        weight: &Weight,
        scale: &Fixed,
        ahead: &Ahead,
        stream: &Stream,
    ) -> Result<(Tensor, Ahead), MlxError> {
        let w = weight.matrix(self, ahead, a.shape()[0], stream)?;
        Ok(match ahead {
            Ahead::Scaled(_) => {
                let (x, scaled) = self.ops.add(x, a, &w, scale, stream)?;
                (x, Ahead::Scaled(scaled))
            }
            Ahead::Normed(_) => {
                let (x, normed) = self.ops.add_apart(x, a, &w, scale, stream)?;
                (x, Ahead::Normed(normed))
            }
        })
    }

    /// Finds out from how many tokens on weights are better expanded, unless the policy or an earlier measurement says
    /// it. `run` runs a few layers with so many tokens.
    pub(in crate::model) fn calibrate(
        &self,
        mut run: impl FnMut(i32) -> Result<(), MlxError>,
    ) -> Result<(), MlxError> {
        if !self.form.packed || ![MatmulPolicy::Auto, MatmulPolicy::Resident].contains(&self.policy) {
            return Ok(());
        }
        let of = format!("{} {:?} {}", self.digest, self.form, self.policy);
        let path = cuda::cache_folder()
            .map(|folder| folder.join(format!("mlx_embed_matmul_{:.16}.json", hex(&Sha256::digest(&of)))));
        let calibration = match path.as_deref().and_then(|path| Calibration::read(&of, path)) {
            Some(known) => known,
            None => {
                let measured = Calibration::measure(of, |tokens, expanded| {
                    self.expand_from.set(if expanded { 0 } else { i32::MAX });
                    run(tokens)
                })?;
                if let Some(path) = path
                    && let Err(error) = measured.write(&path)
                {
                    tracing::warn!(path = %path.display(), %error, "what was measured can't be kept");
                }
                measured
            }
        };
        tracing::debug!(?calibration, "from so many tokens on weights are expanded");
        self.expand_from.set(calibration.expand_from);
        Ok(())
    }

    fn is_packed(&self, tokens: i32) -> bool {
        tokens < self.expand_from.get()
    }

    /// See [`Ops::embed`](cuda::Ops::embed).
    fn angles(&self, rope: &Rope, positions: usize) -> Result<Rc<Fixed>, MlxError> {
        let base = rope.base(positions).to_bits();
        let mut angles = self.angles.borrow_mut();
        if let Some(kept) = &*angles
            && kept.base == base
            && kept.positions >= positions
        {
            return Ok(Rc::clone(&kept.angles));
        }
        let numbers = rope.angles(positions);
        let positions = numbers.len() / self.form.geometry.head_dim as usize;
        let made = Array::from_slice(&numbers, &[numbers.len() as i32])?;
        let made = Rc::new(Fixed::new(made)?);
        *angles = Some(Angles { base, positions, angles: Rc::clone(&made) });
        Ok(made)
    }
}
