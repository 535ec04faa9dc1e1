//! The kernels with checked arguments, launched at once: what every model runs, and layers whose norms, rotation, residual
//! connections and activation are part of the products.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::arguments::{
    ActivateArguments, AfterArguments, AttentionArguments, DenseArguments, DequantizeArguments,
    EmbedArguments, FinishArguments, HalveArguments, HopperAttentionArguments, HopperProductArguments,
    LargestArguments, MeanArguments, PackArguments, ProductArguments, RotateArguments, RowNormsArguments,
    RowsArguments, SumArguments,
};
use super::format::Format;
use super::halves::Halved;
use super::kernels::{Geometry, Heads, Kernels, Name, grid, wrong};
use super::matrix::{Fixed, Matrix, Norm, address};
use super::plan::{Division, Plan};
use super::queue::{Function, Queue, Role, Tensor, pointer, tiles};
use super::tiles::{After, DenseTile, HopperTile, Tile, best, up};
use crate::mlx::Stream;
use crate::mlx::array::Array;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;

/// Activations before their norm is known: times its weight, and parts of the sums of the squares without it.
#[derive(Debug)]
pub(crate) struct Scaled {
    scaled: Tensor,  // bf16 [T, D]
    squares: Tensor, // f32 [T, parts]
}

/// The norm of activations, for products that have in them what is around them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Normed<'a> {
    /// Of bf16, where the norm is part of the product.
    Scaled(&'a Scaled),
    /// Of f16.
    Halved(&'a Halved),
}

impl Normed<'_> {
    /// What is multiplied.
    fn rows(&self) -> &Tensor {
        match self {
            Self::Scaled(x) => &x.scaled,
            Self::Halved(x) => x.numbers(),
        }
    }

    /// What the product has to know of it. `eps` is the norm's.
    fn arguments(&self, eps: f32) -> AfterArguments {
        match self {
            Self::Scaled(Scaled { squares, .. }) => {
                let [_, parts] = squares.shape();
                AfterArguments { squares: squares.pointer(), parts, eps, ..Default::default() }
            }
            Self::Halved(x) => AfterArguments { scales: x.scales(), ..Default::default() },
        }
    }
}

/// The kernels for one model, loaded. They belong to their thread.
#[derive(Debug)]
pub(crate) struct Ops {
    kernels: Arc<Kernels>,
    embed: Function<EmbedArguments>,
    /// By the width of heads.
    attention: Vec<(i32, Function<AttentionArguments>)>,
    hopper_attention: Option<Function<HopperAttentionArguments>>,
    rows: Function<RowsArguments>,
    /// Of activations of f32.
    pub(super) halve_kernel: Option<Function<HalveArguments>>,
    row_norms: Option<Function<RowNormsArguments>>,
    /// Where norms are not part of all products.
    pub(super) sum_kernel: Option<Function<SumArguments>>,
    finish: Function<FinishArguments>,
    mean: Function<MeanArguments>,
    /// Where products of dequantised weights don't have all in them.
    apart: Option<Apart>,
    /// Of the head of a masked language model.
    pub(super) mlm: Option<Mlm>,
    packing: Vec<(Format, Function<PackArguments>, Function<DequantizeArguments>)>,
    /// With the highest number of tokens that each is for, in order.
    packed: Vec<(Format, After, i32, Tile, Function<ProductArguments>)>,
    splits: Vec<Split>,
    dense: Vec<(After, DenseTile, Function<DenseArguments>)>,
    /// Last, as functions are its.
    pub(super) queue: Queue,
}

/// A kernel of `product_hopper.cu`.
#[derive(Debug)]
struct Split {
    format: Format,
    after: After,
    /// The numbers of tokens that it is for.
    tokens: RangeInclusive<i32>,
    tile: HopperTile,
    function: Function<HopperProductArguments>,
}

/// A kernel of `product.cu` or `product_hopper.cu`, and the matrix that it reads.
#[derive(Debug)]
pub(super) struct ByProduct<'a> {
    way: Way<'a>,
    /// Where they lie.
    weight: u64,
    factors: u64,
    outputs: i32,
    inputs: i32,
    /// What it multiplies.
    multiplied: Dtype,
}

