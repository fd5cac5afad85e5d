//! Quantities as Kubernetes writes them: `1.5Gi`, `500m`, `9000e6`, `.5`. Pure.

/// Powers of ten beyond which no quantity is a size of anything. Bounds the arithmetic.
const MOST_PLACES: i64 = 36;

/// A quantity in thousandths, rounded up. None where it is none, or larger than anything.
pub(super) fn milli_units(text: &str) -> Option<i128> {
    scaled(text, 3)
}

/// A quantity in billionths, rounded up: the finest that Kubernetes keeps.
pub(super) fn nano_units(text: &str) -> Option<i128> {
    scaled(text, 9)
}

/// A quantity as a whole number of parts, of which there are ten to the power of `places` in one; what is less than a part is one.
fn scaled(text: &str, places: i64) -> Option<i128> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end =
        unsigned.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (factor, exponent) = unit(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    if number.trim_matches('.').is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = format!("0{whole}{fraction}").parse::<i128>().ok()?;
    let parts = digits.checked_mul(factor)?.checked_mul(if text.starts_with('-') { -1 } else { 1 })?;
    let power = places.checked_add(exponent)?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let scale = 10_i128.checked_pow(u32::try_from(power.abs()).ok()?)?;
    if power >= 0 {
        return parts.checked_mul(scale);
    }
    let is_exact = parts % scale == 0;
    Some(parts / scale + i128::from(!is_exact && parts > 0))
}

/// What a suffix stands for: a factor, and a power of ten.
fn unit(suffix: &str) -> Option<(i128, i64)> {
    let decimal = |power| Some((1, power));
    let binary = |power: u32| Some((1_i128 << power, 0));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let power: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (-MOST_PLACES..=MOST_PLACES).contains(&power).then_some((1, power))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_kubernetes_reads_is_read() {
        for (text, milli) in [
            ("1", 1_000),
            ("+1", 1_000),
            ("-1", -1_000),
            ("1.", 1_000),
            (".5", 500),
            ("1.50", 1_500),
            ("500m", 500),
            ("1500000n", 2),
            ("-1500000n", -1),
            ("9000e6", 9_000_000_000_000),
            ("9E3", 9_000_000),
            ("2e-1", 200),
            ("1.5Gi", 1_536_000 << 20),
            ("1P", 1_000_000_000_000_000_000),
            ("2E", 2_000_000_000_000_000_000_000),
            ("1Pi", 1_000 << 50),
            ("1Ei", 1_000 << 60),
            ("0", 0),
        ] {
            assert_eq!(milli_units(text), Some(milli), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_none_and_nothing_overflows() {
        let long = "9".repeat(60);
        for text in
            ["", ".", "-", "Gi", "1 Gi", "1gi", "abc", "1.2.3", "1e", "1e999", "1ki", "--1", "1e3Gi", "٣", &long]
        {
            assert_eq!(milli_units(text), None, "{text}");
        }
    }
}
