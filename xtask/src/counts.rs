//! How many tests passed, from what libtest and libtest-mimic print.

use std::ops::AddAssign;

/// Numbers of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Counts {
    /// Sums the lines `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    pub(crate) fn of(output: &str) -> Self {
        let mut sum = Self::default();
        for line in output.lines() {
            let Some(rest) = line.trim().strip_prefix("test result: ") else {
                continue;
            };
            let Some((_, numbers)) = rest.split_once(". ") else {
                continue;
            };
            for part in numbers.split(';') {
                let mut words = part.split_whitespace();
                let number = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
                match words.next() {
                    Some("passed") => sum.passed += number,
                    Some("failed") => sum.failed += number,
                    Some("ignored") => sum.skipped += number,
                    _ => {}
                }
            }
        }
        sum
    }

    /// `3 passed, 0 failed`, and what was skipped if anything was.
    pub(crate) fn summary(self) -> String {
        let mut text = format!("{} passed, {} failed", self.passed, self.failed);
        if self.skipped > 0 {
            text.push_str(&format!(", {} skipped", self.skipped));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_results_are_summed() {
        let counts = Counts::of(
            "running 2 tests\ntest a ... ok\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: FAILED. 1 passed; 3 failed; 4 ignored; 0 measured; 9 filtered out; finished in 1.00s\n\
             test result: something else\nnot a test result: ok. 7 passed\n",
        );
        assert_eq!(
            counts,
            Counts {
                passed: 3,
                failed: 3,
                skipped: 4
            }
        );
        assert_eq!(counts.summary(), "3 passed, 3 failed, 4 skipped");
        assert_eq!(Counts::default().summary(), "0 passed, 0 failed");
    }
}
