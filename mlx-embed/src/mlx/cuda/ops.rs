//! The kernels by name, with checked arguments, launched at once.

use std::sync::Arc;

use super::kernels::{DequantizedKernels, Geometry, Kernels, expect, grid, up, wrong};
use super::plan::{Division, Plan};
use super::queue::{Function, Queue, Role, Tensor, Tiles, on_gpu, pointer};
use super::tiles::{After, DenseTile, Tile};
use crate::mlx::Stream;
use crate::mlx::array::Array;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;
use crate::mlx::ops::{self, QuantMode, QuantizedRef};

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
pub(crate) struct Ops {
    kernels: Arc<Kernels>,
    embed: Function,
    attention: Function,
    rows: Function,
    finish: Function,
    /// Pack and dequantise.
    packing: Option<[Function; 2]>,
    packed: Vec<(After, i32, Tile, Function)>,
    dequantized: Dequantized,
    /// Last, as functions are its.
    queue: Queue,
}

/// See [`DequantizedKernels`].
#[derive(Debug)]
enum Dequantized {
    Hopper { attention: Function, products: Vec<(After, DenseTile, Function)> },
    Other { rotate: Function, norm: Function, swiglu: Function },
}

/// How a product is launched.
struct Launch<'a> {
    function: &'a Function,
    tiles: Vec<Tiles>,
    /// The first parameters.
    factors: Vec<u64>,
    blocks: [i32; 3],
    /// Pieces of its outputs, of which each has its own sums of squares.
    parts: i32,
}

/// That a kernel is asked for that this GPU does not need.
fn fused(what: &'static str) -> MlxError {
    wrong(what, "is part of the products on this GPU".into())
}

/// That gate and up can alternate eight by eight in so many numbers.
fn expect_alternating(what: &'static str, numbers: i32) -> Result<(), MlxError> {
    if numbers % 16 == 0 {
        return Ok(());
    }
    Err(wrong(what, format!("{numbers} numbers don't alternate eight by eight")))
}

fn expect_tensor(what: &'static str, tensor: &Tensor, shape: [i32; 2], dtype: Dtype) -> Result<(), MlxError> {
    if tensor.shape() == shape && tensor.dtype() == dtype {
        return Ok(());
    }
    Err(wrong(
        what,
        format!("{:?} of {} where {shape:?} of {dtype} is needed", tensor.shape(), tensor.dtype()),
    ))
}

impl Ops {
    /// On the GPU with this index.
    pub(crate) fn new(kernels: &Arc<Kernels>, gpu: i32) -> Result<Self, MlxError> {
        let queue = Queue::new(gpu)?;
        let (mut packing, mut of_packed) = (None, Vec::new());
        if let Ok(packed) = kernels.packed() {
            packing = Some([queue.load(&packed.pack)?, queue.load(&packed.dequantize)?]);
            for (after, most, tile, program) in &packed.products {
                of_packed.push((*after, *most, *tile, queue.load(program)?));
            }
        }
        let dequantized = match &kernels.dequantized {
            DequantizedKernels::Hopper { attention, products } => {
                let mut loaded = Vec::new();
                for (after, tile, program) in products {
                    loaded.push((*after, *tile, queue.load(program)?));
                }
                Dequantized::Hopper { attention: queue.load(attention)?, products: loaded }
            }
            DequantizedKernels::Other { rotate, norm, swiglu } => Dequantized::Other {
                rotate: queue.load(rotate)?,
                norm: queue.load(norm)?,
                swiglu: queue.load(swiglu)?,
            },
        };
        Ok(Self {
            embed: queue.load(&kernels.embed)?,
            attention: queue.load(&kernels.attention)?,
            rows: queue.load(&kernels.rows)?,
            finish: queue.load(&kernels.finish)?,
            packing,
            packed: of_packed,
            dequantized,
            kernels: Arc::clone(kernels),
            queue,
        })
    }

    fn packing(&self) -> Result<&[Function; 2], MlxError> {
        self.packing.as_ref().ok_or_else(|| wrong("product", "these kernels know no packed matrices".into()))
    }

