//! Ratios of paired runs, their median, and how sure it is.

/// How often the ratios are drawn anew.
const DRAWS: usize = 10_000;

/// Returns the ratio of each run of `mq` to the mean of the runs of `raw` on either side; for times, where
/// less is better, its inverse.
pub(crate) fn paired(raw: &[f64], mq: &[f64], times: bool) -> Vec<f64> {
    let ratio = |(mq, raw): (&f64, &[f64])| {
        let raw = raw.iter().sum::<f64>() / raw.len() as f64;
        if times { raw / mq } else { mq / raw }
    };
    mq.iter().zip(raw.windows(2)).map(ratio).collect()
}

/// Returns the median, 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// Returns the bounds of the 95 % interval of the median, by bootstrap.
pub(crate) fn interval(values: &[f64]) -> (f64, f64) {
    let mut random = fastrand::Rng::with_seed(95);
    let mut medians: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let drawn: Vec<f64> = values.iter().map(|_| values[random.usize(..values.len())]).collect();
            median(&drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[DRAWS * 25 / 1000], medians[DRAWS * 975 / 1000])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_take_the_runs_on_either_side() {
        assert_eq!(paired(&[100.0, 300.0, 100.0], &[100.0, 400.0], false), [0.5, 2.0]);
        assert_eq!(paired(&[1.0, 3.0], &[4.0], true), [0.5]);
    }

    #[test]
    fn medians_and_intervals() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(interval(&[1.0; 7]), (1.0, 1.0));
        let (low, high) = interval(&[0.8, 0.9, 0.9, 1.0, 1.0, 1.1, 1.2]);
        assert!((0.8..1.0).contains(&low) && (1.0..=1.2).contains(&high), "{low} {high}");
    }
}
