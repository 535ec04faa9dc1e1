//! A model as data: which operations its layers are, in which order, and where their weights are.
//!
//! The readers in `families` make it of `config.json`; the decoder runs it. Names of tensors stand in these readers and
//! nowhere else. Paths are without a leading `model.`; `path.weight` is the tensor.
//!
//! Shapes in comments use one set of letters: D hidden, H heads, K key and value heads, E head_dim, I intermediate, P a
//! layer's input.

pub(crate) use super::activation::DenseActivation as Activation;
use super::activation::DenseActivation;
use super::rope::RopeSpec;
use crate::pooling::Pooling;

/// A model from token ids to hidden states.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelSpec {
    /// D, the width of the residual stream.
    pub(crate) hidden: usize,
    pub(crate) embedding: EmbeddingSpec,
    /// The rotary embeddings that layers name by their index.
    pub(crate) ropes: Vec<RopeSpec>,
    /// What every layer adds to its scores.
    pub(crate) relative: Option<RelativeSpec>,
    /// What of the first hidden state is handed to each layer.
    pub(crate) layer_inputs: Option<LayerInputsSpec>,
    pub(crate) layers: Vec<LayerSpec>,
    /// Behind the last layer.
    pub(crate) norm: Option<NormSpec>,
    /// Of each token's state behind that. It has no bias, so it may follow a pooling that is a weighted sum.
    pub(crate) projection: Option<ProjectionSpec>,
    /// What the pooled vector goes through, as far as its weights are among the model's own.
    pub(crate) behind: Vec<StepSpec>,
    /// Whether config.json has vectors scaled to length 1, where it says anything of it.
    pub(crate) normalizes: Option<bool>,
    /// Of a reranker, how pairs become logits.
    pub(crate) head: Option<HeadSpec>,
    /// What makes weights of the vocabulary's tokens, where they are asked for.
    pub(crate) mlm: Option<MlmSpec>,
}

/// The head of a masked language model: `norm(act(x W^T + b)) V^T + c`, a logit for each token of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MlmSpec {
    pub(crate) dense: ProjectionSpec, // D -> D
    pub(crate) activation: Activation,
    pub(crate) norm: NormSpec,
    /// V, some rows at a time, so that not all logits of a batch are held at once.
    pub(crate) decoder: Vec<ProjectionSpec>,
    /// The tensor c, `[vocabulary]`, where there is one.
    pub(crate) bias: Option<String>,
    pub(crate) vocabulary: usize,
    pub(crate) pooling: Splade,
    /// Most weights that a text keeps, the largest.
    pub(crate) most: Option<usize>,
}

/// How a text's weight of a token of the vocabulary is made of its tokens' logits (Formal et al., 2021).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Splade {
    /// Whether the logarithm is taken twice.
    pub(crate) logs_twice: bool,
    /// Whether it is the sum of the tokens' weights rather than the largest.
    pub(crate) sums: bool,
}

impl Splade {
    /// `log(1 + relu(x))`, or that logarithm twice; NaN of what is not finite, to be told.
    pub(crate) fn weight(self, logit: f32) -> f32 {
        match logit {
            _ if !logit.is_finite() => f32::NAN,
            // Most are.
            ..=0.0 => 0.0,
            _ if self.logs_twice => logit.ln_1p().ln_1p(),
            _ => logit.ln_1p(),
        }
    }
}

/// Rows of a head's matrix that are multiplied at once: 16 MiB of logits for 512 tokens.
// Tests have small vocabularies, and are to see several parts.
const VOCABULARY_ROWS: usize = if cfg!(test) { 50 } else { 8192 };

impl MlmSpec {
    /// The rows of table `path`, as products take them.
    pub(crate) fn decoder(path: &str, vocabulary: usize, inputs: usize) -> Vec<ProjectionSpec> {
        let rows = |start: usize| start..(start + VOCABULARY_ROWS).min(vocabulary);
        let part = |start| PartSpec { path: path.to_owned(), rows: rows(start), of: vocabulary, bias: false };
        let starts = (0..vocabulary).step_by(VOCABULARY_ROWS);
        starts.map(|start| ProjectionSpec { parts: vec![part(start)], inputs }).collect()
    }
}