    /// The matrix `w`, affine, of 4 bits and the geometry's group, as products read it. Its number of inputs is a
    /// multiple of 64.
    pub(crate) fn pack(&self, w: QuantizedRef<'_>, stream: &Stream) -> Result<Packed, MlxError> {
        let what = "pack";
        let group = self.geometry().group;
        let (&[outputs, words], Some(biases)) = (w.weight.shape(), w.biases) else {
            return Err(wrong(what, format!("{w:?} is no affine matrix")));
        };
        let inputs = words.saturating_mul(8);
        if w.bits != 4
            || w.group_size != group
            || w.mode != QuantMode::Affine
            || inputs % 64 != 0
            || outputs < 1
        {
            return Err(wrong(
                what,
                format!("{w:?} is not affine of 4 bits in groups of {group}, 64 inputs a time"),
            ));
        }
        // The kernels count in 32 bits.
        let padded = up(outputs, 64) * 64;
        if i64::from(padded) * i64::from(inputs) >= 1 << 31 {
            return Err(wrong(what, format!("{outputs} outputs of {inputs} inputs are too many")));
        }
        expect(what, w.weight, &[outputs, words], Dtype::U32)?;
        expect(what, w.scales, &[outputs, inputs / group], Dtype::Bf16)?;
        expect(what, biases, &[outputs, inputs / group], Dtype::Bf16)?;
        ops::eval([w.weight, w.scales, biases])?;
        let words = padded * (inputs / 8);
        let weight = Fixed::new(on_gpu(words as usize, stream)?)?;
        let factors = Fixed::new(on_gpu((padded * (inputs / group)) as usize, stream)?)?;
        let pointers =
            [pointer(w.weight)?, pointer(w.scales)?, pointer(biases)?, weight.pointer, factors.pointer];
        let [pack, _] = self.packing()?;
        // SAFETY: pack.cu reads the three inputs at rows below `outputs`, and writes one word a thread below
        // `padded * inputs / 8` and one factor below `padded * inputs / group`, of which there are fewer than threads.
        unsafe {
            self.queue.launch(
                pack,
                &[],
                &pointers,
                &[outputs, inputs],
                &[],
                [up(words, pack.threads()), 1, 1],
            )?;
        }
        // What it was made of may go now.
        self.queue.synchronize()?;
        Ok(Packed { weight, factors, outputs, inputs })
    }

    /// The matrix in bf16, `[outputs, inputs]`, to stay.
    pub(crate) fn dequantize(&self, w: &Packed, stream: &Stream) -> Result<Dense, MlxError> {
        let numbers = w.outputs as usize * w.inputs as usize;
        let weight = Fixed::new(on_gpu(numbers / 2, stream)?)?;
        self.dequantize_to(w, weight.pointer)?;
        Ok(Dense { weight, outputs: w.outputs, inputs: w.inputs })
    }

    fn dequantize_to(&self, w: &Packed, to: u64) -> Result<(), MlxError> {
        let [_, dequantize] = self.packing()?;
        let pointers = [w.weight.pointer, w.factors.pointer, to];
        // SAFETY: a block reads and writes one of `w`'s blocks of 64 by 64, and of the outputs those that there are; both
        // callers have room for `outputs * inputs` numbers of bf16.
        unsafe {
            let blocks = [w.inputs / 64, up(w.outputs, 64), 1];
            self.queue.launch(dequantize, &[], &pointers, &[w.outputs, w.inputs], &[], blocks)
        }
    }

    /// The matrix in bf16, for one product.
    pub(crate) fn dequantized<'a>(&self, w: &Packed, stream: &Stream) -> Result<Matrix<'a>, MlxError> {
        let dequantized = self.queue.tensor(Role::Dequantized, [w.outputs, w.inputs], Dtype::Bf16, stream)?;
        self.dequantize_to(w, dequantized.pointer())?;
        Ok(Matrix::Dequantized(dequantized))
    }

    /// Whether what follows a product is part of it also where the matrix is of bf16.
    pub(crate) fn fuses(&self) -> bool {
        matches!(self.dequantized, Dequantized::Hopper { .. })
    }

