//! Whole attention layers over packed batches.

use std::cell::RefCell;
use std::sync::{Arc, PoisonError};

use super::Engine;
use super::attend::scratch_floats;
use super::buffer::Scratch;
use super::layout::{Attention, CachedPart, Distances, Heads, KEYS, MAX_HEAD_DIM, Rotation, Span, Text};
use super::prepare::PREPARED;
use super::tiles::Tiles;

/// Queries of one text and head that a task takes.
const TASK_TILES: usize = 4;

/// What an attention layer is, besides its sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionOptions<'a> {
    pub(crate) heads: Heads,
    /// RMSNorm of each head of queries: weights `[head_dim]` and epsilon.
    pub(crate) q_norm: Option<(&'a [f32], f32)>,
    /// The same for keys.
    pub(crate) k_norm: Option<(&'a [f32], f32)>,
    /// Epsilon of the RMSNorm of each head of values, which has no weights.
    pub(crate) v_norm: Option<f32>,
    pub(crate) rotation: Option<Rotation<'a>>,
    /// Factor on scores.
    pub(crate) scale: f32,
    pub(crate) span: Span,
    /// Texts of which more tokens than this are seen may have their products rounded: queries, keys, values and weights of
    /// the softmax to bf16, where this takes less time and texts continue nothing.
    pub(crate) round_above: Option<usize>,
}

/// How the keys and values of one call serve another.
#[derive(Debug)]
pub(crate) enum KvCache {
    /// They don't.
    None,
    /// Those of one text are kept.
    Keep,
    /// All texts continue the first `tokens` tokens of these.
    Continue { cached: Arc<KeysValues>, tokens: usize },
}

/// Keys and values of one text, laid out.
#[derive(Debug)]
pub(crate) struct KeysValues {
    heads: Heads,
    tokens: usize,
    keys: Scratch,
    values: Scratch,
}

impl KeysValues {
    fn new(heads: Heads, tokens: usize) -> Self {
        let [mut keys, mut values] = [Scratch::default(), Scratch::default()];
        keys.floats(heads.keys_shape(tokens).iter().product());
        values.floats(heads.values_shape(tokens).iter().product());
        Self { heads, tokens, keys, values }
    }

    /// Memory that it holds.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.keys.len() + self.values.len()
    }

    /// Memory that those of so many tokens take.
    pub(crate) fn bytes_of(heads: Heads, tokens: usize) -> usize {
        let numbers = heads.keys_shape(tokens).iter().product::<usize>()
            + heads.values_shape(tokens).iter().product::<usize>();
        // Each of the two ends with a whole cache line.
        numbers * size_of::<f32>() + 2 * 64
    }

    /// The first `tokens` tokens of it.
    fn cached(&self, tokens: usize) -> CachedPart<'_> {
        let keys: usize = self.heads.keys_shape(self.tokens).iter().product();
        let values: usize = self.heads.values_shape(self.tokens).iter().product();
        // SAFETY: `new` made room for so many numbers, which any bytes are; they are written before anybody reads them.
        let [keys, values] = unsafe {
            [
                std::slice::from_raw_parts(self.keys.start(), keys),
                std::slice::from_raw_parts(self.values.start(), values),
            ]
        };
        CachedPart { tokens, length: self.tokens, keys, values }
    }
}

/// Queries, keys and values of a batch, normed, rotated and laid out.
#[derive(Debug)]
pub(crate) struct Prepared {
    heads: Heads,
    scale: f32,
    span: Span,
    tokens: usize,
    blocks: usize,
    workspace: Workspace,
    cached: Option<(Arc<KeysValues>, usize)>,
    /// In place of the workspace's keys and values.
    kept: Option<Arc<KeysValues>>,
}

impl Prepared {
    /// The keys and values that were to be kept.
    pub(crate) fn kept(&self) -> Option<&Arc<KeysValues>> {
        self.kept.as_ref()
    }
}

