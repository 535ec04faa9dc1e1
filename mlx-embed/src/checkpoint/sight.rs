//! `config.json`: which tokens a token sees.

use super::json::JsonObject;
use super::marks::is_gte_qwen2;
use super::{Architecture, CheckpointError};

/// transformers' value where a Qwen's config has no such key; `null` turns the window off.
const SLIDING_WINDOW: i64 = 4096;
/// transformers' value where a Qwen's config has no such key.
const MAX_WINDOW_LAYERS: usize = 28;

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Whether a token sees those before it only.
pub(super) fn causal(config: &JsonObject, architecture: Architecture) -> Result<bool, CheckpointError> {
    let is_causal = config.optional("is_causal")?;
    if is_causal.is_none() && config.has("is_causal") && !has_no_causal_mask(architecture) {
        let reason = "is null, by which transformers has a causal mask for a text alone and none for several; write \
                      true, or false if tokens see those behind them";
        return Err(config.invalid("is_causal", reason));
    }
    let bidirectional: Option<bool> = config.optional("use_bidirectional_attention")?;
    if architecture == Architecture::Gemma && bidirectional == Some(true) && is_causal.is_none() {
        let reason = "is true alone, by which transformers has no causal mask for a text alone and one for several; \
                      write is_causal: false beside it if tokens see those behind them, or else remove it";
        return Err(config.invalid("use_bidirectional_attention", reason));
    }
    match (is_causal, bidirectional) {
        (Some(causal), Some(bidirectional)) if causal == bidirectional => Err(config.invalid(
            "is_causal",
            format!(
                "is {causal}, and use_bidirectional_attention is {bidirectional}, which contradict each other"
            ),
        )),
        _ if is_gte_qwen2(config, architecture)? => Ok(false),
        _ if has_no_causal_mask(architecture) => {
            for (field, says) in [
                ("is_causal", is_causal == Some(true)),
                ("use_bidirectional_attention", bidirectional == Some(false)),
            ] {
                if says {
                    return Err(config
                        .invalid(field, "contradicts the family, whose code has no causal mask; remove it"));
                }
            }
            Ok(false)
        }
        _ => Ok(is_causal != Some(false) && bidirectional != Some(true)),
    }
}

/// Families whose code has none, whatever the config says.
fn has_no_causal_mask(architecture: Architecture) -> bool {
    matches!(
        architecture,
        Architecture::PplxQwen3
            | Architecture::LlamaBidirectional
            | Architecture::EuroBert
            | Architecture::EmbeddingGemma2
    )
}