/// A step of the pooled vector.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StepSpec {
    /// `act(W x + b)`
    Dense {
        projection: ProjectionSpec,
        activation: DenseActivation,
    },
    Norm(NormSpec),
}

impl StepSpec {
    /// The name that its tensors share.
    pub(crate) fn at(&self) -> &str {
        match self {
            Self::Dense { projection, .. } => &projection.parts[0].path,
            Self::Norm(norm) => norm.weight.strip_suffix(".weight").unwrap_or(&norm.weight),
        }
    }
}

/// A reranker's head: what is pooled, and what makes logits of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeadSpec {
    pub(crate) pooling: Pooling,
    pub(crate) logits: Logits,
}

/// Where a pair's logits come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Logits {
    /// The last step behind pooling gives the one label's.
    Label,
    /// They are products with the rows of the answers' tokens in this table, which would make logits of all tokens.
    Answers(TableSpec),
}

/// Token ids to the first hidden state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EmbeddingSpec {
    pub(crate) tokens: TableSpec, // [vocabulary, D]
    /// Where a token's id alone doesn't say which row is its own, and how much that counts.
    pub(crate) lookup: Option<LookupSpec>,
    /// What rows are multiplied with.
    pub(crate) scale: f32,
    /// A row is added for each token's position.
    pub(crate) positions: Option<PositionsSpec>,
    /// A row is added for each token's type: the first, or the second in the second part of a pair.
    pub(crate) token_types: Option<TableSpec>,
    /// Of the sum.
    pub(crate) norm: Option<NormSpec>,
}

impl EmbeddingSpec {
    /// A token's row of a table, and nothing else.
    pub(crate) fn of(tokens: TableSpec) -> Self {
        Self { tokens, lookup: None, scale: 1.0, positions: None, token_types: None, norm: None }
    }
}

/// Which row of the table a token has, and what it is multiplied with: a tensor each, with a number for each token id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LookupSpec {
    pub(crate) rows: Option<String>,
    pub(crate) factors: Option<String>,
    /// Token ids.
    pub(crate) vocabulary: usize,
}

/// A matrix that is looked up row by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TableSpec {
    pub(crate) path: String,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// Whether it may be of whole numbers, which are then what is meant.
    pub(crate) may_be_whole: bool,
}

/// Positions as rows of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PositionsSpec {
    pub(crate) table: TableSpec,
    /// The row of a text's first token.
    pub(crate) first: usize,
    /// Tokens with this id don't count, and have the row of that number.
    pub(crate) padding: Option<u32>,
}

impl PositionsSpec {
    /// Most tokens that it has rows for.
    pub(crate) fn longest(&self) -> usize {
        self.table.rows.saturating_sub(self.first)
    }
}

/// A number for each head and each bucket of distances between a query and a key (Raffel et al., 2020).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RelativeSpec {
    pub(crate) table: TableSpec, // [BUCKETS, H]
    /// Most tokens of a text.
    pub(crate) longest: usize,
}

impl RelativeSpec {
    pub(crate) const BUCKETS: usize = 32;
    /// Of one side of the query, and distances of these that have a bucket of their own.
    const OF_SIDE: usize = Self::BUCKETS / 2;
    const EXACT: usize = Self::OF_SIDE / 2;
    /// From here on all distances of a side have one bucket.
    pub(crate) const FAR: usize = 128;

    /// The row of the table for a key so far behind the query; before it the number is negative.
    ///
    /// From `EXACT` on each bucket ends at the square root of 2 times as far as the one before, and the last has no end.
    pub(crate) fn bucket(behind: isize) -> usize {
        let away = behind.unsigned_abs();
        let of_side = if away < Self::EXACT {
            away
        } else {
            let doublings = (away * away / (Self::EXACT * Self::EXACT)).ilog2() as usize;
            (Self::EXACT + doublings).min(Self::OF_SIDE - 1)
        };
        of_side + if behind > 0 { Self::OF_SIDE } else { 0 }
    }
}