    /// `a w^T`, or plus `x`: bf16 `[T, outputs]`. The matrix is of bf16.
    fn product(
        &self,
        role: Role,
        a: &Tensor,
        w: &Matrix<'_>,
        x: Option<&Tensor>,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let [outputs, inputs] = w.shape();
        expect_tensor("product", a, [a.shape()[0], inputs], Dtype::Bf16)?;
        let pointer = w.bf16().ok_or_else(|| wrong("product", "the matrix is packed".into()))?;
        // SAFETY: `outputs` by `inputs` numbers, in an array of the model's that was checked when it was made, or in a tensor.
        unsafe { self.queue.matmul(role, a, pointer, x, outputs, stream) }
    }

    /// The product with `w` that something follows, of `a` `[T, inputs]`.
    fn choose(&self, after: After, a: &Tensor, w: &Matrix<'_>) -> Result<Launch<'_>, MlxError> {
        let ([outputs, inputs], [tokens, _]) = (w.shape(), a.shape());
        let none = || wrong("product", format!("no kernel for {tokens} tokens"));
        if let Matrix::Packed(w) = w {
            let fits = |of: &&(After, i32, Tile, Function)| of.0 == after && tokens <= of.1;
            let (_, _, tile, function) = self.packed.iter().find(fits).ok_or_else(none)?;
            let blocks = grid(*tile, tokens, outputs);
            let factors = vec![a.pointer(), w.weight.pointer, w.factors.pointer];
            return Ok(Launch { function, tiles: vec![], factors, blocks, parts: blocks[0] });
        }
        let (Dequantized::Hopper { products, .. }, Some(pointer)) = (&self.dequantized, w.bf16()) else {
            return Err(none());
        };
        let multiprocessors = self.queue.multiprocessors();
        let time = |tile: &DenseTile| tile.time(tokens, outputs, inputs, multiprocessors);
        let (_, tile, function) = products
            .iter()
            .filter(|(of, ..)| *of == after)
            .min_by(|(_, a, _), (_, b, _)| time(a).total_cmp(&time(b)))
            .ok_or_else(none)?;
        let tiles = vec![
            Tiles { matrix: a.pointer(), rows: tokens, columns: inputs, tile_rows: tile.rows },
            Tiles { matrix: pointer, rows: outputs, columns: inputs, tile_rows: tile.outputs },
        ];
        let blocks = [tile.tiles(tokens, outputs).min(multiprocessors), 1, 1];
        Ok(Launch { function, tiles, factors: vec![], blocks, parts: up(outputs, tile.outputs) })
    }

    /// Gives memory that MLX freed back to the driver.
    pub(crate) fn trim(&self) -> Result<(), MlxError> {
        self.queue.trim()
    }

    /// Waits for all that was launched.
    pub(crate) fn synchronize(&self) -> Result<(), MlxError> {
        self.queue.synchronize()
    }

    fn geometry(&self) -> &Geometry {
        &self.kernels.geometry
    }

    /// What a batch is: see [`Plan::new`].
    pub(crate) fn plan(&self, ids: &[u32], lengths: &[usize], cached: usize) -> Result<Plan, MlxError> {
        let Geometry { heads, kv_heads, .. } = *self.geometry();
        let division = Division::of(lengths, cached, self.fuses(), (heads / kv_heads) as usize);
        Plan::new(ids, lengths, cached, division)
    }

    /// The plan on the GPU, for the other functions.
    pub(crate) fn meta(&self, plan: &Plan, stream: &Stream) -> Result<Tensor, MlxError> {
        self.queue.write(Role::Meta, &plan.numbers, stream)
    }

    /// The residual stream's start, that times `scale` (the first norm's weight) with its squares, and the cosines and
    /// sines of every token's angles, f32 `[T, 2, E / 2]`. `meta` is the plan's; the rest is as
    /// [`Kernels::expect_embedding`] says.
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
        let new = |role, columns, dtype| self.queue.tensor(role, [tokens, columns], dtype, stream);
        let x = new(Role::Residual, hidden, Dtype::Bf16)?;
        let scaled = new(Role::Scaled, hidden, Dtype::Bf16)?;
        let squares = new(Role::Squares, 1, Dtype::F32)?;
        let turns = new(Role::Angles, head_dim, Dtype::F32)?;
        let mut pointers = vec![meta.pointer()];
        pointers.extend(table.iter().map(|part| part.pointer));
        pointers.extend([scale.pointer, angles.pointer]);
        pointers.extend([&x, &scaled, &squares, &turns].map(Tensor::pointer));
        // SAFETY: a block has a token; its id is below the vocabulary's size and its position within `angles`, both checked
        // above, and its rows of the outputs are its own. What is fixed lives in the model.
        unsafe {
            self.queue.launch(&self.embed, &[], &pointers, &[hidden, tokens], &[], [tokens, 1, 1])?;
        }
        Ok((x, Scaled { scaled, squares }, turns))
    }