#[derive(Debug)]
enum Way<'a> {
    Any(Tile, &'a Function<ProductArguments>),
    Hopper(HopperTile, &'a Function<HopperProductArguments>),
}

impl ByProduct<'_> {
    /// Blocks along outputs, tokens and inputs.
    fn grid(&self, tokens: i32) -> [i32; 3] {
        match self.way {
            Way::Any(tile, _) => grid(tile, tokens, self.outputs),
            Way::Hopper(tile, _) => tile.grid(tokens, self.outputs),
        }
    }

    /// Whether its outputs can be columns of `out` from `first` on: it writes two at once.
    pub(super) fn fits(&self, first: i32, out: &Tensor) -> bool {
        let [_, width] = out.shape();
        first >= 0 && first + self.outputs <= width && (first | self.outputs | width) % 2 == 0
    }

    /// With `a` `[T, inputs]`.
    ///
    /// # Safety
    /// What `after` names has the shapes that `after.cuh` gives, for the product's tokens and outputs.
    pub(super) unsafe fn launch(
        &self,
        queue: &Queue,
        a: &Tensor,
        after: AfterArguments,
    ) -> Result<(), MlxError> {
        let Self { weight, factors, outputs: n, inputs, .. } = *self;
        let ([tokens, _], what) = (a.shape(), "product");
        expect_tensor(what, a, [tokens, inputs], self.multiplied)?;
        let blocks = self.grid(tokens);
        // SAFETY of both: blocks cover tokens and outputs, and the kernels leave out what is beyond either; the matrix was made
        // for its sizes. The rest is the caller's promise.
        match self.way {
            Way::Any(_, function) => {
                let a = a.pointer();
                let arguments = ProductArguments { a, weight, factors, tokens, n, inputs, after };
                // SAFETY: see above.
                unsafe { queue.launch(function, &arguments, blocks) }
            }
            Way::Hopper(tile, function) => {
                let a_map = tiles(a.pointer(), [tokens, inputs], tile.tokens)?;
                let arguments = HopperProductArguments { a_map, weight, factors, tokens, n, inputs, after };
                // SAFETY: see above.
                unsafe { queue.launch(function, &arguments, blocks) }
            }
        }
    }
}

/// Kernels for what follows a product.
#[derive(Debug)]
pub(super) struct Apart {
    /// By the width of heads.
    pub(super) rotate: Vec<(i32, Function<RotateArguments>)>,
    pub(super) activate: Function<ActivateArguments>,
    /// Of what gates the inputs of layers.
    pub(super) activate_gate: Option<Function<ActivateArguments>>,
}

/// Kernels for the head of a masked language model.
#[derive(Debug)]
pub(super) struct Mlm {
    pub(super) activate: Function<ActivateArguments>,
    pub(super) largest: Function<LargestArguments>,
}

/// What a batch starts with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Embedding<'a> {
    /// `[vocab, D]` of the activations' type, or a packed one's words, scales and, of affine ones, biases.
    pub(crate) table: &'a [Fixed],
    /// What its rows are multiplied with.
    pub(crate) factor: f32,
    /// `[.., D]`, and the row of each token.
    pub(crate) positions: Option<(&'a Fixed, &'a [u32])>,
    /// `[.., D]`, and the row of each token; without, it is the first.
    pub(crate) types: Option<(&'a Fixed, Option<&'a [u32]>)>,
}

/// A layer's attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attending<'a> {
    pub(crate) heads: Heads,
    pub(crate) seen: Seen,
    /// What scores are multiplied with.
    pub(crate) scale: f32,
    /// f32 `[H, 2 * far + 1]`, as `attention.cu` takes it.
    pub(crate) distances: Option<&'a Fixed>,
}

/// The keys that the query at position i sees: from i - before to i + after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) before: i32,
    pub(crate) after: i32,
}

impl Seen {
    /// More than a text has tokens, and little enough to be added to a position.
    pub(crate) const ALL: i32 = 1 << 28;
    /// All up to the query's own.
    pub(crate) const BEFORE: Self = Self { before: Self::ALL, after: 0 };
}

/// That gate and up can alternate eight by eight in so many numbers.
fn expect_alternating(what: &'static str, numbers: i32) -> Result<(), MlxError> {
    if numbers % 16 == 0 {
        return Ok(());
    }
    Err(wrong(what, format!("{numbers} numbers don't alternate eight by eight")))
}

/// The kernel for heads of this width.
pub(super) fn of_width<T>(kernels: &[(i32, T)], heads: Heads) -> Result<&T, MlxError> {
    let found = kernels.iter().find(|(width, _)| *width == heads.head_dim);
    let none = || wrong("cuda_compile", format!("no kernel was compiled for heads of {}", heads.head_dim));
    found.map(|(_, kernel)| kernel).ok_or_else(none)
}