/// One layer: attention, the feed-forward part and what takes in the layer's input, each added to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LayerSpec {
    pub(crate) attention: AttentionSpec,
    pub(crate) mlp: MlpSpec,
    /// A third part, added as well.
    pub(crate) input: Option<LayerInputSpec>,
    /// The tensor of one number that the residual stream is multiplied with at last.
    pub(crate) scalar: Option<String>,
}

impl LayerSpec {
    fn projections(&self) -> impl Iterator<Item = &ProjectionSpec> {
        let Self { attention, mlp, input, .. } = self;
        let halves = [&attention.qkv, &attention.output, &mlp.up, &mlp.down];
        halves.into_iter().chain(input.iter().flat_map(|input| [&input.gate, &input.output]))
    }
}

/// The first hidden state, projected for every layer at once, and each layer's part normed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LayerInputsSpec {
    pub(crate) projection: ProjectionSpec, // D -> layers * P
    pub(crate) norm: NormSpec,             // of P
}

/// The part of a layer that takes in its input: `x + norm(act(x W1) * input W2)`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LayerInputSpec {
    pub(crate) gate: ProjectionSpec, // D -> P
    pub(crate) activation: Activation,
    pub(crate) output: ProjectionSpec, // P -> D
    pub(crate) norms: HalfNorms,
}

/// The norms around half a layer: `sum(x + output(f(input(x))))`. What is `None` is left out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HalfNorms<N = NormSpec> {
    /// Of what the half reads.
    pub(crate) input: Option<N>,
    /// Of what it computes, before that is added.
    pub(crate) output: Option<N>,
    /// Of the sum: the norm of models in which the residual stream itself is normalised.
    pub(crate) sum: Option<N>,
}

impl<N> Default for HalfNorms<N> {
    fn default() -> Self {
        Self { input: None, output: None, sum: None }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttentionSpec {
    pub(crate) norms: HalfNorms,
    pub(crate) qkv: ProjectionSpec, // D -> (H + 2K) * E
    pub(crate) heads: HeadsSpec,
    /// Norms of each head of queries and of keys, `[E]`.
    pub(crate) q_norm: Option<NormSpec>,
    pub(crate) k_norm: Option<NormSpec>,
    /// Epsilon of the RMSNorm of each head of values, which has no weight.
    pub(crate) v_norm: Option<f32>,
    /// Index into [`ModelSpec::ropes`]; without one nothing rotates.
    pub(crate) rope: Option<usize>,
    /// Factor on scores, without what the rotary embedding adds.
    pub(crate) scale: f32,
    pub(crate) sees: Sees,
    pub(crate) output: ProjectionSpec, // H * E -> D
}

/// Sizes of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadsSpec {
    /// H
    pub(crate) heads: usize,
    /// K, which divides H.
    pub(crate) kv_heads: usize,
    /// E
    pub(crate) head_dim: usize,
}

impl ModelSpec {
    /// An embedding and layers, and nothing else.
    pub(crate) fn of(hidden: usize, embedding: EmbeddingSpec, layers: Vec<LayerSpec>) -> Self {
        Self {
            hidden,
            embedding,
            ropes: Vec::new(),
            relative: None,
            layer_inputs: None,
            layers,
            norm: None,
            projection: None,
            behind: Vec::new(),
            normalizes: None,
            head: None,
            mlm: None,
        }
    }

    /// The projection of each token's state, as a step of the pooled vector.
    pub(crate) fn token_step(&self) -> Option<StepSpec> {
        let activation = DenseActivation::Identity;
        self.projection.clone().map(|projection| StepSpec::Dense { projection, activation })
    }

    /// What the pooled vector goes through, as far as its weights are among the model's own.
    pub(crate) fn steps(&self) -> impl Iterator<Item = StepSpec> {
        self.token_step().into_iter().chain(self.behind.iter().cloned())
    }

