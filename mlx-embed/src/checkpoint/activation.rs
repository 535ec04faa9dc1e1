//! Activation functions of Dense modules and rerankers.

use serde::Serialize;

use super::CheckpointError;
use super::json::JsonObject;

/// The function between two products: in the layers, in a Dense module, or on a reranker's logit.
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
    /// `x * Phi(x)`, by erf (Hendrycks and Gimpel, 2016).
    Gelu,
    /// The same with the approximation of Phi by tanh.
    GeluTanh,
    /// The same with Phi as `sigmoid(1.702 * x)`.
    QuickGelu,
    /// [`DenseActivation::Gelu`], 10 at most.
    ClippedGelu,
    /// `x * sigmoid(x)` (Elfwing et al., 2017).
    Silu,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `max(x, x / 100)`
    LeakyRelu,
    /// `max(x, 0)^2` (So et al., 2021).
    SquaredRelu,
    /// `x * min(max(x + 3, 0), 6) / 6` (Howard et al., 2019).
    HardSwish,
    /// `x * tanh(ln(1 + e^x))` (Misra, 2019).
    Mish,
    /// The normal distribution with mean 0.707107 and deviation 0.282095 (Ma et al., 2022).
    Laplace,
}

/// A function with transformers' names for it, and torch's class.
type Named = (DenseActivation, &'static [&'static str], Option<&'static str>);

const NAMES: [Named; 15] = {
    use DenseActivation as A;
    [
        (A::Gelu, &["gelu", "gelu_python"], Some("GELU")),
        (
            A::GeluTanh,
            &["gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh"],
            None,
        ),
        (A::QuickGelu, &["quick_gelu"], None),
        (A::ClippedGelu, &["gelu_10"], None),
        (A::Silu, &["silu", "swish"], Some("SiLU")),
        (A::Relu, &["relu"], Some("ReLU")),
        (A::Relu6, &["relu6"], Some("ReLU6")),
        (A::LeakyRelu, &["leaky_relu"], Some("LeakyReLU")),
        (A::SquaredRelu, &["relu2"], None),
        (A::HardSwish, &["hardswish"], Some("Hardswish")),
        (A::Mish, &["mish"], Some("Mish")),
        (A::Laplace, &["laplace"], None),
        (A::Tanh, &["tanh"], Some("Tanh")),
        (A::Sigmoid, &["sigmoid"], Some("Sigmoid")),
        (A::Identity, &["linear"], Some("Identity")),
    ]
};

impl DenseActivation {
    /// Of [`DenseActivation::Laplace`].
    #[expect(clippy::approx_constant, reason = "of six digits in the reference, too")]
    pub(crate) const LAPLACE_MEAN: f32 = 0.707_107;
    /// The same: 1 / (0.282095 * sqrt(2)).
    pub(crate) const LAPLACE_FACTOR: f32 = 2.506_626_4;

    pub(crate) fn function(self) -> Option<fn(f32) -> f32> {
        match self {
            Self::Identity => None,
            Self::Tanh => Some(f32::tanh),
            Self::Relu => Some(relu),
            Self::Gelu => Some(gelu),
            Self::GeluTanh => Some(|x| {
                let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
                x / 2.0 * (1.0 + inner.tanh())
            }),
            Self::QuickGelu => Some(|x| x * sigmoid(1.702 * x)),
            Self::ClippedGelu => Some(|x| at_most(10.0, gelu(x))),
            Self::Silu => Some(|x| x / (1.0 + (-x).exp())),
            Self::Sigmoid => Some(sigmoid),
            Self::Relu6 => Some(|x| at_most(6.0, relu(x))),
            Self::LeakyRelu => Some(|x| if x < 0.0 { 0.01 * x } else { x }),
            Self::SquaredRelu => Some(|x| relu(x) * relu(x)),
            Self::HardSwish => Some(|x| x * at_most(6.0, relu(x + 3.0)) / 6.0),
            Self::Mish => Some(|x| {
                // ln(1 + e^x), of which nothing overflows.
                let softplus = relu(x) + (-x.abs()).exp().ln_1p();
                x * softplus.tanh()
            }),
            Self::Laplace => {
                Some(|x| 0.5 * (1.0 + libm::erff((x - Self::LAPLACE_MEAN) * Self::LAPLACE_FACTOR)))
            }
        }
    }

