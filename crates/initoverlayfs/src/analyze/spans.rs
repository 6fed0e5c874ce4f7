//! Sums of times that overlap.

/// From when to when, in microseconds.
pub(super) type Span = (u64, u64);

/// How much time is in at least one of the spans.
pub(super) fn covered(spans: &[Span]) -> u64 {
    let mut sorted = spans.to_vec();
    sorted.sort_unstable();
    let mut sum: u64 = 0;
    let mut end = 0;
    for (from, to) in sorted {
        let from = from.max(end);
        if to > from {
            sum = sum.saturating_add(to - from);
            end = to;
        }
    }
    sum
}

/// How much time is in `these` and in none of `others`.
pub(super) fn only_in(these: &[Span], others: &[Span]) -> u64 {
    let all: Vec<Span> = these.iter().chain(others).copied().collect();
    covered(&all).saturating_sub(covered(others))
}

/// What of the spans is in `window`.
pub(super) fn within(spans: impl IntoIterator<Item = Span>, window: Span) -> Vec<Span> {
    let cut = |(from, to): Span| (from.max(window.0), to.min(window.1));
    let spans = spans.into_iter().map(cut);
    spans.filter(|(from, to)| from < to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against counting every microsecond.
        #[test]
        fn sums_are_those_of_counting(
            a in prop::collection::vec((0u64..60, 0u64..60), 0..8),
            b in prop::collection::vec((0u64..60, 0u64..60), 0..8),
        ) {
            let inside = |spans: &[Span], t: u64| spans.iter().any(|&(f, e)| f <= t && t < e);
            let count = |test: &dyn Fn(u64) -> bool| (0..60).filter(|&t| test(t)).count() as u64;
            prop_assert_eq!(covered(&a), count(&|t| inside(&a, t)));
            prop_assert_eq!(only_in(&a, &b), count(&|t| inside(&a, t) && !inside(&b, t)));
            let cut = within(a.iter().copied(), (20, 40));
            prop_assert_eq!(covered(&cut), count(&|t| inside(&a, t) && (20..40).contains(&t)));
        }
    }
}
