//! Activation functions of Dense modules and rerankers.

use serde::Serialize;

use super::CheckpointError;
use super::json::JsonObject;

/// The function of a Dense module, or of a reranker's logit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DenseActivation {
    /// None.
    Identity,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`
    Relu,
    /// `x * Phi(x)`, by erf.
    Gelu,
    /// `x * sigmoid(x)`
    Silu,
    /// `1 / (1 + e^-x)`
    Sigmoid,
}

impl DenseActivation {
    pub(crate) fn function(self) -> Option<fn(f32) -> f32> {
        match self {
            Self::Identity => None,
            Self::Tanh => Some(f32::tanh),
            Self::Relu => Some(|x| if x < 0.0 { 0.0 } else { x }),
            Self::Gelu => Some(|x| x / 2.0 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))),
            Self::Silu => Some(|x| x / (1.0 + (-x).exp())),
            Self::Sigmoid => Some(|x| 1.0 / (1.0 + (-x).exp())),
        }
    }

    /// The activation that a field names by torch's class.
    pub(super) fn named(object: &JsonObject, field: &str) -> Result<Option<Self>, CheckpointError> {
        let Some(value) = object.raw(field) else { return Ok(None) };
        match value.as_str().and_then(Self::of) {
            Some(activation) => Ok(Some(activation)),
            None => Err(object.invalid(
                field,
                format!("is {value}; supported are torch.nn's Identity, Tanh, ReLU, GELU, SiLU and Sigmoid"),
            )),
        }
    }

    /// By the class that a module's config names: by its own module's path, as it is saved, or by torch.nn's.
    fn of(class: &str) -> Option<Self> {
        Some(match class.strip_prefix("torch.nn.")?.rsplit('.').next()? {
            "Identity" => Self::Identity,
            "Tanh" => Self::Tanh,
            "ReLU" => Self::Relu,
            "GELU" => Self::Gelu,
            "SiLU" => Self::Silu,
            "Sigmoid" => Self::Sigmoid,
            _ => return None,
        })
    }
}
