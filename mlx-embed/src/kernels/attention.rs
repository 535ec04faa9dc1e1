//! Whole attention layers over batches of texts that lie one behind the other.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::PoisonError;

use super::Engine;
use super::attend::{Attention, Heads, KEYS, MAX_HEAD_DIM, Past, Text, scratch_floats};
use super::buffer::Scratch;
use super::prepare::PREPARED;
use super::tiles::Tiles;

/// Queries of one text and head that a task takes.
const TASK_TILES: usize = 4;

/// Angles of each position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rotation<'a> {
    /// Cosines, then sines: `[positions, 2, head_dim / 2]`.
    pub(crate) angles: &'a [f32],
    /// Whether neighbours rotate together rather than halves.
    pub(crate) traditional: bool,
}

/// What an attention layer is, besides its sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionOptions<'a> {
    pub(crate) heads: Heads,
    /// RMSNorm of each head of queries: weights `[head_dim]` and epsilon.
    pub(crate) q_norm: Option<(&'a [f32], f32)>,
    /// The same for keys.
    pub(crate) k_norm: Option<(&'a [f32], f32)>,
    pub(crate) rotation: Rotation<'a>,
    /// Factor on scores.
    pub(crate) scale: f32,
}

/// How the keys and values of one call serve another.
#[derive(Debug)]
pub(crate) enum Reuse<'a> {
    /// They don't.
    Nothing,
    /// Those of one text are laid out here, to be a [`Past`]. What of the last block is behind the last key stays as it
    /// is.
    Keep { keys: &'a mut [f32], values: &'a mut [f32] },
    /// All texts continue these.
    Continue(Past<'a>),
}

#[derive(Default)]
pub(super) struct Workspace {
    q: Scratch,
    k: Scratch,
    v: Scratch,
    texts: Vec<Text>,
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Workspace")
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Engine {
    /// Causal attention of every text on itself, and on what it continues. `qkv` is
    /// `[tokens, (heads + 2 * kv_heads) * head_dim]`, texts of the given lengths one behind the other; `out` is
    /// `[tokens, heads * head_dim]`. `prepared` is called when queries, keys and values are normed, rotated and laid out.
    ///
    /// # Panics
    /// When a size does not fit the others.
    pub(crate) fn attention<'a>(
        &self,
        qkv: &[f32],
        lengths: &[usize],
        options: &AttentionOptions<'_>,
        reuse: Reuse<'_>,
        prepared: &mut dyn FnMut(),
        out: &'a mut [MaybeUninit<f32>],
    ) -> &'a mut [f32] {
        let heads = options.heads;
        let tokens: usize = lengths.iter().sum();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        assert_eq!(qkv.len(), tokens * heads.width());
        assert_eq!(out.len(), tokens * heads.heads * heads.head_dim);
        assert!(heads.head_dim <= MAX_HEAD_DIM && heads.head_dim.is_multiple_of(2));
        assert!(heads.heads.is_multiple_of(heads.kv_heads));
        let past = match &reuse {
            Reuse::Continue(past) => *past,
            Reuse::Nothing | Reuse::Keep { .. } => Past::default(),
        };
        assert!(past.tokens <= past.length);
        assert_eq!(past.keys.len(), heads.keys_shape(past.length).iter().product::<usize>());
        assert_eq!(past.values.len(), heads.values_shape(past.length).iter().product::<usize>());
        assert!(options.rotation.angles.len() >= (past.tokens + longest) * heads.head_dim);
        for (weight, _) in [options.q_norm, options.k_norm].into_iter().flatten() {
            assert_eq!(weight.len(), heads.head_dim);
        }
        if tokens == 0 {
            return &mut [];
        }
        let mut workspace = self.attention.lock().unwrap_or_else(PoisonError::into_inner);
        let Workspace { q, k, v, texts } = &mut *workspace;
        texts.clear();
        let (mut first, mut block) = (0, 0);
        for &tokens in lengths {
            texts.push(Text { first, tokens, block });
            first += tokens;
            block += (past.tokens % KEYS + tokens).div_ceil(KEYS);
        }
        let (k, v) = match reuse {
            Reuse::Keep { keys, values } => {
                assert_eq!(lengths.len(), 1);
                assert_eq!(keys.len(), heads.keys_shape(tokens).iter().product::<usize>());
                assert_eq!(values.len(), heads.values_shape(tokens).iter().product::<usize>());
                (keys.as_mut_ptr(), values.as_mut_ptr())
            }
            Reuse::Nothing | Reuse::Continue(_) => (
                k.floats(heads.kv_heads * block * heads.head_dim * KEYS),
                v.floats(heads.kv_heads * tokens * heads.value_width()),
            ),
        };
        let at = Attention {
            heads,
            q_norm: options.q_norm,
            k_norm: options.k_norm,
            angles: options.rotation.angles,
            traditional: options.rotation.traditional,
            scale: options.scale,
            past,
            qkv,
            q: q.floats(tokens * heads.heads * heads.head_dim),
            k,
            v,
            tokens,
            blocks: block,
            out: out.as_mut_ptr().cast(),
        };
        let texts = &*texts;
        // Tokens prepared at once have their keys in one block, and blocks begin where the past does.
        let before = past.tokens % PREPARED;
        let spans = Spans::new(texts.iter().map(|text| (before + text.tokens).div_ceil(PREPARED)));
        self.pool.run(spans.count(), &|task| {
            let (text, part) = spans.find(task);
            let text = texts[text];
            let start = past.tokens - before + part * PREPARED;
            let range = past.tokens.max(start)..(past.tokens + text.tokens).min(start + PREPARED);
            // SAFETY: the family was detected; there is room for all tokens and blocks, and the past is as long as it
            // says; tokens are the task's own.
            unsafe { (self.family.prepare)(&at, text, range) };
        });
        prepared();
        let rows = self.family.rows();
        let tiles = |text: &Text| Tiles::new(text.tokens, rows);
        let spans =
            Spans::new(texts.iter().map(|text| tiles(text).count().div_ceil(TASK_TILES) * heads.heads));
        self.pool.run(spans.count(), &|task| {
            // From the end: later queries see more keys, and long tasks should not be left for last.
            let (text, part) = spans.find(spans.count() - 1 - task);
            let text = texts[text];
            let tiles = tiles(&text);
            let (span, head) = (part / heads.heads, part % heads.heads);
            SCRATCH.with_borrow_mut(|scratch| {
                let scratch = scratch.floats(scratch_floats(&heads, rows));
                for index in span * TASK_TILES..tiles.count().min((span + 1) * TASK_TILES) {
                    let tile = tiles.get(index);
                    // SAFETY: as above, and all tokens are prepared; queries and head are the task's own.
                    unsafe {
                        (self.family.tiles[tile.rows - 1].attend)(&at, text, head, tile.first, scratch)
                    };
                }
            });
        });
        // SAFETY: the tasks above were all queries of all heads.
        unsafe { super::written(out) }
    }
}

/// Tasks of several texts, numbered through.
struct Spans {
    ends: Vec<usize>,
}

impl Spans {
    fn new(counts: impl Iterator<Item = usize>) -> Self {
        let ends = counts
            .scan(0, |end, count| {
                *end += count;
                Some(*end)
            })
            .collect();
        Self { ends }
    }

    fn count(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Which text, and which of its tasks.
    fn find(&self, task: usize) -> (usize, usize) {
        let text = self.ends.partition_point(|&end| end <= task);
        (text, task - if text == 0 { 0 } else { self.ends[text - 1] })
    }
}
