//! Comparing vectors, and messages with what they have to say.

pub use mlx_embed::vectors::cosine;

/// Largest absolute difference.
///
/// # Panics
/// When the lengths differ.
pub fn max_abs(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Largest magnitude.
pub fn magnitude(a: &[f32]) -> f32 {
    a.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

/// The text has each of the parts.
///
/// # Panics
/// When it lacks one.
#[track_caller]
pub fn says(text: impl std::fmt::Display, parts: &[&str]) {
    let text = text.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not mention {part:?}");
    }
}
