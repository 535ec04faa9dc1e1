//! Attention against a softmax over all scores.

use super::draw::Draw;
use std::sync::Arc;

use super::*;

/// An attention layer over random texts.
struct Case {
    heads: Heads,
    lengths: Vec<usize>,
    seen: Vec<usize>,
    qkv: Vec<f32>,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    v_norm: bool,
    angles: Vec<f32>,
    query_angles: Vec<f32>,
    traditional: bool,
    scale: f32,
    span: Span,
    /// Numbers of each head by distance, and how many texts may be long.
    distances: Option<(Vec<f32>, usize)>,
    round_above: Option<usize>,
}

const EPS: f32 = 1e-6;

impl Case {
    fn draw(draw: &mut Draw) -> Self {
        let small = cfg!(miri);
        let longest = if small { 5 } else { draw.one_of(&[10, 60, 300]) };
        let lengths =
            (0..draw.within(1, if small { 2 } else { 4 })).map(|_| draw.within(1, longest)).collect();
        Self::of(lengths, draw)
    }

    fn of(lengths: Vec<usize>, draw: &mut Draw) -> Self {
        let small = cfg!(miri);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let kv_heads = draw.within(1, if small { 1 } else { 3 });
        // Half of them such that halves of a head are whole vectors.
        let head_dim = if small && longest > 5 {
            2 * draw.within(1, 4)
        } else if draw.one_in(2) {
            32 * draw.within(1, if small { 2 } else { 4 })
        } else {
            2 * draw.within(1, if small { 24 } else { 64 })
        };
        let heads = Heads { heads: kv_heads * draw.within(1, if small { 2 } else { 3 }), kv_heads, head_dim };
        let tokens: usize = lengths.iter().sum();
        let angles: Vec<f32> = (0..longest)
            .flat_map(|_| {
                let angles: Vec<f32> = (0..head_dim / 2).map(|_| 3.0 * draw.number()).collect();
                let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
                cos.into_iter().chain(angles.into_iter().map(f32::sin))
            })
            .collect();
        let [before, after] = [draw.within(0, longest), draw.within(0, longest)];
        let span = draw.one_of(&[
            Span::CAUSAL,
            Span::CAUSAL,
            Span { before, after: 0 },
            Span { before: usize::MAX, after: usize::MAX },
            Span { before, after },
        ]);
        let norm = |draw: &mut Draw| (!draw.one_in(3)).then(|| draw.numbers(head_dim));
        let angles = if draw.one_in(6) { Vec::new() } else { angles };
        // Those of queries are longer with their position, or the same.
        let growth = draw.one_of(&[0.0, 0.01]);
        let grown = |(index, x): (usize, &f32)| x * (1.0 + growth * (index / head_dim) as f32);
        Self {
            heads,
            query_angles: angles.iter().enumerate().map(grown).collect(),
            v_norm: draw.one_in(3),
            qkv: draw.numbers(tokens * heads.width()),
            seen: lengths.clone(),
            lengths,
            q_norm: norm(draw),
            k_norm: norm(draw),
            angles,
            traditional: draw.one_in(3),
            span,
            // Sharp ones too, so that what came first counts for nothing after a later key.
            scale: draw.one_of(&[1.0, 1.0, 8.0]) / (head_dim as f32).sqrt(),
            // Not where a text may end anywhere, which would change whether it is rounded.
            round_above: (span.after > 0 && draw.one_in(2)).then(|| draw.within(0, 20)),
            distances: draw.one_in(3).then(|| {
                let reached = longest + draw.within(0, 20);
                (draw.numbers(heads.heads * Distances::columns_of(reached).0), reached)
            }),
        }
    }

    /// With some tokens at the ends of texts that none sees. Every query sees one before them.
    fn with_unseen(mut self, draw: &mut Draw) -> Self {
        self.span = Span { before: usize::MAX, after: draw.one_of(&[0, usize::MAX]) };
        self.seen = self.lengths.iter().map(|&length| draw.within(1, length)).collect();
        self
    }

    fn run(&self, engine: &Engine) -> Vec<f32> {
        self.run_with(engine, KvCache::None).0
    }

