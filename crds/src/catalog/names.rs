//! The error of a name that is not on a closed list. Pure.

/// A name that is not on a closed list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} `{given}`, expected one of {}", allowed.join(", "))]
pub struct UnknownName {
    /// What was named, such as `quantization`.
    pub kind: &'static str,
    /// The name that was given.
    pub given: String,
    /// Every name that is allowed.
    pub allowed: Vec<&'static str>,
}

/// Finds the value whose name is `given`, in exactly that spelling.
pub(crate) fn parse_name<T: Copy>(
    kind: &'static str,
    given: &str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, UnknownName> {
    all.iter().copied().find(|value| name(*value) == given).ok_or_else(|| UnknownName {
        kind,
        given: given.to_owned(),
        allowed: all.iter().map(|value| name(*value)).collect(),
    })
}
