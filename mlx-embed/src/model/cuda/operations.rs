//! The operations of a layer.

use crate::checkpoint::spec::{HalfNorms, HeadsSpec, Sees};
use crate::mlx::cuda::{self, Attending, Left, Norm, Normed, Product, Rotate, Rows, Seen, Sum, Tensor};
use crate::mlx::{Array, MlxError, ops};
use crate::model::backend::{Backend, Operations, Then};
use crate::model::cache::LayerKvCache;
use crate::model::decoder::{AttentionLayer, InputLayer, LayerInputs, MlpLayer};

use super::states::{Ahead, Heads, Hidden, KeysValues, Pass};
use super::weight::Projection;
use super::{Cuda, Embedding};

#[cold]
fn no_norm() -> MlxError {
    MlxError::new("cuda", "a sum was not told which norm follows it")
}

impl Cuda {
    /// The projection's matrices as a product of so many tokens reads them.
    fn read<'a>(
        &self,
        of: &'a Projection,
        pass: &Pass,
        tokens: i32,
    ) -> Result<Vec<(i32, cuda::Matrix<'a>)>, MlxError> {
        // Packed weights are read by the products that the model is compiled for: with all in them, or without. Those
        // write two outputs at once.
        let suits = (pass.fused || !self.form.geometry.fused) && of.outputs % 2 == 0;
        of.read(self, suits && self.is_packed(tokens), &self.stream)
    }

    /// As [`Cuda::read`], of a projection that is one matrix.
    fn read_one<'a>(
        &self,
        of: &'a Projection,
        pass: &Pass,
        tokens: i32,
    ) -> Result<cuda::Matrix<'a>, MlxError> {
        let several = || MlxError::new("product", "one matrix was expected");
        let mut matrices = self.read(of, pass, tokens)?.into_iter();
        match (matrices.next(), matrices.next()) {
            (Some((_, matrix)), None) => Ok(matrix),
            _ => Err(several()),
        }
    }

    /// The product of `x`'s norm, or of `x` without one, by a kernel of its own: `[T, outputs]`.
    pub(super) fn product_of(
        &self,
        x: &Hidden,
        norm: Option<&Norm>,
        of: &Projection,
        pass: &Pass,
    ) -> Result<Product, MlxError> {
        let x = match (&x.ahead, norm) {
            (Ahead::Normed(normed), Some(_)) => normed.left(),
            (Ahead::Nothing, None) => Left::Plain(&x.x),
            _ => return Err(no_norm()),
        };
        self.matmul(x, of, pass)
    }

    /// The product of rows by a kernel of its own: `[T, outputs]`.
    pub(super) fn matmul(&self, x: Left<'_>, of: &Projection, pass: &Pass) -> Result<Product, MlxError> {
        let matrices = self.read(of, pass, x.tokens())?;
        self.ops.product(x, &matrices, of.outputs, &self.stream)
    }

    /// `x` and, where a norm is next, what was made of it.
    fn hidden((x, normed): (Tensor, Option<Rows>)) -> Hidden {
        Hidden { x, ahead: normed.map_or(Ahead::Nothing, Ahead::Normed) }
    }

    /// `x` and its norm, as products of f16 take it.
    fn normed(&self, x: Tensor, norm: &Norm) -> Result<Hidden, MlxError> {
        let normed = self.ops.norm_to_halves(&x, norm, &self.stream)?;
        Ok(Hidden { x, ahead: Ahead::Normed(normed) })
    }

    /// The norm, for products that have in them what is around them, where the pass has such.
    fn fused<'a>(&self, x: &'a Hidden, pass: &Pass) -> Option<Normed<'a>> {
        match &x.ahead {
            Ahead::Scaled(scaled) => Some(Normed::Scaled(scaled)),
            Ahead::Normed(Rows::Halved(halved)) if pass.fused => Some(Normed::Halved(halved)),
            Ahead::Normed(_) | Ahead::Nothing => None,
        }
    }

    /// What such products leave, of f16 or bf16.
    fn between(&self, rows: Tensor, shift: i32) -> Rows {
        if self.form.geometry.fuses_halves() { Rows::Shifted(rows, shift) } else { Rows::Plain(rows) }
    }

    /// `[T, K * E]` each.
    fn keys_values(&self, qkv: &Array, heads: cuda::Heads) -> Result<KeysValues, MlxError> {
        let [queries, keys] = [heads.queries(), heads.keys()];
        let part = |start| {
            ops::contiguous(&ops::slice_axis(qkv, 1, start, start + keys, &self.stream)?, &self.stream)
        };
        Ok(KeysValues { keys: part(queries)?, values: part(queries + keys)? })
    }
}

