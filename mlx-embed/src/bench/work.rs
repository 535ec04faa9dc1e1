//! What operations have to do, by the decoder's geometry.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, ModelConfig};
use crate::pooling::Pooling;
use crate::watch::{Arithmetic, Part, Record};

use super::{Shape, Work};

/// Sizes of a decoder. Numbers are f64, since they are divided by times.
#[derive(Debug)]
pub(super) struct Geometry {
    pub(super) layers: usize,
    /// Bytes of a number in activations.
    pub(super) number_bytes: f64,
    hidden: f64,
    intermediate: f64,
    /// Of all heads of queries, and of keys.
    query_width: f64,
    key_width: f64,
    vocabulary: f64,
    /// Bytes of each layer's tensors, by the kind of matrix or norm.
    weights: Vec<BTreeMap<String, f64>>,
    table_bytes: f64,
    /// Numbers that a layer takes in besides, and bytes of what makes them.
    layer_input: f64,
    layer_inputs_bytes: f64,
    /// Rows of the last layer that pooling needs are one a text.
    one_row_a_text: bool,
}

/// Part of an operation.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    operations: f64,
    /// Weights, and what is read besides the part's input.
    beside: f64,
    /// Numbers read from the part before it, and written for the next.
    input: f64,
    output: f64,
}

impl Geometry {
    pub(super) fn new(checkpoint: &Checkpoint, pooling: Pooling) -> Self {
        let config: &ModelConfig = checkpoint.config();
        let mut weights = vec![BTreeMap::new(); config.layers];
        let [mut table_bytes, mut layer_inputs_bytes] = [0.0; 2];
        for (name, bytes) in checkpoint.tensor_bytes() {
            let parts: Vec<&str> = name.split('.').collect();
            match parts[..] {
                ["layers", index, .., kind, _] => {
                    if let Some(layer) = index.parse().ok().and_then(|index: usize| weights.get_mut(index)) {
                        *layer.entry(kind.to_owned()).or_insert(0.0) += bytes as f64;
                    }
                }
                ["embed_tokens", _] => table_bytes += bytes as f64,
                ["ple", ..] => layer_inputs_bytes += bytes as f64,
                _ => {}
            }
        }
        let head_dim = f64::from(config.head_dim);
        Self {
            layers: config.layers,
            number_bytes: 4.0,
            hidden: f64::from(config.hidden_size),
            intermediate: f64::from(config.intermediate_size),
            query_width: f64::from(config.heads) * head_dim,
            key_width: f64::from(config.kv_heads) * head_dim,
            vocabulary: f64::from(config.vocab_size),
            weights,
            table_bytes,
            layer_input: checkpoint
                .spec()
                .layer_inputs
                .as_ref()
                .map_or(0.0, |inputs| inputs.norm.size as f64),
            layer_inputs_bytes,
            one_row_a_text: pooling.is_of_one_token(),
        }
    }

    /// What the operation of `record` had to do in a batch of `shape`.
    pub(super) fn work(
        &self,
        record: &Record,
        shape: Shape,
        arithmetic: &BTreeMap<Part, Arithmetic>,
    ) -> Work {
        const LAYER: [Part; 11] = [
            Part::InputNorm,
            Part::Qkv,
            Part::HeadNorms,
            Part::Rope,
            Part::Attention,
            Part::Output,
            Part::PostAttentionNorm,
            Part::GateUp,
            Part::SwiGlu,
            Part::LayerInput,
            Part::Down,
        ];
        match record.parts {
            [Part::Layer] => self.sum(&self.pieces(&LAYER, record.layer, shape), &LAYER, arithmetic),
            [Part::Model] => {
                let ends = [Part::Gather, Part::LayerInputs, Part::FinalNorm];
                let mut work = self.sum(&self.pieces(&ends, None, shape), &ends, arithmetic);
                for layer in 0..self.layers {
                    let layer = self.sum(&self.pieces(&LAYER, Some(layer), shape), &LAYER, arithmetic);
                    for (arithmetic, count) in layer.operations {
                        add(&mut work.operations, arithmetic, count);
                    }
                    work.bytes += layer.bytes;
                }
                work
            }
            parts => {
                let pieces = self.pieces(parts, record.layer, shape);
                let own: BTreeMap<Part, Arithmetic> =
                    parts.iter().map(|&part| (part, record.arithmetic)).collect();
                self.sum(&pieces, parts, &own)
            }
        }
    }

