//! How a model is run: how its weights are held, by which engine, on what kind of device. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::names::{UnknownName, parse_name};

/// How weights are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// 4 bytes a weight.
    Float32,
    /// 2 bytes a weight.
    Float16,
    /// 2 bytes a weight, float32's range.
    Bfloat16,
    /// 1 byte a weight of the linear layers.
    Int8,
}

/// Which engine computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EngineKind {
    /// Packed on CPU where it runs the model, else Mistralrs.
    #[default]
    Auto,
    /// mistral.rs, on GPU or CPU.
    Mistralrs,
    /// Our own forward pass for the Qwen3 family on CPU.
    Packed,
}

/// What kind of device computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The machine's own processor and memory.
    Cpu,
    /// A graphics processor with memory of its own.
    Cuda,
}

impl Quantization {
    /// Every quantization, the most exact first.
    pub const ALL: [Self; 4] = [Self::Float32, Self::Float16, Self::Bfloat16, Self::Int8];

    /// The name in configuration, requests and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
            Self::Int8 => "int8",
        }
    }
}

impl EngineKind {
    /// Every engine that can be named.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Mistralrs, Self::Packed];

    /// The name in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "Auto",
            Self::Mistralrs => "Mistralrs",
            Self::Packed => "Packed",
        }
    }

    /// The engine that loads a model of the catalogue, all of which are of the Qwen3 family; never `Auto`.
    #[must_use]
    pub fn for_the_catalogue(self, device: DeviceKind) -> Self {
        match (self, device) {
            (Self::Mistralrs | Self::Packed, _) => self,
            (Self::Auto, DeviceKind::Cuda) => Self::Mistralrs,
            (Self::Auto, DeviceKind::Cpu) => Self::Packed,
        }
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Quantization {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        parse_name("quantization", name, &Self::ALL, Self::as_str)
    }
}

impl FromStr for EngineKind {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        parse_name("engine", name, &Self::ALL, Self::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_text_and_in_configuration_are_the_same() {
        for quantization in Quantization::ALL {
            assert_eq!(quantization.as_str().parse(), Ok(quantization));
            assert_eq!(serde_json::to_value(quantization).unwrap(), quantization.as_str());
        }
        for engine in EngineKind::ALL {
            assert_eq!(engine.as_str().parse(), Ok(engine));
            assert_eq!(serde_json::to_value(engine).unwrap(), engine.as_str());
        }
    }

    #[test]
    fn an_unknown_quantization_is_refused_with_the_allowed_ones() {
        let error = "int4".parse::<Quantization>().unwrap_err();
        assert_eq!(error.to_string(), "unknown quantization `int4`, expected one of float32, float16, bfloat16, int8");
        assert!("FLOAT16".parse::<Quantization>().is_err());
    }
}
