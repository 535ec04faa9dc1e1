//! The kernels that products on packed weights go with, launched at once.

use std::sync::Arc;

use super::kernels::{Geometry, Kernels, Packed, expect, grid, wrong};
use super::plan::Plan;
use super::queue::{Function, Queue, Tensor, pointer};
use super::tiles::{After, Tile};
use crate::mlx::Stream;
use crate::mlx::array::Array;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;

/// An array that kernels read where it lies. Nobody else reads it meanwhile, which could move it.
#[derive(Debug)]
pub(crate) struct Fixed {
    array: Array,
    pointer: u64,
}

impl Fixed {
    /// Computes the array.
    pub(crate) fn new(array: Array) -> Result<Self, MlxError> {
        array.eval()?;
        Ok(Self { pointer: pointer(&array)?, array })
    }

    pub(crate) fn array(&self) -> &Array {
        &self.array
    }
}

/// Activations before their norm is known: times its weight, and parts of the sums of the squares without it.
#[derive(Debug)]
pub(crate) struct Scaled {
    scaled: Tensor,  // bf16 [T, D]
    squares: Tensor, // f32 [T, parts]
}

/// The kernels for one model, loaded. They belong to their thread.
#[derive(Debug)]
pub(crate) struct Eager {
    kernels: Arc<Kernels>,
    embed: Function,
    attention: Function,
    rows: Function,
    finish: Function,
    products: Vec<(After, i32, Tile, Function)>,
    /// Last, as functions are its.
    queue: Queue,
}

fn expect_tensor(what: &'static str, tensor: &Tensor, shape: [i32; 2], dtype: Dtype) -> Result<(), MlxError> {
    if tensor.shape() == shape && tensor.dtype() == dtype {
        return Ok(());
    }
    Err(wrong(what, format!("{:?} of {} where {shape:?} of {dtype} is needed", tensor.shape(), tensor.dtype())))
}

impl Eager {
    pub(crate) fn new(kernels: &Arc<Kernels>) -> Result<Self, MlxError> {
        let packed = kernels.packed()?;
        let queue = Queue::new()?;
        let mut products = Vec::new();
        for (after, most, tile, program) in &packed.products {
            products.push((*after, *most, *tile, queue.load(program)?));
        }
        Ok(Self {
            embed: queue.load(&kernels.embed)?,
            attention: queue.load(&kernels.attention)?,
            rows: queue.load(&packed.rows)?,
            finish: queue.load(&packed.finish)?,
            products,
            kernels: Arc::clone(kernels),
            queue,
        })
    }

    fn geometry(&self) -> &Geometry {
        &self.kernels.geometry
    }

    /// The plan on the GPU, for the other functions.
    pub(crate) fn meta(&self, plan: &Plan, stream: &Stream) -> Result<Tensor, MlxError> {
        self.queue.write(&plan.numbers, stream)
    }

    /// As [`Kernels::embed`], and the start times `scale` with its squares. `meta` is the plan's.
    pub(crate) fn embed(
        &self,
        plan: &Plan,
        meta: &Tensor,
        table: &[Fixed],
        scale: &Fixed,
        angles: &Fixed,
        stream: &Stream,
    ) -> Result<(Tensor, Scaled, Tensor), MlxError> {
        let arrays: Vec<&Array> = table.iter().map(Fixed::array).collect();
        self.kernels.expect_embedding(plan, &arrays, &scale.array, &angles.array)?;
        expect_tensor("embed", meta, [1, plan.numbers.len() as i32], Dtype::I32)?;
        let Geometry { hidden, head_dim, .. } = *self.geometry();
        let tokens = plan.tokens;
        let new = |columns, dtype| self.queue.tensor([tokens, columns], dtype, stream);
        let (x, scaled) = (new(hidden, Dtype::Bf16)?, new(hidden, Dtype::Bf16)?);
        let (squares, turns) = (new(1, Dtype::F32)?, new(head_dim, Dtype::F32)?);
        let mut pointers = vec![meta.pointer()];
        pointers.extend(table.iter().map(|part| part.pointer));
        pointers.extend([scale.pointer, angles.pointer]);
        pointers.extend([&x, &scaled, &squares, &turns].map(Tensor::pointer));
        // SAFETY: as in `Kernels::embed`; the tensors are this queue's, what is fixed lives in the model.
        unsafe {
            self.queue.launch(&self.embed, &pointers, &[hidden, tokens], &[], [tokens, 1, 1])?;
        }
        Ok((x, Scaled { scaled, squares }, turns))
    }

    fn product(&self, after: After, tokens: i32) -> Result<(Tile, &Function), MlxError> {
        self.products
            .iter()
            .find(|(of, most, ..)| *of == after && tokens <= *most)
            .map(|(_, _, tile, function)| (*tile, function))
            .ok_or_else(|| wrong("product", format!("no kernel for {tokens} tokens")))
    }