    fn expect_scaled(&self, what: &'static str, x: &Scaled, inputs: i32) -> Result<[i32; 2], MlxError> {
        let [tokens, parts] = x.squares.shape();
        expect_tensor(what, &x.scaled, [tokens, inputs], Dtype::Bf16)?;
        expect_tensor(what, &x.squares, [tokens, parts], Dtype::F32)?;
        Ok([tokens, parts])
    }

    /// Queries, keys and values of `x`'s norm, rotated: bf16 `[T, (H + 2K) * E]`. The rest is as in [`Ops::rotate`].
    pub(crate) fn qkv(
        &self,
        x: &Scaled,
        w: &Matrix<'_>,
        [bias, norms]: [Option<&Fixed>; 2],
        angles: &Tensor,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let what = "qkv";
        let Geometry { heads, kv_heads, head_dim, eps, .. } = *self.geometry();
        let [outputs, inputs] = w.shape();
        let [tokens, parts] = self.expect_scaled(what, x, inputs)?;
        expect_tensor(what, angles, [tokens, head_dim], Dtype::F32)?;
        if outputs != self.geometry().qkv() {
            return Err(wrong(
                what,
                format!("{outputs} outputs for {} elements of heads", self.geometry().qkv()),
            ));
        }
        self.kernels.of_heads(what, bias.map(Fixed::array), norms.map(Fixed::array))?;
        let [bias, norms] = [bias, norms].map(|of| of.map_or(0, |of| of.pointer));
        let out = self.queue.tensor(Role::Wide, [tokens, outputs], Dtype::Bf16, stream)?;
        let launch = self.choose(After::Rotate, &x.scaled, w)?;
        let more = [x.squares.pointer(), bias, norms, angles.pointer(), out.pointer()];
        let ints = [tokens, outputs, inputs, parts, heads, heads + kv_heads];
        // SAFETY: blocks cover tokens and outputs, and the kernels leave out what is beyond either; all shapes were
        // checked above and `w` was packed for its sizes. Bias and norms are read only where the geometry has them.
        unsafe { self.launch(&launch, &more, &ints, &[eps, eps])? };
        Ok(out)
    }

    /// # Safety
    /// As [`Queue::launch`], with the first parameters as they were chosen.
    unsafe fn launch(
        &self,
        launch: &Launch<'_>,
        more: &[u64],
        ints: &[i32],
        floats: &[f32],
    ) -> Result<(), MlxError> {
        let pointers = [&launch.factors[..], more].concat();
        // SAFETY: the caller's promise.
        unsafe { self.queue.launch(launch.function, &launch.tiles, &pointers, ints, floats, launch.blocks) }
    }