pub(super) fn expect_tensor(
    what: &'static str,
    tensor: &Tensor,
    shape: [i32; 2],
    dtype: Dtype,
) -> Result<(), MlxError> {
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
        let (mut packing, mut packed, mut splits, mut dense) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut attention, mut rotate) = (Vec::new(), Vec::new());
        for (name, program) in kernels.programs() {
            match name {
                Name::Pack(format) => {
                    let dequantize = queue.load(kernels.program(Name::Dequantize(format))?)?;
                    packing.push((format, queue.load(program)?, dequantize));
                }
                Name::Product(format, after, tile) => {
                    let most = kernels.most_tokens(format, after, tile);
                    packed.push((format, after, most, tile, queue.load(program)?));
                }
                Name::HopperProduct(format, after, tile) => {
                    if let Some(tokens) = kernels.tokens_of(format, after, tile) {
                        splits.push(Split { format, after, tokens, tile, function: queue.load(program)? });
                    }
                }
                Name::Dense(after, tile) => dense.push((after, tile, queue.load(program)?)),
                Name::Attention(width) => attention.push((width, queue.load(program)?)),
                Name::Rotate(width) => rotate.push((width, queue.load(program)?)),
                _ => (),
            }
        }
        let mlm = match kernels.program(Name::Largest) {
            Ok(largest) => Some(Mlm {
                activate: queue.load(kernels.program(Name::ActivateHead)?)?,
                largest: queue.load(largest)?,
            }),
            Err(_) => None,
        };
        let apart = match kernels.program(Name::Activate) {
            Ok(activate) => Some(Apart {
                rotate,
                activate: queue.load(activate)?,
                activate_gate: match kernels.program(Name::ActivateGate) {
                    Ok(activate) => Some(queue.load(activate)?),
                    Err(_) => None,
                },
            }),
            Err(_) => None,
        };
        let hopper_attention = kernels.program(Name::HopperAttention).ok();
        let halve = kernels.program(Name::Halve).ok();
        let row_norms = kernels.program(Name::RowNorms).ok();
        let sum = kernels.program(Name::Sum).ok();
        Ok(Self {
            embed: queue.load(kernels.program(Name::Embed)?)?,
            attention,
            hopper_attention: hopper_attention.map(|program| queue.load(program)).transpose()?,
            rows: queue.load(kernels.program(Name::Rows)?)?,
            halve_kernel: halve.map(|program| queue.load(program)).transpose()?,
            row_norms: row_norms.map(|program| queue.load(program)).transpose()?,
            sum_kernel: sum.map(|program| queue.load(program)).transpose()?,
            finish: queue.load(kernels.program(Name::Finish)?)?,
            mean: queue.load(kernels.program(Name::Mean)?)?,
            apart,
            mlm,
            packing,
            packed,
            splits,
            dense,
            kernels: Arc::clone(kernels),
            queue,
        })
    }

    pub(super) fn packing(
        &self,
        format: Format,
    ) -> Result<(&Function<PackArguments>, &Function<DequantizeArguments>), MlxError> {
        let found = self.packing.iter().find(|(of, ..)| *of == format);
        let none = || wrong("product", format!("these kernels know no matrices of {format:?}"));
        found.map(|(_, pack, dequantize)| (pack, dequantize)).ok_or_else(none)
    }

    pub(super) fn apart(&self) -> Result<&Apart, MlxError> {
        let fused = || wrong("cuda", "what follows a product is part of it on this GPU".into());
        self.apart.as_ref().ok_or_else(fused)
    }

    /// Whether what follows a product is part of it also where the matrix is not packed.
    pub(crate) fn fuses(&self) -> bool {
        !self.dense.is_empty()
    }

    /// In how many pieces the outputs of a product are, of which each has its own sums of squares.
    fn parts(&self, after: After, tokens: i32, w: &Matrix<'_>) -> Result<i32, MlxError> {
        let [outputs, inputs] = w.shape();
        Ok(match self.by_product(after, tokens, w)? {
            Some(by) => by.grid(tokens)[0],
            None => up(outputs, self.tile(after, [tokens, outputs, inputs])?.0.outputs),
        })
    }

    /// How `product.cu` or `product_hopper.cu` computes a product of so many tokens: with packed matrices, and with those of
    /// bf16 or f16 where there is a kernel for so few tokens.
    pub(super) fn by_product(
        &self,
        after: After,
        tokens: i32,
        w: &Matrix<'_>,
    ) -> Result<Option<ByProduct<'_>>, MlxError> {
        let multiplied = self.geometry().numbers.multiplied();
        let (format, [weight, factors]) = match (w, w.numbers(multiplied)) {
            (Matrix::Packed(w), _) => (w.format, [w.weight.pointer, w.factors]),
            // Those kernels read the matrix while the one before them, which makes it, still runs.
            (Matrix::Dequantized(..), _) => return Ok(None),
            (_, Some(numbers)) if w.shape()[1] % 64 == 0 => (Format::ROWS, [numbers, 0]),
            _ => return Ok(None),
        };
        let [outputs, inputs] = w.shape();
        let by = |way| Ok(Some(ByProduct { way, weight, factors, outputs, inputs, multiplied }));
        let multiprocessors = self.queue.multiprocessors();
        let blocks = |grid: [i32; 3]| grid.into_iter().product::<i32>();
        let splits = self
            .splits
            .iter()
            .filter(|split| split.format == format && split.after == after && split.tokens.contains(&tokens));
        let splits = splits.map(|split| {
            (split, blocks(split.tile.grid(tokens, outputs)), split.tile.blocks * multiprocessors)
        });
        // Splits are for where there are too few blocks without.
        if let Some((split, true)) = best(splits) {
            return by(Way::Hopper(split.tile, &split.function));
        }
        let suits = |of: Format, then, most| of == format && then == after && tokens <= most;
        let tiles = self.packed.iter().filter(|(of, then, most, ..)| suits(*of, *then, *most));
        let least = tiles.clone().map(|(_, _, most, ..)| *most).min();
        let tiles = tiles.filter(|(_, _, most, ..)| Some(*most) == least).map(|way| {
            let (_, _, _, tile, _) = way;
            (way, blocks(grid(*tile, tokens, outputs)), tile.blocks * multiprocessors)
        });
        match best(tiles) {
            Some(((_, _, _, tile, function), _)) => by(Way::Any(*tile, function)),
            None if format.is_packed() => {
                Err(wrong("product", format!("no kernel for {tokens} tokens and {format:?}")))
            }
            None => Ok(None),
        }
    }

    /// The kernel for a product of a matrix of bf16 or f16.
    fn tile(
        &self,
        after: After,
        [tokens, outputs, inputs]: [i32; 3],
    ) -> Result<(DenseTile, &Function<DenseArguments>), MlxError> {
        let multiprocessors = self.queue.multiprocessors();
        let time = |tile: &DenseTile| tile.time(tokens, outputs, inputs, multiprocessors);
        let of_kind = self.dense.iter().filter(|(of, ..)| *of == after);
        let best = of_kind.min_by(|(_, a, _), (_, b, _)| time(a).total_cmp(&time(b)));
        let none = || wrong("product", format!("no kernel for {tokens} tokens"));
        best.map(|(_, tile, function)| (*tile, function)).ok_or_else(none)
    }

    /// The product of `a` `[T, inputs]` with `w`, and what follows.
    ///
    /// # Safety
    /// What `then` names has the shapes that `after.cuh` gives, for the product's tokens and outputs, and parts as many as
    /// [`Ops::parts`] says.
    unsafe fn fused(
        &self,
        after: After,
        a: &Tensor,
        w: &Matrix<'_>,
        then: AfterArguments,
    ) -> Result<(), MlxError> {
        let ([n, inputs], [tokens, _]) = (w.shape(), a.shape());
        let multiplied = self.geometry().numbers.multiplied();
        expect_tensor("product", a, [tokens, inputs], multiplied)?;
        if let Some(by) = self.by_product(after, tokens, w)? {
            // SAFETY: the caller's promise.
            return unsafe { by.launch(&self.queue, a, then) };
        }
        let form = || wrong("product", "the matrix has no form".into());
        let pointer = w.numbers(multiplied).ok_or_else(form)?;
        let (tile, function) = self.tile(after, [tokens, n, inputs])?;
        let arguments = DenseArguments {
            a_map: tiles(a.pointer(), [tokens, inputs], tile.rows)?,
            w_map: tiles(pointer, [n, inputs], tile.outputs)?,
            tokens,
            n,
            inputs,
            after: then,
        };
        let blocks = [tile.tiles(tokens, n).min(self.queue.multiprocessors()), 1, 1];
        // SAFETY: as above; the matrix has its shape since it was made.
        unsafe { self.queue.launch(function, &arguments, blocks) }
    }

    /// Gives memory that MLX freed back to the driver.
    pub(crate) fn trim(&self) -> Result<(), MlxError> {
        self.queue.trim()
    }

    /// All weights are there: what they came through goes.
    pub(crate) fn loaded(&self) -> Result<(), MlxError> {
        self.queue.loaded()
    }

    /// From here on passes that recur are launched as one.
    pub(crate) fn record(&self) {
        self.queue.record();
    }

    /// A pass begins: what is launched until a result is read.
    pub(crate) fn begin(&self) {
        self.queue.begin();
    }

    /// Waits for all that was launched.
    pub(crate) fn synchronize(&self) -> Result<(), MlxError> {
        self.queue.synchronize()
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.kernels.geometry
    }

    /// What a batch is: see [`Plan::new`].
    pub(crate) fn plan(
        &self,
        ids: &[u32],
        lengths: &[usize],
        seen: &[usize],
        cached: usize,
    ) -> Result<Plan, MlxError> {
        let Heads { heads, kv_heads, .. } = self.geometry().heads;
        let hopper = self.hopper_attention.is_some();
        let division = Division::of(lengths, cached, hopper, (heads / kv_heads) as usize);
        Plan::new(ids, lengths, seen, cached, division)
    }

    /// The plan on the GPU, for the other functions.
    pub(crate) fn meta(&self, plan: &Plan, stream: &Stream) -> Result<Tensor, MlxError> {
        self.queue.write(Role::Meta, &plan.numbers, plan.numbers.len() as i32, stream)
    }

    pub(super) fn expect_meta(&self, what: &'static str, plan: &Plan, meta: &Tensor) -> Result<(), MlxError> {
        expect_tensor(what, meta, [1, plan.numbers.len() as i32], Dtype::I32)
    }

    /// That there are angles for all positions.
    pub(super) fn expect_angles(
        &self,
        what: &'static str,
        heads: Heads,
        plan: &Plan,
        angles: &Fixed,
    ) -> Result<(), MlxError> {
        let numbers = angles.shape().iter().map(|&size| size as usize).product::<usize>();
        if numbers >= plan.positions() * heads.head_dim as usize {
            return angles.expect(what, angles.shape(), Dtype::F32);
        }
        Err(wrong(what, format!("{angles:?} for {} positions", plan.positions())))
    }

    /// Checks bias f32 `[(H + 2K) * E]` and head norms f32 `[2, E]`, which are there where the geometry has them.
    pub(super) fn expect_of_heads(
        &self,
        what: &'static str,
        heads: Heads,
        [bias, norms]: [Option<&Fixed>; 2],
    ) -> Result<(), MlxError> {
        let geometry = self.geometry();
        if bias.is_some() != geometry.bias || norms.is_some() != geometry.head_norms {
            return Err(wrong(what, "bias or head norms are not as the kernels were compiled for".into()));
        }
        if let Some(bias) = bias {
            bias.expect(what, &[heads.qkv()], Dtype::F32)?;
        }
        if let Some(norms) = norms {
            norms.expect(what, &[2, heads.head_dim], Dtype::F32)?;
        }
        Ok(())
    }

    /// Checks the token ids and the tables.
    fn expect_embedding(&self, plan: &Plan, of: &Embedding<'_>) -> Result<(), MlxError> {
        let what = "embed";
        let Geometry { hidden, vocab, table, numbers, .. } = *self.geometry();
        let dtype = numbers.dtype();
        match (table, of.table) {
            (None, [rows]) => rows.expect(what, &[vocab, hidden], dtype)?,
            (Some(format), [words, scales, biases @ ..]) if format.has_biases() == (biases.len() == 1) => {
                let groups = [vocab, hidden / format.group()];
                words.expect(what, &[vocab, hidden / 32 * format.bits()], Dtype::U32)?;
                scales.expect(what, &groups, format.scales(dtype))?;
                biases.iter().try_for_each(|biases| biases.expect(what, &groups, dtype))?;
            }
            _ => return Err(wrong(what, format!("{} arrays for a table of {table:?}", of.table.len()))),
        }
        if plan.ids() > vocab as u32 {
            return Err(wrong(what, format!("token id {} in a vocabulary of {vocab}", plan.ids() - 1)));
        }
        // Rows for all tokens, or the first for each.
        let expect_rows = |table: &Fixed, wanted: Option<&[u32]>| {
            let rows = table.shape().first().copied().unwrap_or(0);
            table.expect(what, &[rows, hidden], dtype)?;
            let fits = match wanted {
                Some(wanted) => {
                    wanted.len() == plan.tokens as usize && wanted.iter().all(|row| *row < rows as u32)
                }
                None => rows > 0,
            };
            let number = wanted.map_or(1, <[u32]>::len);
            if fits { Ok(()) } else { Err(wrong(what, format!("{number} rows of {rows}"))) }
        };
        if let Some((table, rows)) = of.positions {
            expect_rows(table, Some(rows))?;
        }
        of.types.map_or(Ok(()), |(table, types)| expect_rows(table, types))
    }

    /// The residual stream's start, `[T, D]`. For products that norms are part of, with the weight `scale` of the first one,
    /// that times it with its squares. With `angles` as in [`Ops::rotate`] the cosines and sines of every token's angles, f32
    /// `[T, 2, E / 2]`. `meta` is the plan's.
    pub(crate) fn embed(
        &self,
        plan: &Plan,
        meta: &Tensor,
        of: &Embedding<'_>,
        [scale, all_angles]: [Option<&Fixed>; 2],
        stream: &Stream,
    ) -> Result<(Tensor, Option<Scaled>, Option<Tensor>), MlxError> {
        let what = "embed";
        self.expect_embedding(plan, of)?;
        self.expect_meta(what, plan, meta)?;
        let Geometry { hidden, heads, numbers, .. } = *self.geometry();
        let tokens = plan.tokens;
        let new = |role, columns, dtype| self.queue.tensor(role, [tokens, columns], dtype, stream);
        let write = |role, rows: Option<&[u32]>| {
            rows.map(|rows| self.queue.write(role, rows, tokens, stream)).transpose()
        };
        let rows = write(Role::Rows, of.positions.map(|(_, rows)| rows))?;
        let types = write(Role::Types, of.types.and_then(|(_, types)| types))?;
        let part = |index| address(of.table.get(index));
        let x = new(Role::Residual, hidden, numbers.dtype())?;
        let mut arguments = EmbedArguments {
            table: part(0),
            scales: part(1),
            biases: part(2),
            ids: meta.pointer(),
            positions: plan.positions_in(meta),
            position_table: address(of.positions.map(|(table, _)| table)),
            position_rows: rows.as_ref().map_or(0, Tensor::pointer),
            type_table: address(of.types.map(|(table, _)| table)),
            types: types.as_ref().map_or(0, Tensor::pointer),
            out: x.pointer(),
            hidden,
            factor: of.factor,
            ..Default::default()
        };
        let (mut ahead, mut angles) = (None, None);
        if let Some(scale) = scale {
            scale.expect(what, &[hidden], Dtype::F32)?;
            let scaled = new(Role::Scaled, hidden, Dtype::Bf16)?;
            let squares = new(Role::Squares, 1, Dtype::F32)?;
            arguments.scale = scale.pointer;
            (arguments.scaled, arguments.squares) = (scaled.pointer(), squares.pointer());
            ahead = Some(Scaled { scaled, squares });
        }
        if let Some(all_angles) = all_angles {
            self.expect_angles(what, heads, plan, all_angles)?;
            let of_tokens = new(Role::Angles, heads.head_dim, Dtype::F32)?;
            (arguments.all_angles, arguments.angles) = (all_angles.pointer, of_tokens.pointer());
            angles = Some(of_tokens);
        }
        // SAFETY: a block has a token; its id is below the vocabulary's size, its position, its row and its type within what they
        // are looked up in, all checked above, and its rows of the outputs are its own. What is fixed lives in the model.
        unsafe { self.queue.launch(&self.embed, &arguments, [tokens, 1, 1])? };
        Ok((x, ahead, angles))
    }

    /// Checks `x` `[T, inputs]`, and counts its tokens.
    fn expect_normed(&self, what: &'static str, x: Normed<'_>, inputs: i32) -> Result<i32, MlxError> {
        let [tokens, _] = x.rows().shape();
        expect_tensor(what, x.rows(), [tokens, inputs], self.geometry().numbers.multiplied())?;
        match x {
            Normed::Scaled(Scaled { squares, .. }) => {
                let [_, parts] = squares.shape();
                expect_tensor(what, squares, [tokens, parts], Dtype::F32)?;
            }
            Normed::Halved(x) => x.expect_scales(what, tokens)?,
        }
        Ok(tokens)
    }

    /// Queries, keys and values of `x`'s norm, rotated: bf16 `[T, (H + 2K) * E]`, or f16 times two to the power of `shift`.
    /// Matrices are given with their first outputs, which begin heads; the rest is as in [`Ops::rotate`], `angles` as
    /// [`Ops::embed`] made them.
    pub(crate) fn qkv(
        &self,
        x: Normed<'_>,
        matrices: &[(i32, Matrix<'_>)],
        of_heads: [Option<&Fixed>; 2],
        angles: &Tensor,
        shift: i32,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let what = "qkv";
        let Geometry { heads: sizes, eps, hidden, .. } = *self.geometry();
        let Heads { heads, kv_heads, head_dim } = sizes;
        let (width, [bias, norms]) = (sizes.qkv(), of_heads);
        let tokens = self.expect_normed(what, x, hidden)?;
        expect_tensor(what, angles, [tokens, head_dim], Dtype::F32)?;
        self.expect_of_heads(what, sizes, of_heads)?;
        let out = self.queue.tensor(Role::Wide, [tokens, width], self.geometry().of_heads(), stream)?;
        for (first, w) in matrices {
            let [outputs, _] = w.shape();
            if first % head_dim != 0 || outputs % head_dim != 0 || *first < 0 || first + outputs > width {
                return Err(wrong(
                    what,
                    format!("{outputs} outputs from {first} on for {width} elements of heads"),
                ));
            }
            let first_head = first / head_dim;
            let then = AfterArguments {
                bias: bias.map_or(0, |bias| bias.pointer + *first as u64 * 4),
                head_norm: address(norms),
                angles: angles.pointer(),
                out: out.pointer() + *first as u64 * 2,
                width,
                query_heads: heads - first_head,
                rotated_heads: heads + kv_heads - first_head,
                head_eps: eps,
                factor: 2_f32.powi(w.exponent()),
                shift: 2_f32.powi(shift),
                ..x.arguments(eps)
            };
            // SAFETY: shapes were checked above; bias and norms are read only where the geometry has them.
            unsafe { self.fused(After::Rotate, x.rows(), w, then)? };
        }
        Ok(out)
    }

    /// `x` `[T, D]` plus the product of `a` `[T, inputs]`, and that times `scale` f32 `[D]` with its squares.
    pub(crate) fn add(
        &self,
        x: &Tensor,
        a: &Tensor,
        w: &Matrix<'_>,
        scale: &Fixed,
        stream: &Stream,
    ) -> Result<(Tensor, Scaled), MlxError> {
        let what = "add";
        let ([outputs, _], [tokens, _]) = (w.shape(), a.shape());
        expect_tensor(what, x, [tokens, outputs], Dtype::Bf16)?;
        scale.expect(what, &[outputs], Dtype::F32)?;
        let parts = self.parts(After::Add, tokens, w)?;
        let out = self.queue.tensor(Role::Residual, [tokens, outputs], Dtype::Bf16, stream)?;
        let scaled = self.queue.tensor(Role::Scaled, [tokens, outputs], Dtype::Bf16, stream)?;
        let squares = self.queue.tensor(Role::Squares, [tokens, parts], Dtype::F32, stream)?;
        let then = AfterArguments {
            x: x.pointer(),
            scale: scale.pointer,
            scaled: scaled.pointer(),
            own_squares: squares.pointer(),
            out: out.pointer(),
            width: outputs,
            ..Default::default()
        };
        // SAFETY: shapes were checked above; a part of the outputs has its own squares.
        unsafe { self.fused(After::Add, a, w, then)? };
        Ok((out, Scaled { scaled, squares }))
    }

    /// `x` f32 `[T, D]` plus the product of `a` `[T, inputs]`, which is f16 times two to the power of `shift`.
    pub(crate) fn add_of_halves(
        &self,
        x: &Tensor,
        (a, shift): (&Tensor, i32),
        w: &Matrix<'_>,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let ([outputs, _], [tokens, _]) = (w.shape(), a.shape());
        expect_tensor("add", x, [tokens, outputs], Dtype::F32)?;
        self.expect_halves("add")?;
        let out = self.queue.tensor(Role::Residual, [tokens, outputs], Dtype::F32, stream)?;
        let then = AfterArguments {
            x: x.pointer(),
            out: out.pointer(),
            width: outputs,
            factor: 2_f32.powi(w.exponent() - shift),
            ..Default::default()
        };
        // SAFETY: shapes were checked above.
        unsafe { self.fused(After::Add, a, w, then)? };
        Ok(out)
    }

    /// That products of f16 have in them what is around them.
    fn expect_halves(&self, what: &'static str) -> Result<(), MlxError> {
        if self.geometry().fuses_halves() {
            return Ok(());
        }
        Err(wrong(what, "the kernels were compiled for other activations than f16".into()))
    }

    /// The activation of the gate times up, of `x`'s norm, bf16 `[T, outputs / 2]`, or f16 times two to the power of `shift`;
    /// gate's and up's outputs alternate eight by eight.
    pub(crate) fn gated(
        &self,
        x: Normed<'_>,
        w: &Matrix<'_>,
        shift: i32,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let what = "gated";
        let [outputs, inputs] = w.shape();
        let tokens = self.expect_normed(what, x, inputs)?;
        expect_alternating(what, outputs)?;
        let dtype = self.geometry().numbers.multiplied();
        let out = self.queue.tensor(Role::Wide, [tokens, outputs / 2], dtype, stream)?;
        let then = AfterArguments {
            out: out.pointer(),
            width: outputs / 2,
            factor: 2_f32.powi(w.exponent()),
            shift: 2_f32.powi(shift),
            ..x.arguments(self.geometry().eps)
        };
        // SAFETY: shapes were checked above.
        unsafe { self.fused(After::Gate, x.rows(), w, then)? };
        Ok(out)
    }

    /// The Euclidean norms of the rows of `w`, of f16, whose columns are times `weight` f32 `[inputs]`. Waits for them.
    pub(crate) fn row_norms(
        &self,
        w: &Matrix<'_>,
        weight: &Fixed,
        stream: &Stream,
    ) -> Result<Vec<f32>, MlxError> {
        let what = "row_norms";
        let [outputs, inputs] = w.shape();
        weight.expect(what, &[inputs], Dtype::F32)?;
        let none = || wrong(what, "the matrix is not of f16, or no kernel was compiled".into());
        let (matrix, kernel) = w.numbers(Dtype::F16).zip(self.row_norms.as_ref()).ok_or_else(none)?;
        let out = self.queue.tensor(Role::Result, [outputs, 1], Dtype::F32, stream)?;
        let arguments = RowNormsArguments { matrix, weight: weight.pointer, out: out.pointer(), inputs };
        // SAFETY: a block has a row of `inputs` numbers, and writes one.
        unsafe { self.queue.launch(kernel, &arguments, [outputs, 1, 1])? };
        let factor = 2_f32.powi(w.exponent());
        Ok(self.queue.read(&out)?.into_iter().map(|norm| norm * factor).collect())
    }

    /// The numbers of an array of f32.
    pub(crate) fn read_fixed(&self, of: &Fixed) -> Result<Vec<f32>, MlxError> {
        self.queue.read_f32(of.pointer, of.of_f32()?)
    }

    /// What each token gathers from the tokens that it sees of its text, and of those before the text: `[T, H * E]`.
    ///
    /// `qkv` is as [`Ops::qkv`] makes it, `cached` keys and values of the plan's cache, `[at least cached, K * E]` each.
    pub(crate) fn attention(
        &self,
        qkv: &Tensor,
        cached: Option<[&Array; 2]>,
        of: Attending<'_>,
        plan: &Plan,
        meta: &Tensor,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let what = "attention";
        let Geometry { causal, far, .. } = *self.geometry();
        let dtype = self.geometry().of_heads();
        let Attending { heads: sizes, seen, scale, distances } = of;
        let (Heads { heads, kv_heads, .. }, tokens) = (sizes, plan.tokens);
        expect_tensor(what, qkv, [tokens, sizes.qkv()], dtype)?;
        self.expect_meta(what, plan, meta)?;
        self.kernels.expect_cache(cached, sizes, plan)?;
        let Seen { before, after } = seen;
        let all = 0..=Seen::ALL;
        if !all.contains(&before) || !all.contains(&after) || (causal && seen != Seen::BEFORE) {
            return Err(wrong(what, format!("{seen:?} is not what the kernels were compiled for")));
        }
        match (far, distances) {
            (None, None) => (),
            (Some(far), Some(distances)) => distances.expect(what, &[heads, 2 * far + 1], Dtype::F32)?,
            _ => return Err(wrong(what, format!("numbers by distance up to {far:?}: {distances:?}"))),
        }
        let [cached_keys, cached_values] = match cached {
            Some([keys, values]) => [pointer(keys)?, pointer(values)?],
            None => [qkv.pointer(); 2],
        };
        let out = self.queue.tensor(Role::Mixed, [tokens, sizes.queries()], dtype, stream)?;
        let (qkv, tiles, to) = (qkv.pointer(), plan.parts_in(meta), out.pointer());
        // SAFETY of all: a plan's parts lie within its tokens, of which `qkv` has a row each; the cache was checked above
        // and is held by the prefix that the batch continues.
        match (plan.division, &self.hopper_attention) {
            (Division::Single, _) => {
                let arguments = AttentionArguments {
                    qkv,
                    cached_keys,
                    cached_values,
                    tiles,
                    distances: address(distances),
                    out: to,
                    heads,
                    kv_heads,
                    cached: plan.cached,
                    before,
                    after,
                    scale,
                };
                let blocks = [plan.parts, heads, self.geometry().attention_blocks(sizes)];
                // SAFETY: see above.
                unsafe { self.queue.launch(of_width(&self.attention, sizes)?, &arguments, blocks)? };
            }
            (Division::Pairs { .. }, Some(attention)) => {
                let number = plan.parts * kv_heads;
                let arguments = HopperAttentionArguments {
                    qkv,
                    cached_keys,
                    cached_values,
                    tiles,
                    out: to,
                    number,
                    heads,
                    kv_heads,
                    cached: plan.cached,
                    scale,
                };
                let blocks = [number.min(self.queue.multiprocessors()), 1, 1];
                // SAFETY: see above.
                unsafe { self.queue.launch(attention, &arguments, blocks)? };
            }
            (division, None) => return Err(wrong(what, format!("no kernel for {division:?}"))),
        }
        Ok(out)
    }

    /// These rows of `x`.
    pub(crate) fn rows(&self, x: &Tensor, rows: &[u32], stream: &Stream) -> Result<Tensor, MlxError> {
        let what = "rows";
        let [tokens, width] = x.shape();
        let list: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let geometry = self.geometry();
        // The kernel counts in numbers of activations' type.
        let dtype = geometry.numbers.dtype();
        let counted = width * x.dtype().size() as i32 / dtype.size() as i32;
        if ![dtype, geometry.of_heads()].contains(&x.dtype())
            || width % 8 != 0
            || list.iter().any(|row| !(0..tokens).contains(row))
        {
            return Err(wrong(what, format!("rows {rows:?} of {:?} of {}", x.shape(), x.dtype())));
        }
        let number = rows.len() as i32;
        let list = self.queue.write(Role::Rows, &list, number, stream)?;
        let out = self.queue.tensor(Role::Selected, [number, width], x.dtype(), stream)?;
        let (from, to) = (x.pointer(), out.pointer());
        let arguments = RowsArguments { from, rows: list.pointer(), out: to, width: counted };
        // SAFETY: a block copies one row, which lies within `x`, as was checked above.
        unsafe { self.queue.launch(&self.rows, &arguments, [number, 1, 1])? };
        Ok(out)
    }

    /// Waits for `x` `[T, D]`, and reads it as it is or, with one, its norm.
    pub(crate) fn finish(
        &self,
        x: &Tensor,
        norm: Option<&Norm>,
        stream: &Stream,
    ) -> Result<Vec<f32>, MlxError> {
        self.queue.read(&self.normed(x, norm, stream)?)
    }

    /// Waits for the means of these rows of `x` `[T, D]`, or of its norm: f32 `[texts, D]`.
    pub(crate) fn means(
        &self,
        x: &Tensor,
        norm: Option<&Norm>,
        texts: &[Range<usize>],
        stream: &Stream,
    ) -> Result<Vec<f32>, MlxError> {
        let ([_, hidden], number) = (x.shape(), texts.len() as i32);
        let texts = self.texts("means", x, texts, stream)?;
        let x = self.normed(x, norm, stream)?;
        let out = self.queue.tensor(Role::Means, [number, hidden], Dtype::F32, stream)?;
        let arguments = MeanArguments { x: x.pointer(), texts: texts.pointer(), out: out.pointer(), hidden };
        // SAFETY: a block has 32 columns of a text, leaves out what is beyond the last, and reads rows of `x`, as was
        // checked above.
        unsafe { self.queue.launch(&self.mean, &arguments, [up(hidden, 32), number, 1])? };
        self.queue.read(&out)
    }

    /// The rows of `x` that are each text's, on the GPU: `[texts, 2]`.
    pub(super) fn texts(
        &self,
        what: &'static str,
        x: &Tensor,
        texts: &[Range<usize>],
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let [tokens, _] = x.shape();
        if texts.is_empty() || texts.iter().any(|text| text.start > text.end || text.end > tokens as usize) {
            return Err(wrong(what, format!("rows {texts:?} of {tokens}")));
        }
        let ends: Vec<i32> = texts.iter().flat_map(|text| [text.start as i32, text.end as i32]).collect();
        self.queue.write(Role::Rows, &ends, 2, stream)
    }

    /// `x` `[T, D]` as it is or, with one, its norm, in f32.
    fn normed(&self, x: &Tensor, norm: Option<&Norm>, stream: &Stream) -> Result<Tensor, MlxError> {
        let what = "finish";
        let Geometry { hidden, numbers, .. } = *self.geometry();
        let [tokens, _] = x.shape();
        expect_tensor(what, x, [tokens, hidden], numbers.dtype())?;
        if let Some(norm) = norm {
            norm.weight().expect(what, &[hidden], Dtype::F32)?;
        }
        let out = self.queue.tensor(Role::Result, [tokens, hidden], Dtype::F32, stream)?;
        let arguments = FinishArguments {
            x: x.pointer(),
            norm: norm.map(Norm::arguments).unwrap_or_default(),
            out: out.pointer(),
            hidden,
        };
        // SAFETY: a block has one row; weights are read only where there is a norm.
        unsafe { self.queue.launch(&self.finish, &arguments, [tokens, 1, 1])? };
        Ok(out)
    }

    /// `x` as an array of MLX's; see [`Queue::array`].
    pub(crate) fn array(&self, x: &Tensor, stream: &Stream) -> Result<Array, MlxError> {
        self.queue.array(x, stream)
    }
}