pub(super) fn sizes(HeadsSpec { heads, kv_heads, head_dim }: HeadsSpec) -> cuda::Heads {
    cuda::Heads { heads: heads as i32, kv_heads: kv_heads as i32, head_dim: head_dim as i32 }
}

/// What a layer's queries see.
fn seen(sees: Sees) -> Seen {
    let within = |tokens: usize| i32::try_from(tokens).unwrap_or(Seen::ALL).min(Seen::ALL);
    match sees {
        Sees::Before => Seen::BEFORE,
        Sees::BeforeWithin(tokens) => Seen { before: within(tokens.saturating_sub(1)), after: 0 },
        Sees::All => Seen { before: Seen::ALL, after: Seen::ALL },
        Sees::AllWithin(tokens) => Seen { before: within(tokens), after: within(tokens) },
    }
}

impl Operations<Self> for Cuda {
    fn embed(&self, of: &Embedding, next: Option<&Norm>, pass: &Pass) -> Result<Hidden, MlxError> {
        let Pass { plan, meta, all_angles, ids, types, lengths, cached, fused, .. } = pass;
        let stream = &self.stream;
        let mut rows = Vec::new();
        if let Some((_, positions)) = &of.positions {
            let mut ids = &ids[..];
            for &length in lengths.iter() {
                let (text, rest) = ids.split_at(length);
                rows.extend(positions.rows(text, *cached));
                ids = rest;
            }
        }
        let embedding = cuda::Embedding {
            table: &of.tokens,
            factor: of.scale,
            positions: of.positions.as_ref().map(|(table, _)| (table, &rows[..])),
            types: of.token_types.as_ref().map(|table| (table, types.as_deref())),
        };
        if *fused {
            let (next, [_, angles]) = next.zip(all_angles.first()).ok_or_else(no_norm)?;
            let scale = (!self.form.geometry.fuses_halves()).then(|| next.weight());
            let with = [scale, Some(&**angles)];
            let (x, scaled, angles) = self.ops.embed(plan, meta, &embedding, with, stream)?;
            pass.angles.replace(angles);
            return match scaled {
                Some(scaled) => Ok(Hidden { x, ahead: Ahead::Scaled(scaled) }),
                None => self.normed(x, next),
            };
        }
        let (x, ..) = self.ops.embed(plan, meta, &embedding, [None; 2], stream)?;
        if of.norm.is_none() && next.is_none() {
            return Ok(Hidden { x, ahead: Ahead::Nothing });
        }
        let norms = Sum { sum: of.norm.as_ref(), next, ..Sum::default() };
        self.ops.sum(&x, None, norms, stream).map(Self::hidden)
    }

    fn layer_inputs(&self, x: &Hidden, inputs: &LayerInputs<Self>, pass: &Pass) -> Result<Rows, MlxError> {
        let LayerInputs { projection, norm } = inputs;
        let all = self.matmul(Left::Plain(&x.x), projection, pass)?;
        self.ops.norm_inputs(all, norm).map(Rows::Plain)
    }

    fn gate(
        &self,
        x: &Hidden,
        inputs: &Rows,
        layer: &InputLayer<Self>,
        pass: &Pass,
    ) -> Result<Rows, MlxError> {
        let InputLayer { index, gate, .. } = layer;
        let product = self.matmul(Left::Plain(&x.x), gate, pass)?;
        let first = *index as i32 * gate.outputs;
        self.ops.activate_gate(&product, gate.bias.as_ref(), (inputs.tensor()?, first), &self.stream)
    }

    fn qkv(&self, x: &Hidden, layer: &AttentionLayer<Self>, pass: &Pass) -> Result<Rows, MlxError> {
        let [bias, norms] = [layer.qkv.bias.as_ref(), layer.head_norms.as_ref()];
        if let Some(x) = self.fused(x, pass) {
            let matrices = self.read(&layer.qkv, pass, pass.plan.tokens())?;
            let angles = pass.angles.borrow();
            let angles = angles.as_ref().ok_or_else(no_norm)?;
            let shift = layer.qkv.shift.get();
            let qkv = self.ops.qkv(x, &matrices, [bias, norms], angles, shift, &self.stream)?;
            return Ok(self.between(qkv, shift));
        }
        let product = self.product_of(x, layer.norms.input.as_ref(), &layer.qkv, pass)?;
        let angles = layer.rope.and_then(|rope| pass.all_angles.get(rope));
        let angles = angles.map(|[of_queries, of_keys]| [&**of_queries, &**of_keys]);
        let of = Rotate { heads: sizes(layer.heads), bias, norms, angles };
        self.ops.rotate(&product, of, &pass.plan, &pass.meta, &self.stream).map(Rows::Plain)
    }

