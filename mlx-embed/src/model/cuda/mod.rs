//! The decoder's operations as this crate's kernels for NVIDIA GPUs.
//!
//! A batch goes one of two ways, by its number of tokens (see [`policy`]). Few tokens: products read packed weights, and
//! norms, rotation, residual connections and the activation are part of them; a layer is five kernels, launched at once.
//! Many: weights are expanded to bf16, or are already, for MLX's matrix product, and what was part of it are three kernels
//! of their own on MLX's graph.

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

use crate::mlx::cuda::{self, Fixed, Plan, Scaled, Tensor};
use crate::mlx::{Array, MlxError, Stream, ops};

use super::rope::Rope;
use super::{Hidden, State};

pub(super) use attention::Attention;
pub(super) use embedding::Embedding;
pub(super) use mlp::Mlp;
pub use policy::MatmulPolicy;
pub(crate) use support::{Form, form};

use policy::Calibration;

/// Layers on MLX's graph that are handed to the GPU together. It computes them while the host prepares the next ones.
const LAYERS_AT_ONCE: usize = 4;

/// What all layers share.
#[derive(Debug)]
pub(crate) struct Cuda {
    pub(super) kernels: Arc<cuda::Kernels>,
    /// Where matrices are packed.
    eager: Option<cuda::Eager>,
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

/// How the products of a batch are computed, and the batch's angles, `[T, E]`.
#[derive(Debug)]
pub(super) enum Way {
    /// On packed weights. `meta` is the plan on the GPU.
    Packed { meta: Tensor, angles: Tensor },
    /// By MLX, on weights in bf16.
    Expanded { angles: Array },
}

/// One batch on its way through the layers.
#[derive(Debug)]
pub(in crate::model) struct Call {
    pub(super) plan: Plan,
    pub(super) way: Way,
}

/// What a layer computed ahead for the next norm.
#[derive(Debug)]
pub(in crate::model) enum Ahead {
    Scaled(Scaled),
    /// bf16 `[T, D]`
    Normed(Array),
}

impl Cuda {
    pub(crate) fn new(
        kernels: Arc<cuda::Kernels>,
        form: Form,
        policy: MatmulPolicy,
    ) -> Result<Self, MlxError> {
        let expand_from = if form.packed && policy != MatmulPolicy::Expanded { i32::MAX } else { 0 };
        Ok(Self {
            eager: if form.packed { Some(cuda::Eager::new(&kernels)?) } else { None },
            kernels,
            form,
            policy,
            expand_from: Cell::new(expand_from),
            angles: RefCell::new(None),
        })
    }

    fn eager(&self) -> Result<&cuda::Eager, MlxError> {
        self.eager.as_ref().ok_or_else(|| MlxError::new("cuda", "the checkpoint has no packed matrices"))
    }

    /// A state as an array of f32 `[T, D]`.
    pub(in crate::model) fn read(&self, x: &Tensor, stream: &Stream) -> Result<Array, MlxError> {
        let numbers = self.eager()?.finish(x, None, stream)?;
        Array::from_slice(&numbers, &x.shape())
    }

    /// These rows of a state.
    pub(in crate::model) fn rows(
        &self,
        x: &Tensor,
        rows: &[u32],
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        self.eager()?.rows(x, rows, stream)
    }

    /// The norm of a state with weight `scale`, in rows of D.
    pub(in crate::model) fn finish(
        &self,
        x: &Tensor,
        scale: &Fixed,
        stream: &Stream,
    ) -> Result<Vec<f32>, MlxError> {
        self.eager()?.finish(x, Some(scale), stream)
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
        let of = format!("{} {:?} {}", self.kernels.digest(), self.form, self.policy);
        let path = cuda::cache_folder()?.join(format!("mlx_embed_{:.16}.json", sha256(of.as_bytes())));
        let calibration = match Calibration::read(&of, &path) {
            Some(known) => known,
            None => {
                let measured = Calibration::measure(of, |tokens, expanded| {
                    self.expand_from.set(if expanded { 0 } else { i32::MAX });
                    run(tokens)
                })?;
                if let Err(error) = measured.write(&path) {
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

    /// See [`Kernels::embed`](cuda::Kernels::embed).
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

    /// Hands the work so far to the GPU where a bunch of layers on MLX's graph is complete.
    pub(in crate::model) fn start(layer: usize, hidden: &Hidden) -> Result<(), MlxError> {
        match hidden {
            Hidden { x: State::Array(x), ahead: Some(Ahead::Normed(normed)) }
                if (layer + 1) % LAYERS_AT_ONCE == 0 =>
            {
                ops::async_eval([x, normed])
            }
            _ => Ok(()),
        }
    }
}

/// `x + y`, and what the next norm, with weight `scale`, is computed from.
fn add_norm(
    cuda: &Cuda,
    x: &Array,
    y: &Array,
    scale: &Array,
    stream: &Stream,
) -> Result<(State, Ahead), MlxError> {
    let [x, normed] = cuda.kernels.add_norm(x, y, scale, stream)?;
    Ok((State::Array(x), Ahead::Normed(normed)))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A layer got from the one before what it has no use for.
#[cold]
fn another_way() -> MlxError {
    MlxError::new("cuda", "the batch changed its way between two layers")
}
