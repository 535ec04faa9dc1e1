//! The arguments of each kernel: a struct here and its twin, `Arguments`, in the kernel's source, which says what each is.
//!
//! Fields go by name. Where a name, its place or its size differs between the two, the kernel does not compile.

use std::fmt::Write;
use std::mem::offset_of;

/// Where something lies in the GPU's memory; 0 for nothing.
pub(super) type Address = u64;

/// What has bytes that mean it.
pub(super) trait Bytes {
    /// Writes them. Those between a struct's fields stay as they are.
    fn put(&self, to: &mut [u8]);
}

macro_rules! bytes_of {
    ($($type:ty),*) => {
        $(impl Bytes for $type {
            fn put(&self, to: &mut [u8]) {
                to.copy_from_slice(&self.to_ne_bytes());
            }
        })*
    };
}

bytes_of!(u64, i32, f32);

/// A struct that a kernel's source has, too.
///
/// # Safety
/// `FIELDS` are the name and size of every field, in order, and it is laid out as C does it.
pub(super) unsafe trait Twin: Bytes + Copy + 'static {
    /// What the source calls it.
    const NAME: &'static str;
    const FIELDS: &'static [(&'static str, usize)];

    /// Statements that hold where the struct of a source is this one: an initialiser names fields in their order.
    fn checks() -> String {
        let name = Self::NAME;
        let named: Vec<String> = Self::FIELDS.iter().map(|(field, _)| format!(".{field} = {{}}")).collect();
        let mut checks = format!("constexpr {name} {name}_in_order = {{{}}};\n", named.join(", "));
        let mut hold = |what: &str, size: usize| {
            // Writing to a string can't fail.
            let _ = writeln!(
                checks,
                "static_assert(sizeof({what}) == {size}, \"arguments.rs has another size\");"
            );
        };
        for (field, size) in Self::FIELDS {
            hold(&format!("{name}::{field}"), *size);
        }
        hold(name, size_of::<Self>());
        checks
    }
}

/// What a kernel is launched with.
pub(super) trait Arguments: Twin {
    /// The kernel's source.
    const SOURCE: &'static str;
    /// Headers that it includes behind the common one, and statements about their structs.
    fn headers() -> Vec<String>;

    /// The kernel's source with what it includes and the checks of its arguments.
    fn text() -> String {
        [vec![COMMON.to_owned()], Self::headers(), vec![Self::SOURCE.to_owned(), Self::checks()]]
            .concat()
            .concat()
    }
}

const COMMON: &str = include_str!("source/common.cuh");

fn after() -> String {
    [include_str!("source/after.cuh"), &AfterArguments::checks()].concat()
}

fn norms() -> String {
    [include_str!("source/norms.cuh"), &NormArguments::checks()].concat()
}

fn halves() -> String {
    [include_str!("source/halves.cuh"), &HalvesArguments::checks()].concat()
}

fn header(text: &str) -> String {
    text.to_owned()
}

const FORMATS: &str = include_str!("source/formats.cuh");
const WGMMA: &str = include_str!("source/wgmma.cuh");
const TMA: &str = include_str!("source/tma.cuh");
const TEXTS: &str = include_str!("source/texts.cuh");
const END: &str = include_str!("source/end.cuh");

macro_rules! twin {
    ($(#[$about:meta])* $name:ident as $twin:literal { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$about])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Default)]
        pub(super) struct $name { $(pub(super) $field: $type),* }

        impl Bytes for $name {
            fn put(&self, to: &mut [u8]) {
                $(self.$field.put(&mut to[offset_of!(Self, $field)..][..size_of::<$type>()]);)*
            }
        }

        // SAFETY: the list is made of the fields.
        unsafe impl Twin for $name {
            const NAME: &'static str = $twin;
            const FIELDS: &'static [(&'static str, usize)] =
                &[$((stringify!($field), size_of::<$type>())),*];
        }
    };
}

