//! Times of a build's steps.

use crate::progress::{Progress, Step};
use crate::summary::StepTime;
use std::time::Instant;

/// Announces steps and takes their times.
pub(crate) struct Clock<'p> {
    progress: &'p dyn Progress,
    times: Vec<StepTime>,
}

impl<'p> Clock<'p> {
    pub(crate) fn new(progress: &'p dyn Progress) -> Self {
        Self {
            progress,
            times: Vec::new(),
        }
    }

    /// Runs one step.
    pub(crate) fn step<T>(
        &mut self,
        step: Step,
        total: Option<u64>,
        work: impl FnOnce() -> T,
    ) -> T {
        self.progress.begin(step, total);
        let start = Instant::now();
        let result = work();
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.times.push(StepTime { step, ms });
        self.progress.end(step);
        result
    }

    pub(crate) fn times(self) -> Vec<StepTime> {
        self.times
    }
}