    /// The activation that a field names by torch's class.
    pub(super) fn named(object: &JsonObject, field: &str) -> Result<Option<Self>, CheckpointError> {
        let Some(value) = object.raw(field) else { return Ok(None) };
        match value.as_str().and_then(Self::of) {
            Some(activation) => Ok(Some(activation)),
            None => {
                let known: Vec<_> = NAMES.iter().filter_map(|(.., class)| *class).collect();
                let reason = format!("is {value}; supported of torch.nn are {}", known.join(", "));
                Err(object.invalid(field, reason))
            }
        }
    }

    /// By the class that a module's config names: by its own module's path, as it is saved, or by torch.nn's.
    fn of(class: &str) -> Option<Self> {
        let class = class.strip_prefix("torch.nn.")?.rsplit('.').next()?;
        NAMES.iter().find(|(.., known)| *known == Some(class)).map(|(activation, ..)| *activation)
    }

    /// The one that transformers has under this name.
    pub(super) fn of_transformers(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, names, _)| names.contains(&name)).map(|(activation, ..)| *activation)
    }

    /// The one that a field names as transformers does.
    pub(super) fn in_field(config: &JsonObject, field: &str, default: &str) -> Result<Self, CheckpointError> {
        let name = config.optional::<String>(field)?.unwrap_or_else(|| default.to_owned());
        Self::of_transformers(&name).ok_or_else(|| {
            let known: Vec<_> = NAMES.iter().flat_map(|(_, names, _)| *names).copied().collect();
            config.invalid(field, format!("is `{name}`; supported are {}", known.join(", ")))
        })
    }
}

/// NaN stays.
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// NaN stays.
fn at_most(most: f32, x: f32) -> f32 {
    if x > most { most } else { x }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn gelu(x: f32) -> f32 {
    x / 2.0 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: [f32; 6] = [-12.0, -2.5, -0.75, 0.5, 4.0, 12.0];

    /// By transformers' classes, with torch.
    #[test]
    fn functions_are_the_references() {
        let expected = [
            ("gelu", [0.0, -0.01552418, -0.1699705, 0.3457312, 3.999873, 12.0]),
            ("gelu_new", [0.0, -0.0150843, -0.1700394, 0.345714, 3.99993, 12.0]),
            ("quick_gelu", [-1.618642e-08, -0.03498616, -0.16361, 0.3503884, 3.995585, 12.0]),
            ("gelu_10", [0.0, -0.01552418, -0.1699705, 0.3457312, 3.999873, 10.0]),
            ("silu", [-7.373009e-05, -0.1896455, -0.240616, 0.3112297, 3.928055, 11.99993]),
            ("relu", [0.0, 0.0, 0.0, 0.5, 4.0, 12.0]),
            ("relu6", [0.0, 0.0, 0.0, 0.5, 4.0, 6.0]),
            ("leaky_relu", [-0.12, -0.025, -0.0075, 0.5, 4.0, 12.0]),
            ("relu2", [0.0, 0.0, 0.0, 0.25, 16.0, 144.0]),
            ("hardswish", [0.0, -0.2083333, -0.28125, 0.2916667, 4.0, 12.0]),
            ("mish", [-7.373032e-05, -0.1968162, -0.2764947, 0.3752452, 3.997413, 12.0]),
            ("laplace", [0.0, 0.0, 1.192093e-07, 0.2314211, 1.0, 1.0]),
            ("tanh", [-1.0, -0.9866143, -0.6351489, 0.4621172, 0.9993293, 1.0]),
            ("sigmoid", [6.144174e-06, 0.07585818, 0.3208213, 0.6224594, 0.9820138, 0.9999938]),
            ("linear", AT),
        ];
        for (activation, names, _) in NAMES {
            let (_, expected) = expected.iter().find(|(name, _)| names.contains(name)).unwrap();
            let function = activation.function().unwrap_or(|x| x);
            for (x, &expected) in AT.into_iter().zip(expected) {
                let found = function(x);
                let most = 2e-7 + 1e-6 * expected.abs();
                assert!((found - expected).abs() <= most, "{activation:?} of {x}: {found}, not {expected}");
            }
            assert!(function(f32::NAN).is_nan(), "{activation:?}");
        }
    }
}