#[derive(Debug, Default)]
pub(super) struct Workspace {
    q: Scratch,
    k: Scratch,
    v: Scratch,
    texts: Vec<Text>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Engine {
    /// Norms, rotates and lays out queries, keys and values. `qkv` is `[tokens, (heads + 2 * kv_heads) * head_dim]`, texts
    /// of the given lengths, packed. Of each the first `seen` tokens are keys.
    ///
    /// # Panics
    /// When a size does not fit the others.
    pub(crate) fn prepare(
        &self,
        qkv: &[f32],
        lengths: &[usize],
        seen: &[usize],
        options: &AttentionOptions<'_>,
        cache: KvCache,
    ) -> Prepared {
        let heads = options.heads;
        let tokens: usize = lengths.iter().sum();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        assert_eq!(qkv.len(), tokens * heads.width());
        assert_eq!(seen.len(), lengths.len());
        assert!(seen.iter().zip(lengths).all(|(seen, tokens)| seen <= tokens));
        assert!(heads.head_dim <= MAX_HEAD_DIM && heads.head_dim.is_multiple_of(2));
        assert!(heads.heads.is_multiple_of(heads.kv_heads));
        let (cached, mut kept) = match cache {
            KvCache::None => (None, None),
            KvCache::Keep => {
                assert_eq!(lengths.len(), 1);
                (None, Some(KeysValues::new(heads, tokens)))
            }
            KvCache::Continue { cached, tokens } => {
                assert!(tokens <= cached.tokens && cached.heads == heads);
                (Some((cached, tokens)), None)
            }
        };
        let before = cached.as_ref().map_or(0, |&(_, tokens)| tokens);
        if let Some(rotation) = options.rotation {
            for angles in [rotation.angles, rotation.query_angles] {
                assert!(angles.len() >= (before + longest) * heads.head_dim);
            }
        }
        for (weight, _) in [options.q_norm, options.k_norm].into_iter().flatten() {
            assert_eq!(weight.len(), heads.head_dim);
        }
        let mut workspace =
            std::mem::take(&mut *self.attention.lock().unwrap_or_else(PoisonError::into_inner));
        let Workspace { q, k, v, texts } = &mut workspace;
        texts.clear();
        let rounds = before == 0 && kept.is_none() && self.rounds_attention();
        let most_exact = options.round_above.filter(|_| rounds);
        let (mut first, mut blocks) = (0, 0);
        for (&tokens, &seen) in lengths.iter().zip(seen) {
            let rounded = most_exact.is_some_and(|most| seen > most);
            texts.push(Text { first, tokens, seen, block: blocks, rounded });
            first += tokens;
            blocks += (before % KEYS + tokens).div_ceil(KEYS);
        }
        let (k, v) = match &mut kept {
            Some(KeysValues { keys, values, .. }) => (keys, values),
            None => (k, v),
        };
        let at = Attention {
            heads,
            q_norm: options.q_norm,
            k_norm: options.k_norm,
            v_norm: options.v_norm,
            rotation: options.rotation,
            scale: options.scale,
            span: options.span,
            distances: None,
            cached: cached
                .as_ref()
                .map_or_else(CachedPart::default, |(cached, tokens)| cached.cached(*tokens)),
            qkv,
            q: q.floats(tokens * heads.heads * heads.head_dim),
            k: k.floats(heads.kv_heads * blocks * heads.head_dim * KEYS),
            v: v.floats(heads.kv_heads * tokens * heads.value_width()),
            tokens,
            blocks,
            out: std::ptr::null_mut(),
        };
        let texts = &*texts;
        // Tokens prepared at once have their keys in one block, and blocks begin where the cache does.
        let lead = before % PREPARED;
        let spans = Spans::new(texts.iter().map(|text| (lead + text.tokens).div_ceil(PREPARED)));
        self.pool.run(spans.count(), &|task| {
            let (text, part) = spans.find(task);
            let text = texts[text];
            let start = before - lead + part * PREPARED;
            let range = before.max(start)..(before + text.tokens).min(start + PREPARED);
            // SAFETY: the family was detected; there is room for all tokens and blocks, and the cache is as long as it
            // says; tokens are the task's own.
            unsafe { (self.family.prepare[usize::from(text.rounded)])(&at, text, range) };
        });
        let (scale, span) = (options.scale, options.span);
        Prepared { heads, scale, span, tokens, blocks, workspace, cached, kept: kept.map(Arc::new) }
    }

    /// Whether attention is rounded to bf16 where [`AttentionOptions::round_above`] allows it.
    pub(crate) fn rounds_attention(&self) -> bool {
        (self.family.rounds_attention)()
    }

    /// Attention of every text on itself, and on what it continues: `[tokens, heads * head_dim]`. `distances` are added to
    /// the scores.
    ///
    /// # Panics
    /// When the result's size does not fit, or a text is longer than the distances reach.
    pub(crate) fn attend(&self, prepared: Prepared, distances: Option<Distances<'_>>, out: &mut [f32]) {
        let Prepared { heads, scale, span, tokens, blocks, workspace, cached, kept } = prepared;
        assert_eq!(out.len(), tokens * heads.heads * heads.head_dim);
        let before = cached.as_ref().map_or(0, |&(_, tokens)| tokens);
        let longest = before + workspace.texts.iter().map(|text| text.tokens).max().unwrap_or(0);
        assert!(distances.is_none_or(|distances| distances.reach(heads.heads, longest)));
        let (k, v) = match &kept {
            Some(kept) => (&kept.keys, &kept.values),
            None => (&workspace.k, &workspace.v),
        };
        let at = Attention {
            heads,
            q_norm: None,
            k_norm: None,
            v_norm: None,
            rotation: None,
            scale,
            span,
            distances,
            cached: cached
                .as_ref()
                .map_or_else(CachedPart::default, |(cached, tokens)| cached.cached(*tokens)),
            qkv: &[],
            // From here on these are read.
            q: workspace.q.start().cast_mut(),
            k: k.start().cast_mut(),
            v: v.start().cast_mut(),
            tokens,
            blocks,
            out: out.as_mut_ptr(),
        };
        let texts = &workspace.texts;
        let rows = self.family.rows();
        let tiles = |text: &Text| Tiles::new(text.tokens, rows);
        let spans =
            Spans::new(texts.iter().map(|text| tiles(text).count().div_ceil(TASK_TILES) * heads.heads));
        self.pool.run(spans.count(), &|task| {
            // Under a causal mask from the end: later queries see more keys, and long tasks should not be left for last.
            // Elsewhere on the thread that prepared the queries.
            let from_end = span.after == 0;
            let (text, part) = spans.find(if from_end { spans.count() - 1 - task } else { task });
            let text = texts[text];
            let tiles = tiles(&text);
            let (span, head) = (part / heads.heads, part % heads.heads);
            SCRATCH.with_borrow_mut(|scratch| {
                let scratch = scratch.floats(scratch_floats(&heads, rows));
                for index in span * TASK_TILES..tiles.count().min((span + 1) * TASK_TILES) {
                    let tile = tiles.get(index);
                    let attend = self.family.tiles[tile.rows - 1].attend[usize::from(text.rounded)];
                    // SAFETY: as in `prepare`, and all tokens are prepared; queries and head are the task's own.
                    unsafe { attend(&at, text, head, tile.first, scratch) };
                }
            });
        });
        *self.attention.lock().unwrap_or_else(PoisonError::into_inner) = workspace;
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