    /// The result, and what was to be kept.
    fn run_with(&self, engine: &Engine, cache: KvCache) -> (Vec<f32>, Option<Arc<KeysValues>>) {
        fn norm(weight: &Option<Vec<f32>>) -> Option<(&[f32], f32)> {
            weight.as_deref().map(|weight| (weight, EPS))
        }
        let options = AttentionOptions {
            heads: self.heads,
            q_norm: norm(&self.q_norm),
            k_norm: norm(&self.k_norm),
            v_norm: self.v_norm.then_some(EPS),
            rotation: (!self.angles.is_empty()).then_some(Rotation {
                angles: &self.angles,
                query_angles: &self.query_angles,
                traditional: self.traditional,
            }),
            scale: self.scale,
            span: self.span,
            round_above: self.round_above,
        };
        let tokens: usize = self.lengths.iter().sum();
        let mut out = unwritten(tokens * self.heads.heads * self.heads.head_dim);
        let prepared = engine.prepare(&self.qkv, &self.lengths, &self.seen, &options, cache);
        let kept = prepared.kept().cloned();
        let distances = self.distances.as_ref().map(|(numbers, reached)| {
            let (columns, own) = Distances::columns_of(*reached);
            Distances { numbers, columns, own }
        });
        engine.attend(prepared, distances, &mut out);
        (out, kept)
    }

    /// Tokens `range` of the whole batch as a text of their own.
    fn text(&self, range: std::ops::Range<usize>) -> Self {
        self.texts(&[range])
    }

    /// Tokens of the whole batch as texts.
    fn texts(&self, ranges: &[std::ops::Range<usize>]) -> Self {
        let width = self.heads.width();
        let rows = |range: &std::ops::Range<usize>| &self.qkv[range.start * width..range.end * width];
        Self {
            lengths: ranges.iter().map(|range| range.len()).collect(),
            seen: ranges.iter().map(|range| range.len()).collect(),
            qkv: ranges.iter().flat_map(rows).copied().collect(),
            q_norm: self.q_norm.clone(),
            k_norm: self.k_norm.clone(),
            angles: self.angles.clone(),
            query_angles: self.query_angles.clone(),
            distances: self.distances.clone(),
            ..*self
        }
    }

    /// A head of queries or keys, normed and rotated.
    fn rotated(&self, token: usize, position: usize, head: usize, norm: &Option<Vec<f32>>) -> Vec<f64> {
        let all_angles = if head < self.heads.heads { &self.query_angles } else { &self.angles };
        let Heads { head_dim, .. } = self.heads;
        let x = &self.qkv[token * self.heads.width() + head * head_dim..][..head_dim];
        let x = normed(x, norm.as_deref().map(|weight| (weight, EPS)));
        let mut out = vec![0.0; head_dim];
        if self.angles.is_empty() {
            return x;
        }
        for i in 0..head_dim / 2 {
            let (a, b) = if self.traditional { (2 * i, 2 * i + 1) } else { (i, i + head_dim / 2) };
            let angles = &all_angles[position * head_dim..(position + 1) * head_dim];
            let (cos, sin) = (f64::from(angles[i]), f64::from(angles[head_dim / 2 + i]));
            out[a] = x[a] * cos - x[b] * sin;
            out[b] = x[a] * sin + x[b] * cos;
        }
        out
    }

    /// A head of values, normed.
    fn value(&self, token: usize, kv_head: usize) -> Vec<f64> {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let at = token * self.heads.width() + (heads + kv_heads + kv_head) * head_dim;
        let ones = vec![1.0; head_dim];
        normed(&self.qkv[at..at + head_dim], self.v_norm.then_some((&ones, EPS)))
    }

    /// What is added to a score.
    fn added(&self, head: usize, query: usize, key: usize) -> f64 {
        self.distances.as_ref().map_or(0.0, |(numbers, reached)| {
            let (columns, own) = Distances::columns_of(*reached);
            f64::from(numbers[head * columns + own + key - query])
        })
    }