/// Each layer's window.
///
/// As transformers reads them. In its Qwen2 and Qwen3 a window counts with `use_sliding_window` only, and without
/// `layer_types` the layers from `max_window_layers` on slide. Its Llama has no windows, while mlx-lm's has them: what
/// one of these would leave out is refused.
pub(super) fn layer_windows(
    config: &JsonObject,
    architecture: Architecture,
    layers: usize,
) -> Result<Vec<Option<usize>>, CheckpointError> {
    let types = layer_types(config, layers)?;
    match architecture {
        Architecture::Gemma3 => return gemma3_windows(config, layers, types),
        Architecture::Mistral | Architecture::Ministral3 => {
            return mistral_windows(config, architecture, layers, types);
        }
        _ => {}
    }
    if matches!(
        architecture,
        Architecture::Llama | Architecture::LlamaBidirectional | Architecture::EuroBert | Architecture::Gemma
    ) {
        return match types {
            Some(types) if types.contains(&true) => Err(config.invalid(
                "layer_types",
                format!("asks for {SLIDING} in a {architecture}, which transformers computes without windows, and mlx-lm's Llama with them"),
            )),
            _ => Ok(vec![None; layers]),
        };
    }
    let in_use = config.optional::<bool>("use_sliding_window")? == Some(true);
    if in_use && architecture == Architecture::PplxQwen3 {
        let reason = "is true, but the family's code has no windows; set it to false";
        return Err(config.invalid("use_sliding_window", reason));
    }
    let window = if in_use { window(config)? } else { None };
    let slides = match types {
        Some(types) => types,
        None => {
            let full = config.optional("max_window_layers")?.unwrap_or(MAX_WINDOW_LAYERS);
            (0..layers).map(|layer| window.is_some() && layer >= full).collect()
        }
    };
    if window.is_none() && slides.contains(&true) {
        return Err(config.invalid(
            "layer_types",
            format!("asks for {SLIDING}, but no window is in use: set use_sliding_window to true and sliding_window to its tokens, or the layers to {FULL}"),
        ));
    }
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

/// All layers or none, as in transformers, which reads no `layer_types` there; mlx-lm reads nothing else.
fn mistral_windows(
    config: &JsonObject,
    architecture: Architecture,
    layers: usize,
    types: Option<Vec<bool>>,
) -> Result<Vec<Option<usize>>, CheckpointError> {
    let by_default = (architecture == Architecture::Mistral).then_some(SLIDING_WINDOW as usize);
    let window = if config.has("sliding_window") { window(config)? } else { by_default };
    if types.is_some_and(|types| types.contains(&window.is_none())) {
        let reason = "and sliding_window contradict each other: all layers slide, or none, with null";
        return Err(config.invalid("layer_types", reason));
    }
    Ok(vec![window; layers])
}

/// Gemma 3: of every so many layers the last one sees all.
fn gemma3_windows(
    config: &JsonObject,
    layers: usize,
    types: Option<Vec<bool>>,
) -> Result<Vec<Option<usize>>, CheckpointError> {
    let mut patterns = Vec::new();
    for field in ["sliding_window_pattern", "_sliding_window_pattern"] {
        match config.optional::<usize>(field)? {
            Some(0) => return Err(config.invalid(field, "is 0; it must be at least 1")),
            pattern => patterns.extend(pattern),
        }
    }
    if patterns.iter().any(|pattern| *pattern != patterns[0]) {
        return Err(
            config.invalid("sliding_window_pattern", "and _sliding_window_pattern contradict each other")
        );
    }
    let period = patterns.first().copied().unwrap_or(6);
    let slides = types.unwrap_or_else(|| (0..layers).map(|layer| (layer + 1) % period != 0).collect());
    let window = if config.has("sliding_window") { window(config)? } else { Some(SLIDING_WINDOW as usize) };
    if window.is_none() && slides.contains(&true) {
        return Err(config.invalid("sliding_window", "is null, but layers slide"));
    }
    // It is shared out to both sides with use_bidirectional_attention. With is_causal false transformers takes it for each
    // side, or, with both, one token more than its half.
    let both = config.optional("use_bidirectional_attention")? == Some(true);
    let window = match config.optional("is_causal")? {
        Some(false) => window.map(|window| if both { (window / 2 + 1) * 2 } else { window * 2 }),
        _ => window,
    };
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

/// For each layer whether it slides, where `layer_types` says so.
pub(super) fn layer_types(config: &JsonObject, layers: usize) -> Result<Option<Vec<bool>>, CheckpointError> {
    let Some(types) = config.optional::<Vec<String>>("layer_types")? else { return Ok(None) };
    if types.len() != layers {
        return Err(config.invalid(
            "layer_types",
            format!("has {} entries, but num_hidden_layers is {layers}", types.len()),
        ));
    }
    let slides = types.iter().map(|kind| match kind.as_str() {
        FULL => Ok(false),
        SLIDING => Ok(true),
        _ => {
            Err(config.invalid("layer_types", format!("holds `{kind}`; supported are {FULL} and {SLIDING}")))
        }
    });
    slides.collect::<Result<_, _>>().map(Some)
}

fn window(config: &JsonObject) -> Result<Option<usize>, CheckpointError> {
    let field = "sliding_window";
    let window = match (config.has(field), config.optional(field)?) {
        (_, Some(window)) => window,
        (true, None) => return Ok(None),
        (false, None) => SLIDING_WINDOW,
    };
    match usize::try_from(window) {
        Ok(window) if window > 0 => Ok(Some(window)),
        _ => Err(config.invalid("sliding_window", format!("is {window}; it must be above 0"))),
    }
}
