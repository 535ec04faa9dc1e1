//! How closely products follow those in f32.

use serde::{Deserialize, Serialize};

use crate::checkpoint::spec::Sees;
use crate::error::{UnknownWord, of_word};
use crate::kernels::{Engine, Fit, Limbs};
use crate::model::backend::{Place, Role};

/// How closely this crate's kernels follow a checkpoint that is computed in f32.
///
/// On a CPU, the activations that enter a product with a matrix may be rounded, a group of inputs at a time. With `fast`,
/// dense weights and attention may be rounded, too. Everything else is f32. [`Info::rounding`](crate::Info::rounding) says
/// what was rounded.
///
/// On an NVIDIA GPU it matters for checkpoints of f32 and f16. [`Precision::Exact`] computes them in f32: products
/// multiply 22 bits of an f32's 24, and the 11 of an f16. [`Precision::Fast`] computes them as if their floats were bf16.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// Weights are the checkpoint's. (Those of mxfp8 and nvfp4 that are too small beside their neighbours for 16 bits
    /// are the exception.) What is multiplied with weights of 2 to 8 bits is rounded to 16 bits, so a product differs
    /// from f32's by about 3e-5 of its size. Nothing is rounded for weights of f32, f16 and bf16.
    #[default]
    Exact,
    /// Activations are rounded to 8 bits, and to 16 where a group stands out of its row. It is nearly twice as fast.
    /// `tools/trained` measures how much vectors of a trained model differ from the exact ones.
    ///
    /// With AVX-512 VNNI, AVX2 or NEON's dot products weights of f32, f16, bf16, mxfp8 and nvfp4 are rounded to 8 bits at
    /// load, in groups of 128, 64 or 32 inputs. They take a little more than a byte each. With AVX2 alone, activations
    /// have 7 bits beside those of 384 inputs or more (a multiple of 128), and 14 where a group stands out. Beside other
    /// weights of 8 bits they keep 16.
    /// Weights of causal attention are not rounded, nor matrices whose number of inputs is no multiple of 32.
    ///
    /// With AVX-512 BF16, attention that is not causal multiplies in bf16, for texts of more than five tokens.
    ///
    /// Causal models of Gemma's kind are computed as with `exact`: they have norms after attention and the feed-forward
    /// part.
    Fast,
}

impl Precision {
    /// Every value.
    pub const ALL: &[Self] = &[Self::Exact, Self::Fast];
}

impl std::str::FromStr for Precision {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        of_word(word)
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Fast => "fast",
        })
    }
}

/// Texts of at most so many tokens keep 16 bits throughout: what a token among so few becomes hangs on a hair.
pub(super) const SHORT_TEXT: usize = 5;

/// Fewer tokens than this are not reused. After so many no text is short, so what they become hangs on nothing behind
/// them.
pub(crate) const LEAST_CACHED: usize = SHORT_TEXT;

/// Which activations of a layer keep 16 bits.
///
/// Measured on a trained decoder by `tools/trained/rounding.py`: groups that stand out a lot matter everywhere, and in
/// the first two fifths of the layers, where massive activations (Sun et al., 2024) arise, also those that stand out a
/// little.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    /// All of their bits: products are f32's.
    Whole,
    All,
    /// Those above 5 times the row's root mean square.
    Early,
    /// Those above 16 times the row's root mean square.
    Late,
}

impl Precision {
    pub(super) fn rule(self, place: Place) -> Rule {
        let Place { layer, layers, role, .. } = place;
        match self.of(place) {
            // One step finer than the rest: at 16 bits they alone take a deep layer's scores beyond what is promised.
            Self::Exact if role == Role::SharpQkv => Rule::Whole,
            Self::Fast if role == Role::SharpQkv => Rule::All,
            Self::Exact => Rule::All,
            Self::Fast if 5 * layer < 2 * layers => Rule::Early,
            Self::Fast => Rule::Late,
        }
    }

    /// What it is for a layer. A causal one that norms its products is computed exactly: of Gemma 3 270M in 4 bits, 8 bits
    /// of activations leave a cosine of 0.989 (tools/trained).
    fn of(self, Place { causal, norms_products, .. }: Place) -> Self {
        if causal && norms_products { Self::Exact } else { self }
    }

    /// Which matrices become whole numbers; `None` where no product rounds.
    ///
    /// Attention's own stay as they are where a mask is causal: early tokens see few keys then, and an error of one is
    /// averaged with few others.
    pub(super) fn fit(self, place: Place, engine: &Engine) -> Option<Fit> {
        let Place { role, causal, .. } = place;
        match (self.of(place), role) {
            (Self::Exact, Role::SharpQkv) => None,
            (Self::Exact, _) | (Self::Fast, Role::SharpQkv) => Some(Fit::Exact),
            (Self::Fast, Role::Qkv | Role::Output) if causal => Some(Fit::Exact),
            (Self::Fast, _) => Some(engine.nearest()),
        }
    }
}

impl Rule {
    /// Bits that most activations have beside matrices of whole numbers.
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Whole => 32,
            Self::All => 16,
            Self::Early | Self::Late => 8,
        }
    }

    /// How many tokens may be seen of a text so that attention behind such queries and keys isn't rounded to bf16; `None` if it
    /// never is. Under a causal mask it isn't, as [`Precision::fit`] has it.
    pub(super) fn round_above(self, sees: Sees) -> Option<usize> {
        (self.bits() == 8 && !sees.is_causal()).then_some(SHORT_TEXT)
    }
}

impl super::Pass {
    /// The limbs that `rule` gives `rows` rows: all tokens, or one of each text.
    pub(super) fn limbs(&self, rule: Rule, rows: usize) -> Limbs<'_> {
        let short = if rows == self.short.len() { &self.short } else { &self.short_texts };
        match rule {
            Rule::Whole | Rule::All => Limbs::Two,
            Rule::Early => Limbs::TwoAbove { times: 5.0, rows: short },
            Rule::Late => Limbs::TwoAbove { times: 16.0, rows: short },
        }
    }
}