    /// `x` `[T, D]` plus the product of `a` `[T, inputs]`, and that times `scale` `[D]` with its squares.
    pub(crate) fn add(
        &self,
        x: &Tensor,
        a: &Tensor,
        w: &Matrix<'_>,
        scale: &Fixed,
        stream: &Stream,
    ) -> Result<(Tensor, Scaled), MlxError> {
        let what = "add";
        let ([outputs, inputs], [tokens, _]) = (w.shape(), a.shape());
        expect_tensor(what, a, [tokens, inputs], Dtype::Bf16)?;
        expect_tensor(what, x, [tokens, outputs], Dtype::Bf16)?;
        expect(what, &scale.array, &[outputs], Dtype::Bf16)?;
        let launch = self.choose(After::Add, a, w)?;
        let out = self.queue.tensor(Role::Residual, [tokens, outputs], Dtype::Bf16, stream)?;
        let scaled = self.queue.tensor(Role::Scaled, [tokens, outputs], Dtype::Bf16, stream)?;
        let squares = self.queue.tensor(Role::Squares, [tokens, launch.parts], Dtype::F32, stream)?;
        let more = [x.pointer(), scale.pointer, out.pointer(), scaled.pointer(), squares.pointer()];
        // SAFETY: as in `qkv`; a part of the outputs has its own squares.
        unsafe { self.launch(&launch, &more, &[tokens, outputs, inputs], &[])? };
        Ok((out, Scaled { scaled, squares }))
    }

    /// `silu(gate) * up` of `x`'s norm, bf16 `[T, outputs / 2]`; gate's and up's outputs alternate eight by eight.
    pub(crate) fn gated(&self, x: &Scaled, w: &Matrix<'_>, stream: &Stream) -> Result<Tensor, MlxError> {
        let what = "gated";
        let [outputs, inputs] = w.shape();
        let [tokens, parts] = self.expect_scaled(what, x, inputs)?;
        expect_alternating(what, outputs)?;
        let out = self.queue.tensor(Role::Wide, [tokens, outputs / 2], Dtype::Bf16, stream)?;
        let launch = self.choose(After::SwiGlu, &x.scaled, w)?;
        let more = [x.squares.pointer(), out.pointer()];
        // SAFETY: as in `qkv`.
        unsafe { self.launch(&launch, &more, &[tokens, outputs, inputs, parts], &[self.geometry().eps])? };
        Ok(out)
    }

    /// What each token gathers from its text's tokens up to it, and from those before the text: bf16 `[T, H * E]`.
    ///
    /// `qkv` is as [`Ops::qkv`] makes it, `cached` keys and values of the plan's cache, `[at least cached, K * E]` each.
    pub(crate) fn attention(
        &self,
        qkv: &Tensor,
        cached: Option<[&Array; 2]>,
        plan: &Plan,
        meta: &Tensor,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let what = "attention";
        let Geometry { heads, kv_heads, head_dim, .. } = *self.geometry();
        let tokens = plan.tokens;
        expect_tensor(what, qkv, [tokens, self.geometry().qkv()], Dtype::Bf16)?;
        expect_tensor(what, meta, [1, plan.numbers.len() as i32], Dtype::I32)?;
        self.kernels.expect_cache(cached, plan)?;
        let [keys, values] = match cached {
            Some([keys, values]) => [pointer(keys)?, pointer(values)?],
            None => [qkv.pointer(); 2],
        };
        let out = self.queue.tensor(Role::Mixed, [tokens, heads * head_dim], Dtype::Bf16, stream)?;
        let pointers = [qkv.pointer(), keys, values, meta.pointer(), out.pointer()];
        let (at, scale) = (2 * tokens, (head_dim as f32).powf(-0.5));
        let (function, ints, blocks) = match (plan.division, &self.dequantized) {
            (Division::Single, _) => {
                (&self.attention, vec![at, heads, kv_heads, plan.cached], [plan.parts, heads, 1])
            }
            (Division::Pairs { .. }, Dequantized::Hopper { attention, .. }) => {
                let all = plan.parts * kv_heads;
                let blocks = [all.min(self.queue.multiprocessors()), 1, 1];
                (attention, vec![at, all, heads, kv_heads, plan.cached], blocks)
            }
            (division, _) => return Err(wrong(what, format!("no kernel for {division:?}"))),
        };
        // SAFETY: a plan's parts lie within its tokens, of which `qkv` has a row each; the cache was checked above and is
        // held by the prefix that the batch continues.
        unsafe {
            self.queue.launch(function, &[], &pointers, &ints, &[scale], blocks)?;
        }
        Ok(out)
    }