    fn expect_scaled(&self, what: &'static str, x: &Scaled, inputs: i32) -> Result<[i32; 2], MlxError> {
        let [tokens, parts] = x.squares.shape();
        expect_tensor(what, &x.scaled, [tokens, inputs], Dtype::Bf16)?;
        expect_tensor(what, &x.squares, [tokens, parts], Dtype::F32)?;
        Ok([tokens, parts])
    }

    /// Queries, keys and values of `x`'s norm, rotated: bf16 `[T, (H + 2K) * E]`. The rest is as in
    /// [`Kernels::rotate`].
    pub(crate) fn qkv(
        &self,
        x: &Scaled,
        w: &Weights,
        [bias, norms]: [Option<&Fixed>; 2],
        angles: &Tensor,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let what = "qkv";
        let Geometry { heads, kv_heads, head_dim, eps, .. } = *self.geometry();
        let [tokens, parts] = self.expect_scaled(what, x, w.inputs)?;
        expect_tensor(what, angles, [tokens, head_dim], Dtype::F32)?;
        if w.outputs != self.geometry().qkv() {
            return Err(wrong(what, format!("{} outputs for {} elements of heads", w.outputs, self.geometry().qkv())));
        }
        self.kernels.of_heads(what, bias.map(Fixed::array), norms.map(Fixed::array), &w.packed.weight)?;
        let [bias, norms] = [bias, norms].map(|of| of.map_or(0, |of| of.pointer));
        let out = self.queue.tensor([tokens, w.outputs], Dtype::Bf16, stream)?;
        let (tile, function) = self.product(After::Rotate, tokens)?;
        let pointers = [
            x.scaled.pointer(),
            w.weight,
            w.factors,
            x.squares.pointer(),
            bias,
            norms,
            angles.pointer(),
            out.pointer(),
        ];
        let ints = [tokens, w.outputs, w.inputs, parts, heads, heads + kv_heads];
        // SAFETY: blocks cover tokens and outputs, and product.cu leaves out what is beyond either; all shapes were
        // checked above and `w` was packed for its sizes. Bias and norms are read only where the geometry has them.
        unsafe {
            self.queue.launch(function, &pointers, &ints, &[eps, eps], grid(tile, tokens, w.outputs))?;
        }
        Ok(out)
    }

    /// `x` `[T, D]` plus the product of `a` `[T, inputs]`, and that times `scale` `[D]` with its squares.
    pub(crate) fn add(
        &self,
        x: &Tensor,
        a: &Tensor,
        w: &Weights,
        scale: &Fixed,
        stream: &Stream,
    ) -> Result<(Tensor, Scaled), MlxError> {
        let what = "add";
        let [tokens, _] = a.shape();
        expect_tensor(what, a, [tokens, w.inputs], Dtype::Bf16)?;
        expect_tensor(what, x, [tokens, w.outputs], Dtype::Bf16)?;
        expect(what, &scale.array, &[w.outputs], Dtype::Bf16)?;
        let (tile, function) = self.product(After::Add, tokens)?;
        let blocks = grid(tile, tokens, w.outputs);
        let out = self.queue.tensor([tokens, w.outputs], Dtype::Bf16, stream)?;
        let scaled = self.queue.tensor([tokens, w.outputs], Dtype::Bf16, stream)?;
        let squares = self.queue.tensor([tokens, blocks[0]], Dtype::F32, stream)?;
        let pointers = [
            a.pointer(),
            w.weight,
            w.factors,
            x.pointer(),
            scale.pointer,
            out.pointer(),
            scaled.pointer(),
            squares.pointer(),
        ];
        // SAFETY: as in `qkv`; a block writes the squares of its outputs.
        unsafe {
            self.queue.launch(function, &pointers, &[tokens, w.outputs, w.inputs], &[], blocks)?;
        }
        Ok((out, Scaled { scaled, squares }))
    }

    /// `silu(gate) * up` of `x`'s norm, bf16 `[T, outputs / 2]`; gate's and up's outputs alternate eight by eight.
    pub(crate) fn gated(&self, x: &Scaled, w: &Weights, stream: &Stream) -> Result<Tensor, MlxError> {
        let what = "gated";
        let [tokens, parts] = self.expect_scaled(what, x, w.inputs)?;
        if w.outputs % 16 != 0 {
            return Err(wrong(what, format!("{} outputs don't alternate eight by eight", w.outputs)));
        }
        let out = self.queue.tensor([tokens, w.outputs / 2], Dtype::Bf16, stream)?;
        let (tile, function) = self.product(After::SwiGlu, tokens)?;
        let pointers = [
            x.scaled.pointer(),
            w.weight,
            w.factors,
            x.squares.pointer(),
            out.pointer(),
        ];
        let ints = [tokens, w.outputs, w.inputs, parts];
        let eps = self.geometry().eps;
        // SAFETY: as in `qkv`.
        unsafe {
            self.queue.launch(function, &pointers, &ints, &[eps], grid(tile, tokens, w.outputs))?;
        }
        Ok(out)
    }

