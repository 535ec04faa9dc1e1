//! The general form of a layer: products whose norms, biases, rotation, activation and residual connection are kernels of
//! their own.

use std::ops::Range;

use super::arguments::{ActivateArguments, AfterArguments, LargestArguments, RotateArguments, SumArguments};
use super::halves::{Left, Product, Rows};
use super::kernels::{Geometry, Heads, wrong};
use super::matrix::{Dense, Fixed, Matrix, Norm, address};
use super::ops::{Mlm, Ops, expect_tensor, of_width};
use super::plan::Plan;
use super::queue::{Function, Role, Tensor};
use super::recorder::{Factors, Multiplied};
use super::tiles::{After, up};
use crate::mlx::Stream;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;

/// What is done to a product's result `y` and the residual stream `x`: `x = factor * sum(x + output(y + bias))`, and
/// `next(x)`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum<'a> {
    /// f32 `[D]`
    pub(crate) bias: Option<&'a Fixed>,
    pub(crate) output: Option<&'a Norm>,
    pub(crate) sum: Option<&'a Norm>,
    pub(crate) factor: Option<f32>,
    pub(crate) next: Option<&'a Norm>,
}

/// What is done to a layer's queries, keys and values. What is left out is not done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rotate<'a> {
    pub(crate) heads: Heads,
    /// f32 `[(H + 2K) * E]`
    pub(crate) bias: Option<&'a Fixed>,
    /// The weights of queries' and keys' norms, f32 `[2, E]`.
    pub(crate) norms: Option<&'a Fixed>,
    /// Of queries and of keys: f32 `[at least the plan's positions, 2, E / 2]`, flat.
    pub(crate) angles: Option<[&'a Fixed; 2]>,
}

/// How a product is activated.
#[derive(Debug, Clone, Copy)]
struct Activate<'a> {
    /// f32, one of each output.
    bias: Option<&'a Fixed>,
    /// Of the result.
    width: i32,
    /// Whether gate and up alternate eight by eight, rather than that one is behind the other.
    alternating: bool,
    /// What it is multiplied with, from this column on.
    other: Option<(&'a Tensor, i32)>,
    /// Whether the result is for products of f32.
    halved: bool,
}

/// Rows one behind the other.
fn factors(numbers: Multiplied, a: &Tensor, w: u64, [outputs, inputs]: [i32; 2]) -> Factors {
    let [tokens, _] = a.shape();
    let (a_stride, w_stride) = (inputs, inputs);
    let a = a.pointer();
    Factors { numbers, a, w, tokens, outputs, inputs, a_stride, w_stride, exponent: 0, adds: false }
}

