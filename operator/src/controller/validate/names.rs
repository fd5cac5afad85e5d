//! Names as Kubernetes allows them: labels, annotations, ranges of addresses. Pure.

use std::net::IpAddr;

/// What is allowed as the key of a label or annotation.
pub(super) const ALLOWED_KEY: &str = "1 to 63 letters, digits, `-`, `_` and `.` that begin and end with a letter or digit, after a domain and `/` if you like";

/// What is allowed as the value of a label.
pub(super) const ALLOWED_VALUE: &str =
    "up to 63 letters, digits, `-`, `_` and `.` that begin and end with a letter or digit";

/// The key of a label or annotation, or the name of a resource.
pub(super) fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((domain, name)) => is_domain(domain) && is_name(name),
        None => is_name(text),
    }
}

/// The value of a label.
pub(super) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name(text)
}

fn is_name(text: &str) -> bool {
    let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63
        && text.bytes().all(is_inside)
        && ends.iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()))
}

fn is_domain(text: &str) -> bool {
    let is_inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(is_inside) && !part.starts_with('-') && !part.ends_with('-');
    text.len() <= 253 && text.split('.').all(is_part)
}

/// The first address of a range and the length of its prefix, as Kubernetes reads them.
pub(super) fn is_range(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    // `+8` and `08` are numbers to others.
    if bits.to_string() != length {
        return false;
    }
    match address {
        IpAddr::V4(address) => bits <= 32 && address.to_bits().checked_shl(bits).unwrap_or(0) == 0,
        // Written so, Kubernetes does not take it for an IPv4 one.
        IpAddr::V6(address) => {
            bits <= 128 && address.to_ipv4_mapped().is_none() && address.to_bits().checked_shl(bits).unwrap_or(0) == 0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_those_of_kubernetes() {
        let longest = "a".repeat(63);
        for key in ["a", "A.b_c-1", "example.org/a", "nvidia.com/gpu", &longest, &format!("example.org/{longest}")] {
            assert!(is_key(key), "{key}");
        }
        let long = "a".repeat(64);
        for key in ["", "-a", "a-", "a b", "ä", "/a", "a/", "Example.org/a", "a/b/c", "example..org/a", &long] {
            assert!(!is_key(key), "{key}");
        }
        assert!(is_label_value("") && is_label_value("v1.2_3") && !is_label_value("a/b") && !is_label_value(&long));
    }

    #[test]
    fn ranges_begin_at_their_first_address() {
        for range in ["10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "fd00::/8", "::/0", "::1/128"] {
            assert!(is_range(range), "{range}");
        }
        for range in [
            "10.0.0.0/33",
            "all",
            "10.0.0.1/8",
            "10.0.0.0",
            "fd00::1/8",
            "10.0.0.0/08",
            "010.0.0.0/8",
            "fd00::/129",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(!is_range(range), "{range}");
        }
    }
}