    /// As [`Kernels::attention`].
    pub(crate) fn attention(
        &self,
        qkv: &Tensor,
        past: Option<[&Array; 2]>,
        plan: &Plan,
        meta: &Tensor,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let what = "attention";
        let Geometry { heads, kv_heads, head_dim, .. } = *self.geometry();
        let tokens = plan.tokens;
        expect_tensor(what, qkv, [tokens, self.geometry().qkv()], Dtype::Bf16)?;
        expect_tensor(what, meta, [1, plan.numbers.len() as i32], Dtype::I32)?;
        self.kernels.expect_past(past, plan)?;
        let [keys, values] = match past {
            Some([keys, values]) => [pointer(keys)?, pointer(values)?],
            None => [qkv.pointer(); 2],
        };
        let out = self.queue.tensor([tokens, heads * head_dim], Dtype::Bf16, stream)?;
        let pointers = [qkv.pointer(), keys, values, meta.pointer(), out.pointer()];
        let ints = [2 * tokens, heads, kv_heads, plan.past];
        let scale = (head_dim as f32).powf(-0.5);
        // SAFETY: a plan's blocks lie within its tokens, of which `qkv` has a row each; the past was checked above and is
        // held by the prefix that the batch continues.
        unsafe {
            self.queue.launch(&self.attention, &pointers, &ints, &[scale], [plan.blocks, heads, 1])?;
        }
        Ok(out)
    }

    /// These rows of `x`.
    pub(crate) fn rows(&self, x: &Tensor, rows: &[u32], stream: &Stream) -> Result<Tensor, MlxError> {
        let what = "rows";
        let [tokens, width] = x.shape();
        let list: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        if x.dtype() != Dtype::Bf16 || width % 8 != 0 || list.iter().any(|row| !(0..tokens).contains(row)) {
            return Err(wrong(what, format!("rows {rows:?} of {:?} of {}", x.shape(), x.dtype())));
        }
        let list = self.queue.write(&list, stream)?;
        let out = self.queue.tensor([rows.len() as i32, width], Dtype::Bf16, stream)?;
        let pointers = [x.pointer(), list.pointer(), out.pointer()];
        // SAFETY: a block copies one row, which lies within `x`, as was checked above.
        unsafe {
            self.queue.launch(&self.rows, &pointers, &[width], &[], [rows.len() as i32, 1, 1])?;
        }
        Ok(out)
    }

    /// Waits for `x` `[T, D]`, and reads it as it is or, with a weight, its norm.
    pub(crate) fn finish(
        &self,
        x: &Tensor,
        norm: Option<&Fixed>,
        stream: &Stream,
    ) -> Result<Vec<f32>, MlxError> {
        let what = "finish";
        let Geometry { hidden, eps, .. } = *self.geometry();
        let [tokens, _] = x.shape();
        expect_tensor(what, x, [tokens, hidden], Dtype::Bf16)?;
        if let Some(norm) = norm {
            expect(what, &norm.array, &[hidden], Dtype::Bf16)?;
        }
        let out = self.queue.tensor([tokens, hidden], Dtype::F32, stream)?;
        let pointers = [x.pointer(), norm.map_or(0, |norm| norm.pointer), out.pointer()];
        // SAFETY: a block has one row; the weight is read only where there is one.
        unsafe {
            let ints = [hidden, i32::from(norm.is_some())];
            self.queue.launch(&self.finish, &pointers, &ints, &[eps], [tokens, 1, 1])?;
        }
        self.queue.read(&out)
    }

    /// `x` as an array of MLX's; see [`Queue::array`].
    pub(crate) fn array(&self, x: &Tensor, stream: &Stream) -> Result<Array, MlxError> {
        self.queue.array(x, stream)
    }
}

/// A packed matrix where products find it.
#[derive(Debug)]
pub(crate) struct Weights {
    packed: Packed,
    weight: u64,
    factors: u64,
    outputs: i32,
    inputs: i32,
}

impl Weights {
    /// Computes the matrix.
    pub(crate) fn new(packed: Packed) -> Result<Self, MlxError> {
        packed.eval()?;
        Ok(Self {
            weight: pointer(&packed.weight)?,
            factors: pointer(&packed.factors)?,
            outputs: packed.outputs,
            inputs: packed.inputs,
            packed,
        })
    }

    /// For [`Kernels::expand`].
    pub(crate) fn packed(&self) -> &Packed {
        &self.packed
    }
}