    /// The result and how far a kernel may be from it, one that rounds if it may or one that doesn't.
    fn naive(&self, rounds: bool) -> Vec<(f64, f64)> {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let tokens: usize = self.lengths.iter().sum();
        let mut out = vec![(0.0, 0.0); tokens * heads * head_dim];
        let mut first = 0;
        for (&length, &ends) in self.lengths.iter().zip(&self.seen) {
            for head in 0..heads {
                let kv_head = head / (heads / kv_heads);
                let keys: Vec<Vec<f64>> =
                    (0..length).map(|p| self.rotated(first + p, p, heads + kv_head, &self.k_norm)).collect();
                let values: Vec<Vec<f64>> = (0..length).map(|p| self.value(first + p, kv_head)).collect();
                for position in 0..length {
                    let q = self.rotated(first + position, position, head, &self.q_norm);
                    let dot = |k: &Vec<f64>| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>();
                    let size = |k: &Vec<f64>| q.iter().zip(k).map(|(q, k)| (q * k).abs()).sum::<f64>();
                    let scale = f64::from(self.scale);
                    let Span { before, after } = self.span;
                    let first_seen = position.saturating_sub(before);
                    let seen = &keys[first_seen..ends.min((position + 1).saturating_add(after))];
                    let added = |key: usize| self.added(head, position, key);
                    let scores: Vec<f64> =
                        seen.iter().zip(first_seen..).map(|(k, key)| scale * dot(k) + added(key)).collect();
                    let terms = seen.iter().zip(first_seen..);
                    let terms = terms.map(|(k, key)| scale * size(k) + added(key).abs());
                    let largest_term = terms.fold(0.0, f64::max);
                    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for e in 0..head_dim {
                        let value = |p: usize| values[p][e];
                        let sum = |f: fn(f64) -> f64| {
                            weights
                                .iter()
                                .zip(first_seen..)
                                .map(|(w, p)| w / total * f(value(p)))
                                .sum::<f64>()
                        };
                        // A score that is off by d changes its weight by a factor of e^d. In bf16 numbers are off by a
                        // 512th: those of queries and keys, then weights and values, then once more for what else there is.
                        let rounded = rounds && self.round_above.is_some_and(|most| ends > most);
                        let share = if rounded {
                            (largest_term / 128.0).exp_m1() + 1.0 / 128.0
                        } else {
                            2e-6 + 2e-6 * largest_term
                        };
                        let at = ((first + position) * heads + head) * head_dim + e;
                        out[at] = (sum(|v| v), share * sum(f64::abs) + 1e-12);
                    }
                }
            }
            first += length;
        }
        out
    }
}

#[test]
fn attention_is_a_softmax_over_what_is_seen() {
    for_cases(25, |engines, draw| {
        let case = Case::draw(draw);
        let case = if draw.one_in(4) { case.with_unseen(draw) } else { case };
        let naive = [false, true].map(|rounds| case.naive(rounds));
        for engine in engines {
            let case_of = || format!("{:?}: {:?} {:?}", engine.family, case.heads, case.lengths);
            let naive = &naive[usize::from((engine.family.rounds_attention)())];
            assert_near(&case.run(engine), naive, case_of);
        }
    });
}

#[test]
fn a_text_attends_to_itself_whatever_lies_beside_or_behind() {
    for_cases(40, |engines, draw| {
        let case = Case::draw(draw);
        let width = case.heads.heads * case.heads.head_dim;
        for engine in engines {
            let whole = case.run(engine);
            let mut first = 0;
            for &length in &case.lengths {
                // What sees what lies behind it is whole or another text.
                let count = if case.span.after == 0 { draw.within(1, length) } else { length };
                let alone = case.text(first..first + count).run(engine);
                let beside = &whole[first * width..(first + count) * width];
                assert_eq!(
                    bits(&alone),
                    bits(beside),
                    "{:?}: {:?}: {count} of {length}",
                    engine.family,
                    case.heads
                );
                first += length;
            }
        }
    });
}