impl Ops {
    /// `a w^T` for matrices whose outputs lie side by side, `width` in all: `[T, width]`. Each is given with its first
    /// output.
    pub(crate) fn product(
        &self,
        a: Left<'_>,
        matrices: &[(i32, Matrix<'_>)],
        width: i32,
        stream: &Stream,
    ) -> Result<Product, MlxError> {
        let what = "product";
        if self.geometry().numbers.is_wide() {
            return self.product_of_f32(a, matrices, width, stream);
        }
        let Left::Plain(a) = a else {
            return Err(wrong(what, "rows of f16 where activations are of bf16".into()));
        };
        let [tokens, _] = a.shape();
        let out = self.queue.tensor(Role::Both, [tokens, width], Dtype::Bf16, stream)?;
        for (first, w) in matrices {
            let [outputs, inputs] = w.shape();
            expect_tensor(what, a, [tokens, inputs], Dtype::Bf16)?;
            let by_product = self.by_product(After::Nothing, tokens, w)?.filter(|by| by.fits(*first, &out));
            match (by_product, w.numbers(Dtype::Bf16)) {
                // SAFETY: `outputs` by `inputs` numbers, in an array of the model's that was checked when it was made, or in
                // a tensor.
                (None, Some(pointer)) => unsafe {
                    let of = factors(Multiplied::Bf16, a, pointer, [outputs, inputs]);
                    self.queue.matmul(of, (&out, *first), stream)?
                },
                (Some(by), _) => {
                    let out = out.pointer() + *first as u64 * 2;
                    let then = AfterArguments { out, width, ..Default::default() };
                    // SAFETY: the columns of the result were checked above.
                    unsafe { by.launch(&self.queue, a, then)? };
                }
                (None, None) => {
                    let message = format!("{outputs} outputs from column {first} of {width}");
                    return Err(wrong(what, message));
                }
            }
        }
        Ok(Product::whole(out))
    }

    /// `x w^T` of rows of f32 in the host's memory, in f32.
    pub(crate) fn multiply(&self, x: &[f32], w: &Dense, stream: &Stream) -> Result<Vec<f32>, MlxError> {
        let what = "multiply";
        let w = Matrix::Dense(w);
        let [outputs, inputs] = w.shape();
        let no = || wrong(what, format!("{} numbers and {outputs} by {inputs}", x.len()));
        let pointer =
            w.numbers(Dtype::F32).filter(|_| x.len().is_multiple_of(inputs as usize)).ok_or_else(no)?;
        let x = self.queue.write(Role::Behind, x, inputs, stream)?;
        let out = self.queue.tensor(Role::Result, [x.shape()[0], outputs], Dtype::F32, stream)?;
        let of = factors(Multiplied::F32, &x, pointer, [outputs, inputs]);
        // SAFETY: `outputs` by `inputs` numbers of f32, in an array that was checked when it was made.
        unsafe { self.queue.matmul(of, (&out, 0), stream)? };
        self.queue.read(&out)
    }

    /// Bias, head norms and rotation of a product `[T, (H + 2K) * E]`, and the norms of values where the geometry has them.
    pub(crate) fn rotate(
        &self,
        qkv: &Product,
        of: Rotate<'_>,
        plan: &Plan,
        meta: &Tensor,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let what = "rotate";
        let Geometry { eps, value_eps, numbers, .. } = *self.geometry();
        let Rotate { heads: sizes, bias, norms, angles } = of;
        let ([tokens, width], Heads { heads, kv_heads, .. }) = ([plan.tokens, sizes.qkv()], sizes);
        qkv.expect(what, [tokens, width], numbers)?;
        self.expect_meta(what, plan, meta)?;
        self.expect_of_heads(what, sizes, [bias, norms])?;
        for angles in angles.iter().flatten() {
            self.expect_angles(what, sizes, plan, angles)?;
        }
        let out = self.queue.tensor(Role::Wide, [tokens, width], numbers.dtype(), stream)?;
        let all_heads = heads + 2 * kv_heads;
        let arguments = RotateArguments {
            from: qkv.numbers.pointer(),
            scales: qkv.scales(),
            bias: address(bias),
            head_norm: address(norms),
            query_angles: address(angles.map(|[of_queries, _]| of_queries)),
            key_angles: address(angles.map(|[_, of_keys]| of_keys)),
            positions: plan.positions_in(meta),
            out: out.pointer(),
            tokens,
            all_heads,
            query_heads: heads,
            rotated_heads: heads + kv_heads,
            head_eps: eps,
            value_eps: value_eps.unwrap_or_default(),
        };
        let rotate = of_width(&self.apart()?.rotate, sizes)?;
        let blocks = [up(tokens * all_heads, rotate.threads() / sizes.threads_per_head()), 1, 1];
        // SAFETY: a warp has one head of one token, and leaves out what is beyond the last; all shapes were checked above,
        // and norms are read only where the geometry has them.
        unsafe { self.queue.launch(rotate, &arguments, blocks)? };
        Ok(out)
    }

    /// The activation of a product: of `[T, I]`, or, gated, of gate and up `[T, 2I]`, which alternate eight by eight or lie
    /// one behind the other. `bias` is f32, one of each output.
    pub(crate) fn activate(
        &self,
        product: &Product,
        bias: Option<&Fixed>,
        alternating: bool,
        stream: &Stream,
    ) -> Result<Rows, MlxError> {
        let [_, outputs] = product.numbers.shape();
        let width = if self.geometry().gated { outputs / 2 } else { outputs };
        let halved = self.geometry().numbers.is_wide();
        let of = Activate { bias, width, alternating, other: None, halved };
        // SAFETY: that kernel reads gate and up where the geometry has them.
        unsafe { self.activate_with(&self.apart()?.activate, product, of, stream) }
    }

    /// The activation of a product `[T, P]`, times P columns of `inputs` `[T, ..]` from `first` on.
    pub(crate) fn activate_gate(
        &self,
        product: &Product,
        bias: Option<&Fixed>,
        (inputs, first): (&Tensor, i32),
        stream: &Stream,
    ) -> Result<Rows, MlxError> {
        let [_, width] = product.numbers.shape();
        let none = || wrong("cuda_compile", "no inputs of layers were compiled".into());
        let activate = self.apart()?.activate_gate.as_ref().ok_or_else(none)?;
        let halved = self.geometry().numbers.is_wide();
        let of = Activate { bias, width, alternating: false, other: Some((inputs, first)), halved };
        // SAFETY: that kernel reads the other matrix, and no up.
        unsafe { self.activate_with(activate, product, of, stream) }
    }

    /// The activation of a product with the first matrix of a masked language model's head, `[T, D]`.
    pub(crate) fn activate_head(
        &self,
        product: &Product,
        bias: Option<&Fixed>,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let [_, width] = product.numbers.shape();
        let of = Activate { bias, width, alternating: false, other: None, halved: false };
        // SAFETY: that kernel knows no gate.
        unsafe { self.activate_with(&self.mlm()?.activate, product, of, stream)?.into_tensor() }
    }

    /// The largest numbers of these rows of a product `[T, N]`, of each text: f32 `[texts, N]`. Waits for them.
    pub(crate) fn largest(
        &self,
        product: &Product,
        texts: &[Range<usize>],
        stream: &Stream,
    ) -> Result<Vec<f32>, MlxError> {
        let what = "largest";
        let x = &product.numbers;
        let ([tokens, columns], number) = (x.shape(), texts.len() as i32);
        product.expect(what, [tokens, columns], self.geometry().numbers)?;
        let texts = self.texts(what, x, texts, stream)?;
        let out = self.queue.tensor(Role::Means, [number, columns], Dtype::F32, stream)?;
        let (x, scales, texts) = (x.pointer(), product.scales(), texts.pointer());
        let arguments = LargestArguments { x, scales, texts, out: out.pointer(), columns };
        // SAFETY: a block has 32 columns of a text, leaves out what is beyond the last, and reads rows of `x`, as was
        // checked above.
        unsafe { self.queue.launch(&self.mlm()?.largest, &arguments, [up(columns, 32), number, 1])? };
        self.queue.read(&out)
    }

    fn mlm(&self) -> Result<&Mlm, MlxError> {
        let none = || wrong("cuda_compile", "no head of a masked language model was compiled".into());
        self.mlm.as_ref().ok_or_else(none)
    }

    /// # Safety
    /// `activate` reads `width` numbers a token, or, where it is gated by up, twice as many, and `product` has those. Where it
    /// reads another matrix, there is one.
    unsafe fn activate_with(
        &self,
        activate: &Function<ActivateArguments>,
        product: &Product,
        Activate { bias, width, alternating, other, halved }: Activate<'_>,
        stream: &Stream,
    ) -> Result<Rows, MlxError> {
        let what = "activate";
        let [tokens, outputs] = product.numbers.shape();
        if width % 8 != 0 {
            return Err(wrong(what, format!("{width} numbers are not eight by eight")));
        }
        if let Some(bias) = bias {
            bias.expect(what, &[outputs], Dtype::F32)?;
        }
        let numbers = self.geometry().numbers;
        let dtype = numbers.dtype();
        product.expect(what, [tokens, outputs], numbers)?;
        let (mut other_pointer, mut other_eights) = (0, 0);
        if let Some((other, first)) = other {
            let [_, columns] = other.shape();
            expect_tensor(what, other, [tokens, columns], dtype)?;
            if first < 0 || columns - width < first || (first | columns) % 8 != 0 {
                return Err(wrong(what, format!("{width} columns of {columns} from {first} on")));
            }
            other_pointer = other.pointer() + first as u64 * dtype.size() as u64;
            other_eights = columns / 8;
        }
        let out = if halved {
            Rows::Halved(self.room_for_halves([tokens, width], stream)?)
        } else {
            Rows::Plain(self.queue.tensor(Role::Wide, [tokens, width], dtype, stream)?)
        };
        let arguments = ActivateArguments {
            from: product.numbers.pointer(),
            scales: product.scales(),
            bias: address(bias),
            out: out.plain(),
            halved: out.halved(),
            tokens,
            eights: width / 8,
            alternating: i32::from(alternating),
            other_eights,
            other: other_pointer,
        };
        // SAFETY: a thread has eight numbers of each, and leaves out what is beyond the last, or a block a row; the caller promises
        // the rest, and that the kernel halves what it writes where there is room for that.
        unsafe {
            let blocks = if halved { tokens } else { up(tokens * (width / 8), activate.threads()) };
            self.queue.launch(activate, &arguments, [blocks, 1, 1])?;
        }
        Ok(out)
    }

    /// See [`Sum`]: the new `x` and, where a norm is next, what it makes of that. Without `y` nothing is added.
    pub(crate) fn sum(
        &self,
        x: &Tensor,
        y: Option<&Product>,
        of: Sum<'_>,
        stream: &Stream,
    ) -> Result<(Tensor, Option<Rows>), MlxError> {
        let what = "sum";
        let Geometry { hidden, numbers, scalars, .. } = *self.geometry();
        let [tokens, _] = x.shape();
        expect_tensor(what, x, [tokens, hidden], numbers.dtype())?;
        if let Some(y) = y {
            y.expect(what, [tokens, hidden], numbers)?;
        }
        for norm in [of.output, of.sum, of.next].into_iter().flatten() {
            norm.weight().expect(what, &[hidden], Dtype::F32)?;
        }
        if let Some(bias) = of.bias {
            bias.expect(what, &[hidden], Dtype::F32)?;
        }
        if of.factor.is_some() && !scalars {
            return Err(wrong(what, "the kernels were compiled for sums without a factor".into()));
        }
        let new = |role| self.queue.tensor(role, [tokens, hidden], numbers.dtype(), stream);
        let out = new(Role::Residual)?;
        let normed = match of.next {
            None => None,
            Some(_) if numbers.is_wide() => {
                Some(Rows::Halved(self.room_for_halves([tokens, hidden], stream)?))
            }
            Some(_) => Some(Rows::Plain(new(Role::Scaled)?)),
        };
        let norm = |norm: Option<&Norm>| norm.map(Norm::arguments).unwrap_or_default();
        let arguments = SumArguments {
            x: x.pointer(),
            y: y.map_or(0, |y| y.numbers.pointer()),
            scales: y.map_or(0, Product::scales),
            bias: address(of.bias),
            output: norm(of.output),
            sum: norm(of.sum),
            next: norm(of.next),
            out: out.pointer(),
            normed: normed.as_ref().map_or(0, Rows::plain),
            halved: normed.as_ref().map(Rows::halved).unwrap_or_default(),
            rows: tokens,
            hidden,
            sharing: 1,
            factor: of.factor.unwrap_or(1.0),
        };
        let (sum, blocks) = self.sum_of_rows(tokens)?;
        // SAFETY: threads have a token's row of each, whose shapes were checked above, and `rows` of them.
        unsafe { self.queue.launch(sum, &arguments, blocks)? };
        Ok((out, normed))
    }

    /// The norm of `x` f32 `[T, D]`, as products of f16 take it.
    pub(crate) fn norm_to_halves(&self, x: &Tensor, norm: &Norm, stream: &Stream) -> Result<Rows, MlxError> {
        let what = "norm";
        let hidden = self.geometry().hidden;
        let [tokens, _] = x.shape();
        expect_tensor(what, x, [tokens, hidden], Dtype::F32)?;
        norm.weight().expect(what, &[hidden], Dtype::F32)?;
        let halved = self.room_for_halves([tokens, hidden], stream)?;
        let arguments = SumArguments {
            x: x.pointer(),
            next: norm.arguments(),
            halved: halved.arguments(),
            rows: tokens,
            hidden,
            sharing: 1,
            factor: 1.0,
            ..Default::default()
        };
        let (sum, blocks) = self.sum_of_rows(tokens)?;
        // SAFETY: threads have a token's row of each, whose shapes were checked above, and `rows` of them; without `out` only the
        // norm is written.
        unsafe { self.queue.launch(sum, &arguments, blocks)? };
        Ok(Rows::Halved(halved))
    }

    /// The norm of each layer's part of `inputs` `[T, layers * P]`, in its place.
    pub(crate) fn norm_inputs(&self, inputs: Product, norm: &Norm) -> Result<Tensor, MlxError> {
        let what = "layer_inputs";
        let Geometry { numbers, layer_inputs, .. } = *self.geometry();
        let [tokens, columns] = inputs.numbers.shape();
        let width = layer_inputs.map_or(0, |of_layers| of_layers.width);
        if width == 0 || columns % width != 0 {
            return Err(wrong(what, format!("{columns} numbers a token are no inputs of {width}")));
        }
        inputs.expect(what, [tokens, columns], numbers)?;
        norm.weight().expect(what, &[width], Dtype::F32)?;
        let of_token = columns / width;
        let at = inputs.numbers.pointer();
        let arguments = SumArguments {
            x: at,
            scales: inputs.scales(),
            sum: norm.arguments(),
            out: at,
            rows: tokens * of_token,
            hidden: width,
            sharing: of_token,
            factor: 1.0,
            ..Default::default()
        };
        let (sum, blocks) = self.sum_of_rows(arguments.rows)?;
        // SAFETY: threads have a layer's part of a token's row, which is no wider than the kernel was compiled for, and a thread
        // writes only what it has read.
        unsafe { self.queue.launch(sum, &arguments, blocks)? };
        Ok(inputs.numbers)
    }

    /// The kernel, and the blocks that have so many rows.
    fn sum_of_rows(&self, rows: i32) -> Result<(&Function<SumArguments>, [i32; 3]), MlxError> {
        let none = || wrong("sum", "norms are part of products on this GPU".into());
        let sum = self.sum_kernel.as_ref().ok_or_else(none)?;
        Ok((sum, [up(rows, sum.threads() / self.geometry().threads_per_sum()), 1, 1]))
    }
}