    /// What parts that run at once have to do: only the first one's input and the last one's output need move.
    fn sum(&self, pieces: &[Piece], parts: &[Part], arithmetic: &BTreeMap<Part, Arithmetic>) -> Work {
        let mut operations = Vec::new();
        let mut bytes = 0.0;
        for (piece, part) in pieces.iter().zip(parts) {
            if piece.operations > 0.0 {
                let kind = arithmetic.get(part).copied().unwrap_or(Arithmetic::F32);
                add(&mut operations, kind, piece.operations);
            }
            bytes += piece.beside;
        }
        let ends =
            pieces.first().map_or(0.0, |piece| piece.input) + pieces.last().map_or(0.0, |piece| piece.output);
        Work { operations, bytes: bytes + ends * self.number_bytes }
    }

    fn pieces(&self, parts: &[Part], layer: Option<usize>, shape: Shape) -> Vec<Piece> {
        parts.iter().map(|&part| self.piece(part, layer, shape)).collect()
    }

    fn piece(&self, part: Part, layer: Option<usize>, shape: Shape) -> Piece {
        let (texts, length) = (shape.texts as f64, shape.tokens as f64);
        let tokens = texts * length;
        let last = layer == Some(self.layers - 1);
        // What follows the last attention runs on the rows that are pooled.
        let rows = if self.one_row_a_text && (last || layer.is_none()) { texts } else { tokens };
        let [hidden, heads] = [self.hidden, self.query_width + self.key_width];
        let all_heads = heads + self.key_width;
        let weights = |kinds: &[&str]| -> f64 {
            let of = |layer: &BTreeMap<String, f64>| kinds.iter().filter_map(|&kind| layer.get(kind)).sum();
            layer.and_then(|layer| self.weights.get(layer)).map_or(0.0, of)
        };
        let piece = |operations, beside, input, output| Piece { operations, beside, input, output };
        match part {
            Part::Gather => {
                let row = self.table_bytes / self.vocabulary;
                piece(2.0 * tokens * hidden, tokens * row, 0.0, tokens * hidden)
            }
            Part::InputNorm => piece(4.0 * tokens * hidden, 4.0 * hidden, tokens * hidden, tokens * hidden),
            Part::Qkv => piece(
                2.0 * tokens * hidden * all_heads,
                weights(&["q_proj", "k_proj", "v_proj"]),
                tokens * hidden,
                tokens * all_heads,
            ),
            Part::HeadNorms => piece(4.0 * tokens * heads, 0.0, tokens * heads, tokens * heads),
            Part::Rope => piece(3.0 * tokens * heads, 0.0, tokens * heads, tokens * heads),
            Part::Attention => piece(
                4.0 * texts * length * (length + 1.0) / 2.0 * self.query_width,
                0.0,
                tokens * all_heads,
                tokens * self.query_width,
            ),
            Part::Output => piece(
                2.0 * rows * hidden * self.query_width + rows * hidden,
                weights(&["o_proj"]) + rows * hidden * self.number_bytes,
                rows * self.query_width,
                rows * hidden,
            ),
            Part::GateUp => piece(
                4.0 * rows * hidden * self.intermediate,
                weights(&["gate_proj", "up_proj"]),
                rows * hidden,
                2.0 * rows * self.intermediate,
            ),
            Part::SwiGlu => piece(
                5.0 * rows * self.intermediate,
                0.0,
                2.0 * rows * self.intermediate,
                rows * self.intermediate,
            ),
            Part::Down => piece(
                2.0 * rows * hidden * self.intermediate + rows * hidden,
                weights(&["down_proj"]) + rows * hidden * self.number_bytes,
                rows * self.intermediate,
                rows * hidden,
            ),
            Part::LayerInputs => {
                let inputs = self.layers as f64 * self.layer_input;
                piece(
                    2.0 * tokens * hidden * inputs,
                    self.layer_inputs_bytes,
                    tokens * hidden,
                    tokens * inputs,
                )
            }
            Part::LayerInput => piece(
                4.0 * rows * hidden * self.layer_input,
                weights(&["per_layer_input_gate", "per_layer_projection"])
                    + rows * self.layer_input * self.number_bytes,
                rows * hidden,
                rows * hidden,
            ),
            Part::PostAttentionNorm | Part::FinalNorm => {
                piece(4.0 * rows * hidden, 4.0 * hidden, rows * hidden, rows * hidden)
            }
            Part::Pooling if self.one_row_a_text => piece(0.0, 0.0, rows * hidden, rows * hidden),
            Part::Pooling => piece(tokens * hidden, 0.0, tokens * hidden, texts * hidden),
            Part::Layer | Part::Model => Piece::default(),
        }
    }
}

fn add(operations: &mut Vec<(Arithmetic, f64)>, arithmetic: Arithmetic, count: f64) {
    match operations.iter_mut().find(|(kind, _)| *kind == arithmetic) {
        Some((_, sum)) => *sum += count,
        None => operations.push((arithmetic, count)),
    }
}