    /// As [`Ops::qkv`], of the norm `x` bf16 `[T, D]`, by kernels apart. The matrix is of bf16.
    pub(crate) fn qkv_apart(
        &self,
        x: &Tensor,
        w: &Matrix<'_>,
        of_heads: [Option<&Fixed>; 2],
        angles: &Tensor,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let qkv = self.product(Role::Both, x, w, None, stream)?;
        self.rotate(&qkv, of_heads, angles, stream)
    }

    /// As [`Ops::add`], by kernels apart; with the norm, bf16 `[T, D]`, in place of what it is made of.
    pub(crate) fn add_apart(
        &self,
        x: &Tensor,
        a: &Tensor,
        w: &Matrix<'_>,
        scale: &Fixed,
        stream: &Stream,
    ) -> Result<(Tensor, Tensor), MlxError> {
        let x = self.product(Role::Residual, a, w, Some(x), stream)?;
        let normed = self.norm(&x, scale, stream)?;
        Ok((x, normed))
    }

    /// As [`Ops::gated`], of the norm `x` bf16 `[T, D]`, by kernels apart.
    pub(crate) fn gated_apart(
        &self,
        x: &Tensor,
        w: &Matrix<'_>,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let what = "swiglu";
        let both = self.product(Role::Both, x, w, None, stream)?;
        let [tokens, width] = both.shape();
        expect_alternating(what, width)?;
        let Dequantized::Other { swiglu, .. } = &self.dequantized else { return Err(fused(what)) };
        let out = self.queue.tensor(Role::Wide, [tokens, width / 2], Dtype::Bf16, stream)?;
        let eights = tokens * (width / 16);
        let pointers = [both.pointer(), out.pointer()];
        // SAFETY: a thread has eight numbers of each, and leaves out what is beyond the last.
        unsafe {
            let blocks = [up(eights, swiglu.threads()), 1, 1];
            self.queue.launch(swiglu, &[], &pointers, &[eights], &[], blocks)?;
        }
        Ok(out)
    }

    /// Bias, head norms and rotation of a product `[T, (H + 2K) * E]`. `bias` is `[(H + 2K) * E]`, `norms` the weights of
    /// queries' and keys' `[2, E]`, `angles` as [`Ops::embed`] made them.
    fn rotate(
        &self,
        qkv: &Tensor,
        [bias, norms]: [Option<&Fixed>; 2],
        angles: &Tensor,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let what = "rotate";
        let Geometry { heads, kv_heads, head_dim, eps, .. } = *self.geometry();
        let [tokens, width] = [qkv.shape()[0], self.geometry().qkv()];
        expect_tensor(what, qkv, [tokens, width], Dtype::Bf16)?;
        expect_tensor(what, angles, [tokens, head_dim], Dtype::F32)?;
        self.kernels.of_heads(what, bias.map(Fixed::array), norms.map(Fixed::array))?;
        let Dequantized::Other { rotate, .. } = &self.dequantized else { return Err(fused(what)) };
        let [bias, norms] = [bias, norms].map(|of| of.map_or(0, |of| of.pointer));
        let out = self.queue.tensor(Role::Wide, [tokens, width], Dtype::Bf16, stream)?;
        let all_heads = heads + 2 * kv_heads;
        let pointers = [qkv.pointer(), bias, norms, angles.pointer(), out.pointer()];
        let ints = [tokens, all_heads, heads, heads + kv_heads];
        let blocks = [up(tokens * all_heads, rotate.threads() / 32), 1, 1];
        // SAFETY: a warp has one head of one token, and leaves out what is beyond the last. Bias and norms are read only
        // where the geometry has them.
        unsafe { self.queue.launch(rotate, &[], &pointers, &ints, &[eps], blocks)? };
        Ok(out)
    }