    /// They are rotated already, as part of the product.
    fn heads(
        &self,
        qkv: Rows,
        layer: &AttentionLayer<Self>,
        cache: LayerKvCache<'_, KeysValues>,
        _pass: &Pass,
    ) -> Result<Heads, MlxError> {
        let (qkv, shift) = qkv.into_shifted()?;
        let cached = match cache {
            LayerKvCache::None => None,
            LayerKvCache::Continue(KeysValues { keys, values }) => Some([keys.clone(), values.clone()]),
            LayerKvCache::Keep(kept) => {
                let own = self.keys_values(&self.ops.array(&qkv, &self.stream)?, sizes(layer.heads))?;
                // The memory behind the array is free for others once `qkv` goes.
                self.finish_cache(std::slice::from_ref(&own))?;
                kept.push(own);
                None
            }
        };
        Ok(Heads { qkv, shift, cached })
    }

    fn attend(&self, heads: Heads, layer: &AttentionLayer<Self>, pass: &Pass) -> Result<Rows, MlxError> {
        let cached = heads.cached.as_ref().map(|[keys, values]| [keys, values]);
        let of = Attending {
            heads: sizes(layer.heads),
            seen: seen(layer.sees),
            // Queries and keys are both shifted.
            scale: layer.scale * 2_f32.powi(-2 * heads.shift),
            distances: self.distances.as_ref(),
        };
        let mixed = self.ops.attention(&heads.qkv, cached, of, &pass.plan, &pass.meta, &self.stream)?;
        Ok(self.between(mixed, heads.shift))
    }

    fn up(&self, x: &Hidden, layer: &MlpLayer<Self>, pass: &Pass) -> Result<Rows, MlxError> {
        if let Some(normed) = self.fused(x, pass) {
            let w = self.read_one(&layer.up, pass, x.x.shape()[0])?;
            let shift = layer.up.shift.get();
            return Ok(self.between(self.ops.gated(normed, &w, shift, &self.stream)?, shift));
        }
        let product = self.product_of(x, layer.norms.input.as_ref(), &layer.up, pass)?;
        let alternating = self.form.geometry.fused;
        self.ops.activate(&product, layer.up.bias.as_ref(), alternating, &self.stream)
    }

    fn add(
        &self,
        x: Hidden,
        y: &Rows,
        weight: &Projection,
        norms: &HalfNorms<Norm>,
        then: Then<'_, Norm>,
        pass: &Pass,
    ) -> Result<Hidden, MlxError> {
        let Then { factor, next } = then;
        let (x, stream, tokens) = (&x.x, &self.stream, y.left().tokens());
        if pass.fused {
            let (w, next) = (self.read_one(weight, pass, tokens)?, next.ok_or_else(no_norm)?);
            if let Rows::Shifted(y, shift) = y {
                let x = self.ops.add_of_halves(x, (y, *shift), &w, stream)?;
                return self.normed(x, next);
            }
            let (x, scaled) = self.ops.add(x, y.tensor()?, &w, next.weight(), stream)?;
            return Ok(Hidden { x, ahead: Ahead::Scaled(scaled) });
        }
        let product = self.matmul(y.left(), weight, pass)?;
        let HalfNorms { output, sum, .. } = norms;
        let (bias, output, sum) = (weight.bias.as_ref(), output.as_ref(), sum.as_ref());
        self.ops.sum(x, Some(&product), Sum { bias, output, sum, factor, next }, stream).map(Self::hidden)
    }

    fn rows(&self, x: &Hidden, y: &Rows, rows: &[u32], _pass: &Pass) -> Result<(Hidden, Rows), MlxError> {
        let select = |x| self.ops.rows(x, rows, &self.stream);
        let y = match y {
            Rows::Shifted(y, shift) => Rows::Shifted(select(y)?, *shift),
            y => Rows::Plain(select(y.tensor()?)?),
        };
        Ok((Hidden { x: select(&x.x)?, ahead: Ahead::Nothing }, y))
    }

    fn finish(&self, x: &Hidden, norm: Option<&Norm>) -> Result<Vec<f32>, MlxError> {
        self.ops.finish(&x.x, norm, &self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_the_query_as_the_spec_does() {
        assert_eq!(seen(Sees::Before), Seen { before: Seen::ALL, after: 0 });
        assert_eq!(seen(Sees::BeforeWithin(4)), Seen { before: 3, after: 0 });
        assert_eq!(seen(Sees::AllWithin(4)), Seen { before: 4, after: 4 });
        assert_eq!(seen(Sees::BeforeWithin(usize::MAX)), Seen { before: Seen::ALL, after: 0 });
    }
}