/// The arguments of the kernel in the file of this name.
macro_rules! arguments {
    ($name:ident of $file:literal with [$($header:expr),*] $fields:tt) => {
        twin! { #[doc = concat!("Of `", $file, "`.")] $name as "Arguments" $fields }

        impl Arguments for $name {
            const SOURCE: &'static str = include_str!(concat!("source/", $file));

            fn headers() -> Vec<String> {
                vec![$($header),*]
            }
        }
    };
}

/// A matrix as Hopper copies tiles of it: see `tma.cuh`.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Map(pub(super) [u64; 16]);

impl Bytes for Map {
    fn put(&self, to: &mut [u8]) {
        for (word, to) in self.0.iter().zip(to.chunks_exact_mut(size_of::<u64>())) {
            word.put(to);
        }
    }
}

twin! {
    /// A norm, or none: see `norms.cuh`.
    NormArguments as "Norm" { weight: Address, bias: Address, kind: i32, eps: f32 }
}

twin! {
    /// Rows of f16: see `halves.cuh`.
    HalvesArguments as "Halves" { out: Address, scales: Address, width: i32, high_at: i32, low_at: i32 }
}

twin! {
    /// What follows a product: see `after.cuh`.
    AfterArguments as "After" {
        squares: Address,
        scales: Address,
        bias: Address,
        head_norm: Address,
        angles: Address,
        x: Address,
        scale: Address,
        scaled: Address,
        own_squares: Address,
        out: Address,
        width: i32,
        parts: i32,
        query_heads: i32,
        rotated_heads: i32,
        eps: f32,
        head_eps: f32,
        factor: f32,
        shift: f32,
    }
}

arguments! {
    EmbedArguments of "embed.cu" with [] {
        table: Address,
        scales: Address,
        biases: Address,
        ids: Address,
        positions: Address,
        position_table: Address,
        position_rows: Address,
        type_table: Address,
        types: Address,
        scale: Address,
        all_angles: Address,
        out: Address,
        scaled: Address,
        squares: Address,
        angles: Address,
        hidden: i32,
        factor: f32,
    }
}

arguments! {
    PackArguments of "pack.cu" with [header(FORMATS)] {
        weight: Address,
        scales: Address,
        biases: Address,
        packed: Address,
        factors: Address,
        n: i32,
        inputs: i32,
        alternates: i32,
        exponent: i32,
    }
}

arguments! {
    DequantizeArguments of "dequantize.cu" with [header(FORMATS)] {
        weight: Address,
        factors: Address,
        out: Address,
        n: i32,
        inputs: i32,
    }
}

arguments! {
    ProductArguments of "product.cu" with [header(WGMMA), header(FORMATS), after(), header(END)] {
        a: Address,
        weight: Address,
        factors: Address,
        tokens: i32,
        n: i32,
        inputs: i32,
        after: AfterArguments,
    }
}

arguments! {
    HopperProductArguments of "product_hopper.cu"
    with [header(WGMMA), header(TMA), header(FORMATS), after(), header(END)] {
        a_map: Map,
        weight: Address,
        factors: Address,
        tokens: i32,
        n: i32,
        inputs: i32,
        after: AfterArguments,
    }
}

arguments! {
    DenseArguments of "dense.cu" with [header(WGMMA), header(TMA), after()] {
        a_map: Map,
        w_map: Map,
        tokens: i32,
        n: i32,
        inputs: i32,
        after: AfterArguments,
    }
}

arguments! {
    AttentionArguments of "attention.cu" with [] {
        qkv: Address,
        cached_keys: Address,
        cached_values: Address,
        tiles: Address,
        distances: Address,
        out: Address,
        heads: i32,
        kv_heads: i32,
        cached: i32,
        before: i32,
        after: i32,
        scale: f32,
    }
}

arguments! {
    HopperAttentionArguments of "attention_hopper.cu" with [header(WGMMA), header(TMA)] {
        qkv: Address,
        cached_keys: Address,
        cached_values: Address,
        tiles: Address,
        out: Address,
        number: i32,
        heads: i32,
        kv_heads: i32,
        cached: i32,
        scale: f32,
    }
}

arguments! {
    RotateArguments of "rotate.cu" with [] {
        from: Address,
        scales: Address,
        bias: Address,
        head_norm: Address,
        query_angles: Address,
        key_angles: Address,
        positions: Address,
        out: Address,
        tokens: i32,
        all_heads: i32,
        query_heads: i32,
        rotated_heads: i32,
        head_eps: f32,
        value_eps: f32,
    }
}

arguments! {
    ActivateArguments of "activate.cu" with [halves()] {
        from: Address,
        scales: Address,
        bias: Address,
        out: Address,
        halved: HalvesArguments,
        tokens: i32,
        eights: i32,
        alternating: i32,
        other_eights: i32,
        other: Address,
    }
}

arguments! {
    SumArguments of "sum.cu" with [norms(), halves()] {
        x: Address,
        y: Address,
        scales: Address,
        bias: Address,
        output: NormArguments,
        sum: NormArguments,
        next: NormArguments,
        out: Address,
        normed: Address,
        halved: HalvesArguments,
        rows: i32,
        hidden: i32,
        sharing: i32,
        factor: f32,
    }
}

arguments! {
    HalveArguments of "halve.cu" with [halves()] {
        from: Address,
        to: HalvesArguments,
        columns: i32,
        padded: i32,
        factor: f32,
    }
}

arguments! {
    RowNormsArguments of "row_norms.cu" with [] { matrix: Address, weight: Address, out: Address, inputs: i32 }
}

arguments! {
    RowsArguments of "rows.cu" with [] { from: Address, rows: Address, out: Address, width: i32 }
}

arguments! {
    FinishArguments of "finish.cu" with [norms()] {
        x: Address,
        norm: NormArguments,
        out: Address,
        hidden: i32,
    }
}

arguments! {
    MeanArguments of "mean.cu" with [header(TEXTS)] {
        x: Address,
        texts: Address,
        out: Address,
        hidden: i32,
    }
}

arguments! {
    LargestArguments of "largest.cu" with [header(TEXTS)] {
        x: Address,
        scales: Address,
        texts: Address,
        out: Address,
        columns: i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_name_every_field_in_order_with_its_size() {
        let checks = RowsArguments::checks();
        for line in [
            "constexpr Arguments Arguments_in_order = {.from = {}, .rows = {}, .out = {}, .width = {}};",
            "static_assert(sizeof(Arguments::width) == 4, \"arguments.rs has another size\");",
            "static_assert(sizeof(Arguments) == 32, \"arguments.rs has another size\");",
        ] {
            assert!(checks.lines().any(|found| found == line), "{line} is not in\n{checks}");
        }
    }

    #[test]
    fn bytes_lie_where_the_fields_do() {
        let map = |first: u64| Map(std::array::from_fn(|i| first + i as u64));
        let after = AfterArguments { squares: 7, head_eps: 0.5, ..Default::default() };
        let arguments = DenseArguments { a_map: map(1), w_map: map(100), tokens: 3, n: 4, inputs: 5, after };
        let mut bytes = vec![0; size_of::<DenseArguments>()];
        arguments.put(&mut bytes);
        // SAFETY: as many bytes as the struct has, of fields that may be anything.
        let back: DenseArguments = unsafe { bytes.as_ptr().cast::<DenseArguments>().read_unaligned() };
        assert_eq!((back.a_map.0, back.w_map.0), (arguments.a_map.0, arguments.w_map.0));
        assert_eq!([back.tokens, back.n, back.inputs], [3, 4, 5]);
        assert_eq!((back.after.squares, back.after.x, back.after.head_eps), (7, 0, 0.5));
    }

    /// The names of the fields of a struct in a source.
    fn fields(source: &str, name: &str) -> Vec<String> {
        let begin = format!("struct {name} {{\n");
        let body = &source[source.find(&begin).unwrap() + begin.len()..];
        let body = &body[..body.find("};").unwrap()];
        let code = body.lines().map(|line| line.split("//").next().unwrap()).collect::<String>();
        let declarations = code.split(';').map(str::trim).filter(|declaration| !declaration.is_empty());
        let names = declarations.flat_map(|declaration| {
            let names =
                declaration.split(',').map(|part| part.split([' ', '*']).next_back().unwrap().to_owned());
            names.collect::<Vec<_>>()
        });
        names.collect()
    }

    fn agree<T: Twin>(source: &str) {
        let own: Vec<&str> = T::FIELDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(fields(source, T::NAME), own, "{}", std::any::type_name::<T>());
    }

    #[test]
    fn sources_have_the_same_fields() {
        fn of_source<A: Arguments>() {
            agree::<A>(A::SOURCE);
        }
        of_source::<EmbedArguments>();
        of_source::<PackArguments>();
        of_source::<DequantizeArguments>();
        of_source::<ProductArguments>();
        of_source::<HopperProductArguments>();
        of_source::<DenseArguments>();
        of_source::<AttentionArguments>();
        of_source::<HopperAttentionArguments>();
        of_source::<RotateArguments>();
        of_source::<ActivateArguments>();
        of_source::<SumArguments>();
        of_source::<HalveArguments>();
        of_source::<RowNormsArguments>();
        of_source::<RowsArguments>();
        of_source::<FinishArguments>();
        of_source::<MeanArguments>();
        of_source::<LargestArguments>();
        agree::<AfterArguments>(include_str!("source/after.cuh"));
        agree::<NormArguments>(include_str!("source/norms.cuh"));
        agree::<HalvesArguments>(include_str!("source/halves.cuh"));
    }
}
