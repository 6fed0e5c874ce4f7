//! A sort for PID 1.

/// Sorts by heap sort: O(n log n) at worst, in place, not stable.
///
/// The standard library's sorts are faster and cost 5 KB of code for every type
/// that they are used with; in PID 1, whose lists are short and whose size is
/// paid by every boot, this one costs a few hundred bytes.
pub fn sort_compactly<T>(items: &mut [T], mut less: impl FnMut(&T, &T) -> bool) {
    let len = items.len();
    for round in (0..len + len / 2).rev() {
        // The first len / 2 rounds build the heap from its last parent upwards;
        // each of the rest moves the greatest item behind the shrinking heap.
        let (mut parent, end) = if round >= len {
            (round - len, len)
        } else {
            items.swap(0, round);
            (0, round)
        };
        loop {
            let mut child = 2 * parent + 1;
            if child >= end {
                break;
            }
            if child + 1 < end && less(&items[child], &items[child + 1]) {
                child += 1;
            }
            if !less(&items[parent], &items[child]) {
                break;
            }
            items.swap(parent, child);
            parent = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn it_agrees_with_the_standard_library() {
        let mut state = 1u32;
        for len in 0..200 {
            let mut items: Vec<u32> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state >> 24
                })
                .collect();
            let mut expected = items.clone();
            expected.sort_unstable();
            sort_compactly(&mut items, |a, b| a < b);
            assert_eq!(items, expected);
        }
    }
}
