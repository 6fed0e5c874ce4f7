//! Which module to load next: the pure half of the module loader.

use alloc::vec;
use alloc::vec::Vec;

use iofs_plan::BootPlan;

/// What has become of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody has asked for it.
    Idle,
    /// It waits for its turn or for what it needs.
    Wanted,
    /// A worker is at it.
    Running,
    /// It is in the kernel.
    Loaded,
    /// The kernel refused it, with this errno.
    Failed(u8),
    /// A module that it needs has failed: this one, an index in the plan.
    Blocked(u16),
}

/// The state of every module of a plan.
#[derive(Debug)]
pub struct Schedule<'p> {
    plan: &'p BootPlan,
    states: Vec<State>,
    /// Wanted modules, each after those that it needs, in the order in which
    /// they were asked for.
    queue: Vec<u16>,
}

impl<'p> Schedule<'p> {
    /// Nothing is loaded, nothing wanted.
    #[must_use]
    pub fn new(plan: &'p BootPlan) -> Self {
        Self {
            plan,
            states: vec![State::Idle; plan.modules.len()],
            queue: Vec::new(),
        }
    }

    /// The state of module `index`.
    #[must_use]
    pub fn state(&self, index: u16) -> State {
        self.states
            .get(usize::from(index))
            .copied()
            .unwrap_or(State::Idle)
    }

    /// Asks for a module and all that it needs; returns how many are new.
    pub fn want(&mut self, index: u16) -> usize {
        let before = self.queue.len();
        // Depth first, without recursion: the plan guarantees that needs have
        // smaller indices, so this ends, but not how deep it goes.
        let mut stack = vec![(index, false)];
        while let Some((index, needs_done)) = stack.pop() {
            let Some(module) = self.plan.modules.get(usize::from(index)) else {
                continue;
            };
            if self.state(index) != State::Idle {
                continue;
            }
            if needs_done {
                self.set(index, State::Wanted);
                self.queue.push(index);
                continue;
            }
            stack.push((index, true));
            stack.extend(module.needs.iter().rev().map(|&need| (need, false)));
        }
        self.queue.len() - before
    }

    /// Takes the first wanted module of which all needs are settled, and marks
    /// it as running. Modules whose needs have failed are marked on the way.
    pub fn take_ready(&mut self) -> Option<u16> {
        let mut at = 0;
        while let Some(&index) = self.queue.get(at) {
            match self.readiness(index) {
                Readiness::Waits => at += 1,
                Readiness::Blocked(by) => {
                    self.queue.remove(at);
                    self.set(index, State::Blocked(by));
                    // What needs this one may stand earlier only in a plan that
                    // breaks its promise; begin again all the same.
                    at = 0;
                }
                Readiness::Ready => {
                    self.queue.remove(at);
                    self.set(index, State::Running);
                    return Some(index);
                }
            }
        }
        None
    }

    /// A running module has ended with this errno, 0 for success.
    pub fn finished(&mut self, index: u16, errno: u8) {
        self.set(
            index,
            match errno {
                0 => State::Loaded,
                errno => State::Failed(errno),
            },
        );
    }

    /// Whether anything is still to be started.
    #[must_use]
    pub fn has_wanted(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Gives up what has not been started.
    pub fn drop_wanted(&mut self) {
        for index in core::mem::take(&mut self.queue) {
            self.set(index, State::Idle);
        }
    }

    fn readiness(&self, index: u16) -> Readiness {
        let needs = self
            .plan
            .modules
            .get(usize::from(index))
            .map_or(&[][..], |module| &module.needs);
        let mut readiness = Readiness::Ready;
        for &need in needs {
            let required = self
                .plan
                .modules
                .get(usize::from(need))
                .is_some_and(|module| module.required);
            match self.state(need) {
                State::Failed(_) | State::Blocked(_) if required => {
                    return Readiness::Blocked(need);
                }
                State::Loaded | State::Failed(_) | State::Blocked(_) => {}
                State::Idle | State::Wanted | State::Running => readiness = Readiness::Waits,
            }
        }
        readiness
    }

    fn set(&mut self, index: u16, state: State) {
        if let Some(slot) = self.states.get_mut(usize::from(index)) {
            *slot = state;
        }
    }
}

enum Readiness {
    Ready,
    Waits,
    Blocked(u16),
}

#[cfg(test)]
mod tests {
    use super::*;
    use iofs_plan::{Module, Role};
    use std::format;