    /// Every matrix, by its path, and how many values a row of it has.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (&str, usize)> {
        let EmbeddingSpec { tokens, positions, token_types, .. } = &self.embedding;
        let positions = positions.as_ref().map(|positions| &positions.table);
        let relative = self.relative.as_ref().map(|relative| &relative.table);
        let answers = self.head.as_ref().and_then(|head| match &head.logits {
            Logits::Label => None,
            Logits::Answers(table) => Some(table),
        });
        let tables = [Some(tokens), positions, token_types.as_ref(), relative, answers].into_iter().flatten();
        let tables = tables.map(|table| (table.path.as_str(), table.width));
        tables.chain(self.parts().map(|(part, inputs)| (part.path.as_str(), inputs)))
    }

    /// Every matrix of the layers and tables of the embedding, by its path, with its rows in the file and their width.
    pub(crate) fn matrices_with_rows(&self) -> impl Iterator<Item = (&str, usize, usize)> {
        let EmbeddingSpec { tokens, positions, token_types, .. } = &self.embedding;
        let positions = positions.as_ref().map(|positions| &positions.table);
        let tables = [Some(tokens), positions, token_types.as_ref()].into_iter().flatten();
        let parts = self.layers.iter().flat_map(LayerSpec::projections);
        let parts =
            parts.flat_map(|projection| projection.parts.iter().map(|part| (part, projection.inputs)));
        tables
            .map(|table| (table.path.as_str(), table.rows, table.width))
            .chain(parts.map(|(part, inputs)| (part.path.as_str(), part.of, inputs)))
    }

    /// The name of every other tensor: weights of norms, and biases.
    pub(crate) fn vectors(&self) -> impl Iterator<Item = String> {
        let norms = self.norms().flat_map(|norm| [Some(norm.weight.clone()), norm.bias.clone()]).flatten();
        let biases =
            self.parts().filter(|(part, _)| part.bias).map(|(part, _)| format!("{}.bias", part.path));
        let scalars = self.layers.iter().filter_map(|layer| layer.scalar.clone());
        let lookup = self.embedding.lookup.iter().flat_map(|lookup| [&lookup.rows, &lookup.factors]);
        norms
            .chain(biases)
            .chain(scalars)
            .chain(self.mlm.iter().filter_map(|mlm| mlm.bias.clone()))
            .chain(lookup.flatten().cloned())
    }

    fn parts(&self) -> impl Iterator<Item = (&PartSpec, usize)> {
        let inputs = self.layer_inputs.iter().map(|inputs| &inputs.projection);
        let behind = self.behind.iter().filter_map(|step| match step {
            StepSpec::Dense { projection, .. } => Some(projection),
            StepSpec::Norm(_) => None,
        });
        let mlm = self.mlm.iter().flat_map(|mlm| [&mlm.dense].into_iter().chain(&mlm.decoder));
        inputs
            .chain(self.layers.iter().flat_map(LayerSpec::projections))
            .chain(&self.projection)
            .chain(behind)
            .chain(mlm)
            .flat_map(|projection| projection.parts.iter().map(|part| (part, projection.inputs)))
    }

    fn norms(&self) -> impl Iterator<Item = &NormSpec> {
        let inputs = self.layer_inputs.as_ref().map(|inputs| &inputs.norm);
        let mlm = self.mlm.as_ref().map(|mlm| &mlm.norm);
        let mut all = vec![self.embedding.norm.as_ref(), inputs, self.norm.as_ref(), mlm];
        for LayerSpec { attention, mlp, input, .. } in &self.layers {
            let parts = [Some(&attention.norms), Some(&mlp.norms), input.as_ref().map(|input| &input.norms)];
            for norms in parts.into_iter().flatten() {
                all.extend([&norms.input, &norms.output, &norms.sum].map(Option::as_ref));
            }
            all.extend([&attention.q_norm, &attention.k_norm].map(Option::as_ref));
        }
        all.extend(self.behind.iter().map(|step| match step {
            StepSpec::Norm(norm) => Some(norm),
            StepSpec::Dense { .. } => None,
        }));
        all.into_iter().flatten()
    }
}

