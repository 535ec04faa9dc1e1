//! What an attention layer's operations share: its sizes, which keys a query sees, and where everything lies.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "kernels are intrinsics throughout, under the contract of each function"
)]

use super::simd::LANES;

/// Keys in a panel of the transposed keys.
pub(crate) const KEYS: usize = 2 * LANES;
/// Most numbers of a head.
pub(crate) const MAX_HEAD_DIM: usize = 512;

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl Heads {
    /// Numbers of a token's queries, keys and values together.
    pub(crate) fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Shape of the keys of so many tokens as they are laid out.
    pub(crate) fn keys_shape(&self, tokens: usize) -> [usize; 4] {
        [self.kv_heads, tokens.div_ceil(KEYS), self.head_dim, KEYS]
    }

    /// Shape of the values of so many tokens as they are laid out.
    pub(crate) fn values_shape(&self, tokens: usize) -> [usize; 3] {
        [self.kv_heads, tokens, self.value_width()]
    }

    /// Numbers of a head of values, filled up to whole pairs of vectors.
    pub(super) fn value_width(&self) -> usize {
        self.head_dim.next_multiple_of(KEYS)
    }
}

/// Which keys a query sees: those from so many positions before its own to so many behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) before: usize,
    pub(crate) after: usize,
}

impl Span {
    /// All before a token and itself.
    pub(crate) const CAUSAL: Self = Self { before: usize::MAX, after: 0 };
}

/// Angles of each position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rotation<'a> {
    /// Cosines, then sines: `[positions, 2, head_dim / 2]`.
    pub(crate) angles: &'a [f32],
    /// The same for queries, as long.
    pub(crate) query_angles: &'a [f32],
    /// Whether neighbours rotate together rather than halves.
    pub(crate) traditional: bool,
}

/// What is added to the scores of each head, by how far a key is behind its query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Distances<'a> {
    /// `[heads, columns]`
    pub(crate) numbers: &'a [f32],
    pub(crate) columns: usize,
    /// The column of a query's own position; those of keys before it come before.
    pub(crate) own: usize,
}

impl Distances<'_> {
    /// Columns that texts of up to so many tokens take, and which of them is a query's own. Keys are read in panels.
    pub(crate) fn columns_of(longest: usize) -> (usize, usize) {
        let own = longest.saturating_sub(1);
        (own + longest.next_multiple_of(KEYS), own)
    }

    /// Whether there are numbers for texts of up to so many tokens.
    pub(super) fn reach(&self, heads: usize, longest: usize) -> bool {
        let whole = self.numbers.len() == heads * self.columns;
        whole && self.own + 1 >= longest && self.columns - self.own >= longest.next_multiple_of(KEYS)
    }
}

/// Keys and values, laid out, of tokens that all texts of a batch continue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CachedPart<'a> {
    /// How many of the tokens they continue: the first ones.
    pub(super) tokens: usize,
    /// How many tokens keys and values are there of.
    pub(super) length: usize,
    /// [`Heads::keys_shape`] of `length`.
    pub(super) keys: &'a [f32],
    /// [`Heads::values_shape`] of `length`.
    pub(super) values: &'a [f32],
}

/// A text's place in the batch. Its positions count from the start of the cache, its tokens from the end of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    /// First token.
    pub(super) first: usize,
    pub(super) tokens: usize,
    /// Its tokens that are seen: the first ones, at least one.
    pub(super) seen: usize,
    /// First block of keys: the one that the first token's is in, beside the last ones of the cache.
    pub(super) block: usize,
    /// Whether what is multiplied is rounded to bf16. Then words are two numbers each: of queries and keys neighbours, of
    /// values those of neighbouring tokens. They take the first half of where f32 would lie.
    pub(super) rounded: bool,
}

/// One attention layer over one batch. Tasks write disjoint parts of what the pointers reach.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a> {
    pub(super) heads: Heads,
    /// Norms of queries and keys, and their epsilon.
    pub(super) q_norm: Option<(&'a [f32], f32)>,
    pub(super) k_norm: Option<(&'a [f32], f32)>,
    /// Epsilon of the norm of values.
    pub(super) v_norm: Option<f32>,
    pub(super) rotation: Option<Rotation<'a>>,
    pub(super) scale: f32,
    pub(super) span: Span,
    pub(super) distances: Option<Distances<'a>>,
    pub(super) cached: CachedPart<'a>,
    /// `[tokens, width]`
    pub(super) qkv: &'a [f32],
    /// `[tokens, heads, head_dim]`, scaled.
    pub(super) q: *mut f32,
    /// `[kv_heads, blocks, head_dim, KEYS]`
    pub(super) k: *mut f32,
    /// `[kv_heads, tokens, value_width]`
    pub(super) v: *mut f32,
    pub(super) tokens: usize,
    pub(super) blocks: usize,
    /// `[tokens, heads * head_dim]`
    pub(super) out: *mut f32,
}

// SAFETY: tasks write disjoint parts, and what is written in one job is read in the next.
unsafe impl Sync for Attention<'_> {}

impl Attention<'_> {
    pub(super) unsafe fn key_block(&self, kv_head: usize, block: usize) -> *mut f32 {
        self.k.add((kv_head * self.blocks + block) * self.heads.head_dim * KEYS)
    }

    pub(super) unsafe fn past_key_block(&self, kv_head: usize, block: usize) -> *const f32 {
        let blocks = self.cached.length.div_ceil(KEYS);
        self.cached.keys.as_ptr().add((kv_head * blocks + block) * self.heads.head_dim * KEYS)
    }

    pub(super) unsafe fn value(&self, kv_head: usize, token: usize) -> *mut f32 {
        self.v.add((kv_head * self.tokens + token) * self.heads.value_width())
    }

    pub(super) unsafe fn cached_value(&self, kv_head: usize, position: usize) -> *const f32 {
        self.cached.values.as_ptr().add((kv_head * self.cached.length + position) * self.heads.value_width())
    }
}