    /// A plan of modules with these needs; those listed in `soft` are optional.
    fn plan(needs: &[&[u16]], soft: &[u16]) -> BootPlan {
        let module = |(index, needs): (usize, &&[u16])| Module {
            name: format!("m{index}"),
            file: format!("m{index}.ko"),
            packed: None,
            params: "".into(),
            role: Role::Dependency,
            needs: needs.to_vec(),
            required: !soft.contains(&u16::try_from(index).unwrap()),
        };
        BootPlan {
            modules: needs.iter().enumerate().map(module).collect(),
            ..BootPlan::default()
        }
    }

    #[test]
    fn needs_come_first_and_once() {
        let plan = plan(&[&[], &[0], &[0], &[1, 2]], &[]);
        let mut schedule = Schedule::new(&plan);
        assert_eq!(schedule.want(3), 4);
        assert_eq!(schedule.want(3), 0);
        assert_eq!(schedule.take_ready(), Some(0));
        // 1 and 2 wait for 0.
        assert_eq!(schedule.take_ready(), None);
        schedule.finished(0, 0);
        assert_eq!(schedule.take_ready(), Some(1));
        assert_eq!(schedule.take_ready(), Some(2));
        schedule.finished(2, 0);
        assert_eq!(schedule.take_ready(), None);
        schedule.finished(1, 0);
        assert_eq!(schedule.take_ready(), Some(3));
        schedule.finished(3, 0);
        assert!(!schedule.has_wanted());
        assert_eq!(schedule.state(3), State::Loaded);
        assert_eq!(schedule.want(3), 0);
    }

    #[test]
    fn what_was_asked_for_first_goes_first() {
        let plan = plan(&[&[], &[], &[1], &[]], &[]);
        let mut schedule = Schedule::new(&plan);
        schedule.want(3);
        schedule.want(2);
        schedule.want(0);
        let order = [
            schedule.take_ready(),
            schedule.take_ready(),
            schedule.take_ready(),
        ];
        assert_eq!(order, [Some(3), Some(1), Some(0)]);
    }

    #[test]
    fn a_failed_need_blocks_and_is_named() {
        let plan = plan(&[&[], &[0], &[1]], &[]);
        let mut schedule = Schedule::new(&plan);
        schedule.want(2);
        assert_eq!(schedule.take_ready(), Some(0));
        schedule.finished(0, 8);
        assert_eq!(schedule.take_ready(), None);
        assert_eq!(schedule.state(0), State::Failed(8));
        assert_eq!(schedule.state(1), State::Blocked(0));
        assert_eq!(schedule.state(2), State::Blocked(1));
        assert!(!schedule.has_wanted());
    }

    #[test]
    fn a_failed_soft_need_does_not() {
        let plan = plan(&[&[], &[0]], &[0]);
        let mut schedule = Schedule::new(&plan);
        schedule.want(1);
        assert_eq!(schedule.take_ready(), Some(0));
        schedule.finished(0, 19);
        assert_eq!(schedule.take_ready(), Some(1));
    }

    #[test]
    fn indices_out_of_range_are_nothing() {
        let plan = plan(&[], &[]);
        let mut schedule = Schedule::new(&plan);
        assert_eq!(schedule.want(7), 0);
        schedule.finished(7, 0);
        assert_eq!(schedule.take_ready(), None);
    }
}