#[test]
fn tokens_that_none_sees_change_no_others() {
    for_cases(20, |engines, draw| {
        let case = Case::draw(draw).with_unseen(draw);
        let width = case.heads.heads * case.heads.head_dim;
        for engine in engines {
            let whole = case.run(engine);
            let mut first = 0;
            for (&length, &seen) in case.lengths.iter().zip(&case.seen) {
                let alone = case.text(first..first + seen).run(engine);
                let beside = &whole[first * width..(first + seen) * width];
                assert_eq!(bits(&alone), bits(beside), "{:?}: {seen} of {length}", engine.family);
                first += length;
            }
        }
    });
}

#[test]
fn texts_that_continue_kept_keys_and_values_have_the_bits_of_whole_texts() {
    for_cases(40, |engines, draw| {
        // Short of a block of keys, at its end, past it, and past what a tile scores at once.
        let most = draw.one_of(if cfg!(miri) { &[33] } else { &[3, 31, 32, 33, 70, 127, 128, 150, 300] });
        let cached = if cfg!(miri) || draw.one_in(3) { most } else { draw.within(1, most) };
        let length = cached + draw.within(0, if cfg!(miri) { 2 } else { 40 });
        let longest = if cfg!(miri) { 3 } else { draw.one_of(&[1, 10, 60, 200]) };
        let texts = draw.within(1, if cfg!(miri) { 1 } else { 4 });
        let own: Vec<usize> = (0..texts).map(|_| draw.within(1, longest)).collect();

        // What is kept, then texts that begin with the first `cached` tokens of it.
        let lengths = std::iter::once(length).chain(own.iter().map(|own| cached + own)).collect();
        let mut case = Case::of(lengths, draw);
        case.span.after = 0;
        case.round_above = None;
        let width = case.heads.width();
        let starts: Vec<usize> = (0..case.lengths.len()).map(|i| case.lengths[..i].iter().sum()).collect();
        for &start in &starts[1..] {
            case.qkv.copy_within(..cached * width, start * width);
        }
        let ranges: Vec<_> =
            starts[1..].iter().zip(&own).map(|(start, own)| start + cached..start + cached + own).collect();

        for engine in engines {
            let whole = case.run(engine);
            let (kept, keys_values) = case.text(0..length).run_with(engine, KvCache::Keep);
            let cache = KvCache::Continue { cached: keys_values.unwrap(), tokens: cached };
            let (continued, _) = case.texts(&ranges).run_with(engine, cache);

            let width = case.heads.heads * case.heads.head_dim;
            let of = |range: &std::ops::Range<usize>| &whole[range.start * width..range.end * width];
            assert_eq!(bits(&kept), bits(of(&(0..length))), "{:?}", engine.family);
            let expected: Vec<f32> = ranges.iter().flat_map(of).copied().collect();
            assert_eq!(
                bits(&continued),
                bits(&expected),
                "{:?}: {:?}: {own:?} after {} of {length}",
                engine.family,
                case.heads,
                cached,
            );
        }
    });
}

#[test]
fn a_nan_stays_in_its_text() {
    for_cases(40, |engines, draw| {
        let mut case = Case::draw(draw);
        let clean: Vec<Vec<f32>> = engines.iter().map(|engine| case.run(engine)).collect();
        let token = draw.below(case.lengths.iter().sum());
        let at = token * case.heads.width() + draw.below(case.heads.width());
        case.qkv[at] = draw.one_of(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        let width = case.heads.heads * case.heads.head_dim;
        for (engine, clean) in engines.iter().zip(clean) {
            let broken = case.run(engine);
            let mut first = 0;
            for &length in &case.lengths {
                let text = first * width..(first + length) * width;
                if !(first..first + length).contains(&token) {
                    assert_eq!(bits(&clean[text.clone()]), bits(&broken[text]), "{:?}", engine.family);
                }
                first += length;
            }
            // An infinite score may well mean that its key counts for nothing.
            let own = &broken[token * width..(token + 1) * width];
            assert!(
                !case.qkv[at].is_nan() || own.iter().any(|x| x.is_nan()),
                "{:?}: {:?} {:?}: the NaN of token {token} is lost",
                engine.family,
                case.heads,
                case.lengths
            );
        }
    });
}