impl HeadsSpec {
    /// Numbers of a token's queries.
    pub(crate) fn queries(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Which tokens of its text a token attends to. Every token sees itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sees {
    /// Those before it.
    Before,
    /// Of those before it as many as make this number with itself: key j for query i where `i - n < j <= i`.
    BeforeWithin(usize),
    /// All.
    All,
    /// Those at most so far away: `|i - j| <= n`.
    AllWithin(usize),
}

impl Sees {
    /// Whether what comes later changes nothing for a token.
    pub(crate) fn is_causal(self) -> bool {
        matches!(self, Self::Before | Self::BeforeWithin(_))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MlpSpec {
    pub(crate) norms: HalfNorms,
    /// D -> I, or, gated, D -> 2I: gate, then up.
    pub(crate) up: ProjectionSpec,
    /// Gated, of the gate, times up.
    pub(crate) activation: Activation,
    pub(crate) gated: bool,
    pub(crate) down: ProjectionSpec, // I -> D
}

/// A norm and its weights.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NormSpec {
    /// The tensor that it multiplies with.
    pub(crate) weight: String,
    /// The tensor that it adds; layer norms only.
    pub(crate) bias: Option<String>,
    pub(crate) size: usize,
    pub(crate) kind: NormKind,
    pub(crate) eps: f32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum NormKind {
    /// By the root mean square (Zhang and Sennrich, 2019), times `offset + weight`.
    Rms { offset: f32 },
    /// By mean and variance (Ba et al., 2016), times weight, plus bias.
    Layer,
}

/// Matrices that read the same rows; their outputs are concatenated.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProjectionSpec {
    pub(crate) parts: Vec<PartSpec>,
    pub(crate) inputs: usize,
}

impl ProjectionSpec {
    /// Of one matrix.
    pub(crate) fn one(path: String, outputs: usize, inputs: usize, bias: bool) -> Self {
        Self { parts: vec![PartSpec::whole(path, outputs, bias)], inputs }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.parts.iter().map(PartSpec::outputs).sum()
    }
}

/// Rows of a matrix, `[outputs, inputs]`, and of its bias.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PartSpec {
    pub(crate) path: String,
    /// Those of the file's matrix that are meant, and how many it has.
    pub(crate) rows: std::ops::Range<usize>,
    pub(crate) of: usize,
    pub(crate) bias: bool,
}

impl PartSpec {
    /// All rows.
    pub(crate) fn whole(path: String, outputs: usize, bias: bool) -> Self {
        Self::nth(path, 0, 1, outputs, bias)
    }

    /// One of `count` parts of a matrix, each of so many rows.
    pub(crate) fn nth(path: String, index: usize, count: usize, outputs: usize, bias: bool) -> Self {
        Self { path, rows: index * outputs..(index + 1) * outputs, of: count * outputs, bias }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.rows.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By transformers' formula for MPNet, with torch.
    #[test]
    fn distances_share_buckets_as_in_the_reference() {
        let ends =
            [(0, 0), (1, 17), (7, 23), (8, 24), (11, 24), (12, 25), (15, 25), (16, 26), (22, 26), (23, 27)];
        let far = [(31, 27), (32, 28), (45, 28), (46, 29), (63, 29), (64, 30), (90, 30), (91, 31), (511, 31)];
        for (behind, bucket) in ends.into_iter().chain(far) {
            assert_eq!(RelativeSpec::bucket(behind), bucket, "{behind}");
            assert_eq!(RelativeSpec::bucket(-behind), bucket.saturating_sub(16), "-{behind}");
        }
        let far = RelativeSpec::FAR.cast_signed();
        for more in [far, far + 1, 100 * far] {
            assert_eq!([more, -more].map(RelativeSpec::bucket), [31, 15], "{more}");
        }
    }
}
