//! Model sizes read from model names, and which size is nearest by ratio. Pure.

/// Sizes outside this range are no sizes of language models but dates or versions that happen to end in `b` or `m`.
const PLAUSIBLE_PARAMETERS: std::ops::RangeInclusive<u64> = 1_000_000..=2_000_000_000_000;

/// Reads a number of parameters from a model's name: `0.6B`, `7b`, `335M`, `1.5b-v2`.
///
/// A size is a number directly followed by `b` (10^9) or `m` (10^6), standing as a word of its own: `v2` and dates are
/// none, neither is the `7b` of `8x7b` (a mixture, whose memory another number decides). The organisation before `/`
/// is not read. The first size counts.
pub fn parse_size(model: &str) -> Option<u64> {
    let name = model.rsplit('/').next().unwrap_or(model);
    words(name).into_iter().find_map(parse_word)
}

/// Splits a name into words of letters and digits. A dot between two digits is a decimal point and belongs to the word.
fn words(name: &str) -> Vec<&str> {
    let is_digit = |at: Option<usize>| at.and_then(|at| name.as_bytes().get(at)).is_some_and(u8::is_ascii_digit);
    let mut words = Vec::new();
    let mut start = 0;
    for (at, character) in name.char_indices() {
        let is_point = character == '.' && is_digit(at.checked_sub(1)) && is_digit(at.checked_add(1));
        if !character.is_ascii_alphanumeric() && !is_point {
            words.extend(name.get(start..at));
            start = at + character.len_utf8();
        }
    }
    words.extend(name.get(start..));
    words
}

/// A word that is a number and a unit and nothing else.
fn parse_word(word: &str) -> Option<u64> {
    let parameters = [("b", 9), ("B", 9), ("m", 6), ("M", 6)]
        .into_iter()
        .find_map(|(unit, decimals)| scale(word.strip_suffix(unit)?, decimals))?;
    PLAUSIBLE_PARAMETERS.contains(&parameters).then_some(parameters)
}

/// `number` times 10^`decimals`, cut to a whole number. At most 6 digits before the point are read.
fn scale(number: &str, decimals: usize) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |text: &str| text.chars().all(|character| character.is_ascii_digit());
    if whole.is_empty() || whole.len() > 6 || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(decimals).collect();
    format!("{whole}{fraction}").parse().ok()
}

/// The candidate whose size is nearest to `size` by ratio (equal distance on a logarithmic scale); of two that are equally
/// near the smaller. None without candidates.
pub(crate) fn nearest_by_ratio<T: Copy>(size: u64, candidates: &[T], size_of: fn(T) -> u64) -> Option<T> {
    candidates.iter().copied().min_by(|left, right| {
        let (left, right) = (size_of(*left), size_of(*right));
        compare_ratios(ratio(size, left), ratio(size, right)).then(left.cmp(&right))
    })
}

/// The larger over the smaller, as a fraction.
fn ratio(one: u64, other: u64) -> (u64, u64) {
    (one.max(other).max(1), one.min(other).max(1))
}

/// Compares two fractions without rounding.
fn compare_ratios(left: (u64, u64), right: (u64, u64)) -> std::cmp::Ordering {
    (u128::from(left.0) * u128::from(right.1)).cmp(&(u128::from(right.0) * u128::from(left.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BILLION: u64 = 1_000_000_000;
    const MILLION: u64 = 1_000_000;

    #[test]
    fn sizes_are_read_from_the_names_that_models_have() {
        for (name, expected) in [
            ("Qwen/Qwen3-Embedding-0.6B", Some(600 * MILLION)),
            ("intfloat/e5-mistral-7b-instruct", Some(7 * BILLION)),
            ("mixedbread-ai/mxbai-embed-335M", Some(335 * MILLION)),
            ("Alibaba-NLP/gte-Qwen2-1.5b-v2", Some(1_500 * MILLION)),
            ("nvidia/NV-Embed-8B.v1", Some(8 * BILLION)),
            ("model_7B_v2", Some(7 * BILLION)),
            ("model.7b", Some(7 * BILLION)),
            ("model-1.5b.gguf", Some(1_500 * MILLION)),
            ("7b", Some(7 * BILLION)),
            ("0.5m-0.6b", Some(600 * MILLION)),
            ("a-4B-then-8B", Some(4 * BILLION)),
            ("405B", Some(405 * BILLION)),
        ] {
            assert_eq!(parse_size(name), expected, "{name}");
        }
    }

    #[test]
    fn versions_dates_and_parts_of_words_are_no_sizes() {
        for name in [
            "",
            "/",
            "text-embedding-v2",
            "bge-m3",
            "e5-large-2024-05-13",
            "model-20240513b",
            "mixtral-8x7b",
            "model-a3b",
            "v1.5b",
            "0b",
            "0.0B",
            "3bit",
            "7bn",
            "1.2.3b",
            "1.b",
            "b",
            ".b",
            "99999999999999999999999b",
            "7b-org/text-embedding",
            "7٣b",
        ] {
            assert_eq!(parse_size(name), None, "{name}");
        }
    }

    #[test]
    fn nearest_is_measured_by_ratio() {
        let sizes = [600 * MILLION, 4 * BILLION, 8 * BILLION];
        let nearest = |size| nearest_by_ratio(size, &sizes, |size| size);
        // The geometric means of neighbours, 1.549 B and 5.657 B, divide the line; the arithmetic ones would not.
        assert_eq!(nearest(1_549 * MILLION), Some(600 * MILLION));
        assert_eq!(nearest(1_550 * MILLION), Some(4 * BILLION));
        assert_eq!(nearest(5_656 * MILLION), Some(4 * BILLION));
        assert_eq!(nearest(5_657 * MILLION), Some(8 * BILLION));
        assert_eq!(nearest(0), Some(600 * MILLION));
        assert_eq!(nearest(u64::MAX), Some(8 * BILLION));
        assert_eq!(nearest_by_ratio::<u64>(1, &[], |size| size), None);
    }

    #[test]
    fn of_two_equally_near_sizes_the_smaller_wins_in_any_order() {
        assert_eq!(nearest_by_ratio(4, &[2, 8], |size| size), Some(2));
        assert_eq!(nearest_by_ratio(4, &[8, 2], |size| size), Some(2));
    }
}
