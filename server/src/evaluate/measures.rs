//! Measures of a ranking against graded judgements. Pure.

/// Mean of a difference and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// Mean of the sample.
    pub mean: f64,
    /// 2.5th percentile of the resampled means.
    pub low: f64,
    /// 97.5th percentile of the resampled means.
    pub high: f64,
}

/// Normalised discounted cumulative gain of the first `depth` places, with gain `2^grade - 1` and discount
/// `log2(place + 1)`. `ranked`: grades in the order of the ranking. `judged`: every grade of the query. 0 to 1; 0 for a
/// query without a relevant document.
pub fn ndcg(ranked: &[u32], judged: &[u32], depth: usize) -> f64 {
    let mut ideal = judged.to_vec();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    let best = discounted_gain(&ideal, depth);
    if best == 0.0 { 0.0 } else { discounted_gain(ranked, depth) / best }
}

/// Share of the relevant documents (grade at least `relevant_from`) among the first `depth` places. 0 to 1; 1 for a query
/// without one.
pub fn recall(ranked: &[u32], judged: &[u32], depth: usize, relevant_from: u32) -> f64 {
    let count = |grades: &[u32]| grades.iter().filter(|grade| **grade >= relevant_from).count();
    let relevant = count(judged);
    let found = count(&ranked[..depth.min(ranked.len())]);
    if relevant == 0 { 1.0 } else { ratio(found, relevant) }
}

/// One over the place of the first relevant document (grade at least `relevant_from`) among the first `depth` places; 0 where
/// there is none.
pub fn reciprocal_rank(ranked: &[u32], depth: usize, relevant_from: u32) -> f64 {
    let first = ranked.iter().take(depth).position(|grade| *grade >= relevant_from);
    first.map_or(0.0, |at| ratio(1, at + 1))
}

/// The value that so many hundredths of the values do not exceed, by the nearest rank; 0 of nothing.
pub fn percentile(values: &[f64], hundredths: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * hundredths).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Bootstrap over queries: resamples the differences with replacement and takes percentiles of their means. The same seed
/// gives the same interval.
pub fn bootstrap(differences: &[f64], resamples: usize, seed: u64) -> Interval {
    if differences.is_empty() {
        return Interval { mean: 0.0, low: 0.0, high: 0.0 };
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let mut means: Vec<f64> = (0..resamples)
        .map(|_| mean((0..differences.len()).map(|_| differences[random.usize(..differences.len())])))
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |per_mille: usize| means[(means.len() - 1) * per_mille / 1000];
    Interval { mean: mean(differences.iter().copied()), low: at(25), high: at(975) }
}

/// Mean; 0 of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / ratio(count, 1) }
}

/// Spearman's rank correlation; tied values share the mean of their ranks.
pub fn spearman(left: &[f64], right: &[f64]) -> f64 {
    let (left, right) = (ranks(left), ranks(right));
    let (left_mean, right_mean) = (mean(left.iter().copied()), mean(right.iter().copied()));
    let mut covariance = 0.0;
    let mut left_variance = 0.0;
    let mut right_variance = 0.0;
    for (a, b) in left.iter().zip(&right) {
        covariance += (a - left_mean) * (b - right_mean);
        left_variance += (a - left_mean).powi(2);
        right_variance += (b - right_mean).powi(2);
    }
    covariance / (left_variance * right_variance).sqrt()
}

fn discounted_gain(grades: &[u32], depth: usize) -> f64 {
    grades
        .iter()
        .take(depth)
        .enumerate()
        .map(|(place, grade)| (f64::from(*grade).exp2() - 1.0) / ratio(place + 2, 1).log2())
        .sum()
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let value = values[order[start]];
        let tied = order[start..].iter().take_while(|index| values[**index].total_cmp(&value).is_eq()).count();
        let shared = ratio(2 * start + tied + 1, 2);
        for index in &order[start..start + tied] {
            ranks[*index] = shared;
        }
        start += tied;
    }
    ranks
}

fn ratio(part: usize, whole: usize) -> f64 {
    f64::from(u32::try_from(part).unwrap_or(u32::MAX)) / f64::from(u32::try_from(whole).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn the_ideal_order_has_an_ndcg_of_one_and_a_swap_costs_the_discount() {
        assert!(close(ndcg(&[3, 2, 1, 0], &[1, 2, 3], 10), 1.0));
        // Gains 3 and 7 at places 1 and 2, against 7 and 3.
        let swapped = (3.0 + 7.0 / 3_f64.log2()) / (7.0 + 3.0 / 3_f64.log2());
        assert!(close(ndcg(&[2, 3], &[3, 2], 10), swapped));
        assert!(close(ndcg(&[0, 0], &[3], 10), 0.0));
        assert!(close(ndcg(&[0], &[], 10), 0.0));
        let highest = ndcg(&[254, 255], &[255, 254], 10);
        assert!(highest > 0.0 && highest < 1.0, "{highest}");
    }

    #[test]
    fn recall_counts_relevant_documents_of_the_first_places_alone() {
        assert!(close(recall(&[0, 3, 2], &[3, 2], 2, 2), 0.5));
        assert!(close(recall(&[1, 1, 1], &[3, 1, 1, 1], 3, 2), 0.0));
        assert!(close(recall(&[], &[1], 50, 2), 1.0));
    }

    #[test]
    fn the_reciprocal_rank_is_that_of_the_first_relevant_document() {
        assert!(close(reciprocal_rank(&[0, 1, 3], 10, 1), 0.5));
        assert!(close(reciprocal_rank(&[0, 1, 3], 10, 2), 1.0 / 3.0));
        assert!(close(reciprocal_rank(&[0, 1, 3], 2, 2), 0.0));
    }

    #[test]
    fn percentiles_are_values_that_were_there() {
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        let of = |hundredths| percentile(&values, hundredths);
        assert!(close(of(50), 5.0) && close(of(90), 9.0) && close(of(99), 10.0) && close(of(0), 1.0));
        assert!(close(percentile(&[], 50), 0.0));
    }

    #[test]
    fn a_bootstrap_interval_holds_its_mean_and_repeats_with_its_seed() {
        let differences: Vec<f64> = (0..100).map(|n| f64::from(n % 7) / 10.0).collect();
        let interval = bootstrap(&differences, 2_000, 1);
        assert!(interval.low < interval.mean && interval.mean < interval.high);
        assert_eq!(interval, bootstrap(&differences, 2_000, 1));
        assert_ne!(interval, bootstrap(&differences, 2_000, 2));
    }

    #[test]
    fn spearman_is_one_for_the_same_order_minus_one_for_the_reverse_and_shares_ranks_of_ties() {
        assert!(close(spearman(&[1.0, 5.0, 9.0], &[-1.0, 0.0, 100.0]), 1.0));
        assert!(close(spearman(&[1.0, 5.0, 9.0], &[3.0, 2.0, 1.0]), -1.0));
        assert_eq!(ranks(&[2.0, 1.0, 2.0]), [2.5, 1.0, 2.5]);
    }
}