    /// The norm of `x` `[T, D]` with weight `scale`, bf16, for products apart.
    pub(crate) fn norm(&self, x: &Tensor, scale: &Fixed, stream: &Stream) -> Result<Tensor, MlxError> {
        let what = "norm";
        let Geometry { hidden, eps, .. } = *self.geometry();
        let [tokens, _] = x.shape();
        expect_tensor(what, x, [tokens, hidden], Dtype::Bf16)?;
        expect(what, &scale.array, &[hidden], Dtype::Bf16)?;
        let Dequantized::Other { norm, .. } = &self.dequantized else { return Err(fused(what)) };
        let out = self.queue.tensor(Role::Scaled, [tokens, hidden], Dtype::Bf16, stream)?;
        let pointers = [x.pointer(), scale.pointer, out.pointer()];
        // SAFETY: a block has a token's row of both.
        unsafe { self.queue.launch(norm, &[], &pointers, &[hidden], &[eps], [tokens, 1, 1])? };
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
        let list = self.queue.write(Role::Rows, &list, stream)?;
        let out = self.queue.tensor(Role::Selected, [rows.len() as i32, width], Dtype::Bf16, stream)?;
        let pointers = [x.pointer(), list.pointer(), out.pointer()];
        // SAFETY: a block copies one row, which lies within `x`, as was checked above.
        unsafe {
            self.queue.launch(&self.rows, &[], &pointers, &[width], &[], [rows.len() as i32, 1, 1])?;
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
        let out = self.queue.tensor(Role::Result, [tokens, hidden], Dtype::F32, stream)?;
        let pointers = [x.pointer(), norm.map_or(0, |norm| norm.pointer), out.pointer()];
        // SAFETY: a block has one row; the weight is read only where there is one.
        unsafe {
            let ints = [hidden, i32::from(norm.is_some())];
            self.queue.launch(&self.finish, &[], &pointers, &ints, &[eps], [tokens, 1, 1])?;
        }
        self.queue.read(&out)
    }

    /// `x` as an array of MLX's; see [`Queue::array`].
    pub(crate) fn array(&self, x: &Tensor, stream: &Stream) -> Result<Array, MlxError> {
        self.queue.array(x, stream)
    }
}

/// A 4-bit matrix as `product.cu` reads it.
#[derive(Debug)]
pub(crate) struct Packed {
    weight: Fixed,  // u32, see pack.cu
    factors: Fixed, // u32, see pack.cu
    outputs: i32,
    inputs: i32,
}

/// A matrix of bf16.
#[derive(Debug)]
pub(crate) struct Dense {
    weight: Fixed,
    outputs: i32,
    inputs: i32,
}

impl Dense {
    /// `weight` is bf16 `[outputs, inputs]`.
    pub(crate) fn new(weight: Array) -> Result<Self, MlxError> {
        let &[outputs, inputs] = weight.shape() else {
            return Err(wrong("product", format!("{weight:?} is no matrix")));
        };
        expect("product", &weight, &[outputs, inputs], Dtype::Bf16)?;
        let weight = Fixed::new(weight)?;
        if weight.pointer % 16 != 0 {
            return Err(wrong("product", "a matrix that does not begin at a multiple of 16 bytes".into()));
        }
        Ok(Self { weight, outputs, inputs })
    }
}

/// The right factor of a product.
#[derive(Debug)]
pub(crate) enum Matrix<'a> {
    Packed(&'a Packed),
    /// Of bf16, and stays.
    Dense(&'a Dense),
    /// Of bf16, for this product.
    Dequantized(Tensor),
}

impl Matrix<'_> {
    /// Outputs, inputs.
    fn shape(&self) -> [i32; 2] {
        match self {
            Self::Packed(w) => [w.outputs, w.inputs],
            Self::Dense(w) => [w.outputs, w.inputs],
            Self::Dequantized(w) => w.shape(),
        }
    }

    /// Where its numbers of bf16 lie, if it has such.
    fn bf16(&self) -> Option<u64> {
        match self {
            Self::Packed(_) => None,
            Self::Dense(w) => Some(w.weight.pointer),
            Self::Dequantized(w) => Some(w.pointer()),
        }
    }
}
