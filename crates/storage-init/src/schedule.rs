//! Which module to load next: the pure half of the module loader.
//!
//! A node is a module or a pack, the group of modules that is unpacked at once.
//! A packed module needs its pack before all else.

use alloc::vec;
use alloc::vec::Vec;

use iofs_plan::BootPlan;

/// What a worker can be sent to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// Load the module of this index in the plan.
    Module(u16),
    /// Unpack the pack of this index in the plan.
    Pack(u16),
}

/// How soon a module is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// It is in the boot disk's chain, or the boot waits for it.
    Disk,
    /// A device asks for it that says it is storage.
    Storage,
    /// The image needs it, wherever it is.
    Image,
    /// Another device asks for it: storage may hang on that.
    Bus,
    /// Nothing asks for it.
    Suspicion,
}

/// What has become of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody has asked for it.
    Idle,
    /// It waits for its turn or for what it needs.
    Wanted,
    /// A worker is at it.
    Running,
    /// It is in the kernel, or unpacked.
    Loaded,
    /// Something better is in the kernel.
    Spared,
    /// It was refused, with this errno.
    Failed(u8),
    /// A node that it needs has failed.
    Blocked(Node),
}

/// A node that waits, and how urgently.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    node: Node,
    urgency: Urgency,
    /// How many loads one after another wait for this one at most.
    height: usize,
}

/// The state of every module and pack of a plan.
#[derive(Debug)]
pub struct Schedule<'p> {
    plan: &'p BootPlan,
    modules: Vec<State>,
    packs: Vec<State>,
    /// What is wanted; of the same urgency, each after what it needs and in the
    /// order in which it was asked for.
    queue: Vec<Waiting>,
    /// Modules that were blocked and not yet told of.
    blocked: Vec<u16>,
}

impl<'p> Schedule<'p> {
    /// Nothing is loaded, nothing wanted.
    #[must_use]
    pub fn new(plan: &'p BootPlan) -> Self {
        Self {
            plan,
            modules: vec![State::Idle; plan.modules.len()],
            packs: vec![State::Idle; plan.packs.len()],
            queue: Vec::new(),
            blocked: Vec::new(),
        }
    }

    /// The state of a node; one that the plan does not have is idle.
    #[must_use]
    pub fn state(&self, node: Node) -> State {
        let state = match node {
            Node::Module(index) => self.modules.get(usize::from(index)),
            Node::Pack(index) => self.packs.get(usize::from(index)),
        };
        state.copied().unwrap_or(State::Idle)
    }

    /// Asks for a module and all that it needs; returns how many modules are new.
    /// What was wanted less urgently is from now on.
    pub fn want(&mut self, index: u16, urgency: Urgency) -> usize {
        let mut new = 0;
        let chain = self.missing(index);
        let heights = self.heights(&chain);
        for (node, height) in chain.into_iter().zip(heights) {
            if self.state(node) == State::Idle {
                self.set(node, State::Wanted);
                self.queue.push(Waiting {
                    node,
                    urgency,
                    height,
                });
                new += usize::from(matches!(node, Node::Module(_)));
            } else if let Some(waiting) = self.queue.iter_mut().find(|w| w.node == node) {
                waiting.urgency = waiting.urgency.min(urgency);
                waiting.height = waiting.height.max(height);
            }
        }
        new
    }

    /// How many nodes of a chain, one after another, wait for each of them. Each
    /// stands after what it needs.
    fn heights(&self, chain: &[Node]) -> Vec<usize> {
        let mut heights = vec![0; chain.len()];
        for at in (0..chain.len()).rev() {
            let (Some(&Node::Module(index)), Some(&height)) = (chain.get(at), heights.get(at))
            else {
                continue;
            };
            for (need, _) in self.needs(index) {
                let found = chain.iter().position(|&node| node == need);
                if let Some(below) = found.and_then(|below| heights.get_mut(below)) {
                    *below = (height + 1).max(*below);
                }
            }
        }
        heights
    }

    /// What a module needs before it can be loaded, and whether it cannot do
    /// without.
    fn needs(&self, index: u16) -> impl Iterator<Item = (Node, bool)> {
        let plan = self.plan;
        let module = plan.modules.get(usize::from(index));
        let pack = module.and_then(|module| module.packed);
        let needs = module.map_or(&[][..], |module| &module.needs);
        let needs = needs.iter().map(move |&need| {
            let needed = plan.modules.get(usize::from(need));
            (Node::Module(need), needed.is_some_and(|m| m.required))
        });
        let better = self.better(index).map(|better| (better, false));
        let pack = pack.map(|packed| (Node::Pack(packed.pack), true));
        pack.into_iter().chain(needs).chain(better)
    }

    /// What makes a module superfluous.
    fn better(&self, index: u16) -> impl Iterator<Item = Node> + use<'p> {
        let module = self.plan.modules.get(usize::from(index));
        let better = module.map_or(&[][..], |module| &module.fallback_for);
        better.iter().map(|&better| Node::Module(better))
    }

    /// How many modules would have to be loaded to have this one.
    #[must_use]
    pub fn cost(&self, index: u16) -> usize {
        self.missing(index)
            .iter()
            .filter(|node| matches!(node, Node::Module(_)))
            .count()
    }

    /// The module and what it needs, as far as it is not even being loaded, each
    /// after what it needs.
    fn missing(&self, index: u16) -> Vec<Node> {
        let mut found: Vec<Node> = Vec::new();
        let open = |node| matches!(self.state(node), State::Idle | State::Wanted);
        // Depth first, without recursion: the plan guarantees that needs have
        // smaller indices, so this ends, but not how deep it goes.
        let mut seen = vec![false; self.modules.len()];
        let mut stack = vec![(index, false)];
        while let Some((index, needs_done)) = stack.pop() {
            let node = Node::Module(index);
            let (Some(module), Some(seen)) = (
                self.plan.modules.get(usize::from(index)),
                seen.get_mut(usize::from(index)),
            ) else {
                continue;
            };
            if needs_done {
                let pack = module.packed.map(|packed| Node::Pack(packed.pack));
                found.extend(pack.filter(|&pack| open(pack) && !found.contains(&pack)));
                found.push(node);
            } else if !core::mem::replace(seen, true) && open(node) {
                stack.push((index, true));
                let needs = module.fallback_for.iter().chain(&module.needs);
                stack.extend(needs.rev().map(|&need| (need, false)));
            }
        }
        found
    }

    /// Takes what is to be done next: of all that is wanted and has what it
    /// needs, the most urgent, and of what the boot surely needs that which the
    /// longest chain waits for. With `image_first`, what the image needs goes
    /// before all but the boot disk's chain; what is less urgent than `least` in
    /// that order stays. Modules whose needs have failed are marked on the way.
    pub fn take_ready(&mut self, image_first: bool, least: Urgency) -> Option<(Node, Urgency)> {
        let rank = |urgency| match urgency {
            Urgency::Disk => 0,
            Urgency::Image if image_first => 1,
            Urgency::Storage => 2,
            Urgency::Image => 3,
            Urgency::Bus => 4,
            Urgency::Suspicion => 5,
        };
        let mut best: Option<(usize, Waiting)> = None;
        let mut at = 0;
        while let Some(&waiting) = self.queue.get(at) {
            // All of these are needed. Of what is guessed, the cheapest may do.
            let height = |w: Waiting| match w.urgency {
                Urgency::Disk | Urgency::Image => w.height,
                _ => 0,
            };
            let order = |w: Waiting| (rank(w.urgency), usize::MAX - height(w));
            let better = best.is_none_or(|(_, best)| order(waiting) < order(best));
            match self.readiness(waiting.node) {
                Readiness::Blocked(by) => {
                    self.queue.remove(at);
                    self.set(waiting.node, State::Blocked(by));
                    if let Node::Module(index) = waiting.node {
                        self.blocked.push(index);
                    }
                    // What needs this one may stand earlier only in a plan that
                    // breaks its promise; begin again all the same.
                    best = None;
                    at = 0;
                    continue;
                }
                Readiness::Spared => {
                    self.queue.remove(at);
                    self.set(waiting.node, State::Spared);
                    best = None;
                    at = 0;
                    continue;
                }
                Readiness::Ready if better && rank(waiting.urgency) <= rank(least) => {
                    best = Some((at, waiting));
                }
                Readiness::Ready | Readiness::Waits => {}
            }
            at += 1;
        }
        let (at, Waiting { node, urgency, .. }) = best?;
        self.queue.remove(at);
        self.set(node, State::Running);
        Some((node, urgency))
    }

    /// A running node has ended with this errno, 0 for success.
    pub fn finished(&mut self, node: Node, errno: u8) {
        self.set(
            node,
            match errno {
                0 => State::Loaded,
                errno => State::Failed(errno),
            },
        );
    }

    /// Whether anything is wanted at least this urgently.
    #[must_use]
    pub fn wants(&self, urgency: Urgency) -> bool {
        self.queue.iter().any(|waiting| waiting.urgency <= urgency)
    }

    /// Gives up what has not been started.
    pub fn drop_wanted(&mut self) {
        for waiting in core::mem::take(&mut self.queue) {
            self.set(waiting.node, State::Idle);
        }
    }

    /// The modules that were blocked since this was last asked.
    pub fn take_blocked(&mut self) -> Vec<u16> {
        core::mem::take(&mut self.blocked)
    }

    fn readiness(&self, node: Node) -> Readiness {
        let Node::Module(index) = node else {
            return Readiness::Ready;
        };
        if self
            .better(index)
            .any(|node| self.state(node) == State::Loaded)
        {
            return Readiness::Spared;
        }
        let mut readiness = Readiness::Ready;
        for (need, required) in self.needs(index) {
            match self.state(need) {
                State::Failed(_) | State::Blocked(_) if required => {
                    return Readiness::Blocked(need);
                }
                State::Loaded | State::Spared | State::Failed(_) | State::Blocked(_) => {}
                State::Idle | State::Wanted | State::Running => readiness = Readiness::Waits,
            }
        }
        readiness
    }

    fn set(&mut self, node: Node, state: State) {
        let slot = match node {
            Node::Module(index) => self.modules.get_mut(usize::from(index)),
            Node::Pack(index) => self.packs.get_mut(usize::from(index)),
        };
        if let Some(slot) = slot {
            *slot = state;
        }
    }
}

enum Readiness {
    Ready,
    /// Something better is there.
    Spared,
    Waits,
    Blocked(Node),
}

#[cfg(test)]
mod tests {
    use super::*;
    use iofs_plan::{Module, Pack, Packed, Role};
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
            fallback_for: Vec::new(),
        };
        BootPlan {
            modules: needs.iter().enumerate().map(module).collect(),
            ..BootPlan::default()
        }
    }

    /// The same with these modules in one pack.
    fn packed(mut plan: BootPlan, modules: &[usize]) -> BootPlan {
        plan.packs.push(Pack {
            file: "p".into(),
            size: 8,
        });
        for &index in modules {
            plan.modules[index].packed = Some(Packed {
                pack: 0,
                offset: 0,
                len: 8,
            });
        }
        plan
    }

    fn take(schedule: &mut Schedule<'_>) -> Option<Node> {
        schedule
            .take_ready(false, Urgency::Suspicion)
            .map(|(node, _)| node)
    }

    use Node::{Module as M, Pack as P};
    use Urgency::{Bus, Disk, Image, Storage};

    #[test]
    fn needs_come_first_and_once() {
        let plan = plan(&[&[], &[0], &[0], &[1, 2]], &[]);
        let mut schedule = Schedule::new(&plan);
        assert_eq!(schedule.cost(3), 4);
        assert_eq!(schedule.want(3, Bus), 4);
        assert_eq!(schedule.want(3, Bus), 0);
        assert_eq!(take(&mut schedule), Some(M(0)));
        // 1 and 2 wait for 0.
        assert_eq!(take(&mut schedule), None);
        schedule.finished(M(0), 0);
        assert_eq!(schedule.cost(3), 3);
        assert_eq!(take(&mut schedule), Some(M(1)));
        assert_eq!(take(&mut schedule), Some(M(2)));
        schedule.finished(M(2), 0);
        assert_eq!(take(&mut schedule), None);
        schedule.finished(M(1), 0);
        assert_eq!(take(&mut schedule), Some(M(3)));
        schedule.finished(M(3), 0);
        assert!(!schedule.wants(Bus));
        assert_eq!(schedule.state(M(3)), State::Loaded);
        assert_eq!(schedule.want(3, Disk), 0);
        assert_eq!(schedule.cost(3), 0);
    }

    #[test]
    fn what_was_asked_for_first_goes_first() {
        let plan = plan(&[&[], &[], &[], &[]], &[]);
        let mut schedule = Schedule::new(&plan);
        for index in [3, 1, 0] {
            schedule.want(index, Storage);
        }
        let order = [(); 3].map(|()| take(&mut schedule));
        assert_eq!(order, [Some(M(3)), Some(M(1)), Some(M(0))]);
    }

    #[test]
    fn what_the_longest_chain_waits_for_goes_first() {
        // 0 <- 2 <- 4, 1 <- 3, 5
        let plan = plan(&[&[], &[], &[0], &[1], &[2], &[]], &[]);
        let mut schedule = Schedule::new(&plan);
        for index in [5, 3, 4] {
            schedule.want(index, Image);
        }
        let order = [(); 3].map(|()| take(&mut schedule));
        assert_eq!(order, [Some(M(0)), Some(M(1)), Some(M(5))]);
    }

    #[test]
    fn what_is_urgent_overtakes_and_takes_its_needs_along() {
        let plan = plan(&[&[], &[0], &[], &[]], &[]);
        let mut schedule = Schedule::new(&plan);
        schedule.want(2, Bus);
        schedule.want(3, Image);
        schedule.want(1, Bus);
        // The disk turns out to hang on 1, which needs 0.
        assert_eq!(schedule.want(1, Disk), 0);
        assert_eq!(schedule.take_ready(false, Bus), Some((M(0), Disk)));
        assert_eq!(schedule.take_ready(false, Bus), Some((M(3), Image)));
        schedule.finished(M(0), 0);
        assert_eq!(schedule.take_ready(false, Bus), Some((M(1), Disk)));
        assert!(!schedule.wants(Image) && schedule.wants(Bus));
        assert_eq!(schedule.take_ready(false, Bus), Some((M(2), Bus)));
    }

    #[test]
    fn the_image_goes_before_devices_if_asked_to() {
        let plan = plan(&[&[], &[], &[]], &[]);
        let mut schedule = Schedule::new(&plan);
        schedule.want(0, Storage);
        schedule.want(1, Image);
        schedule.want(2, Disk);
        let mut take = |least| schedule.take_ready(true, least).map(|(node, _)| node);
        assert_eq!(take(Image), Some(M(2)));
        assert_eq!(take(Image), Some(M(1)));
        assert_eq!(take(Image), None);
        assert_eq!(take(Bus), Some(M(0)));
    }

    #[test]
    fn a_pack_is_unpacked_once_before_its_modules() {
        let plan = packed(plan(&[&[], &[0], &[]], &[]), &[0, 1, 2]);
        let mut schedule = Schedule::new(&plan);
        assert_eq!(schedule.want(1, Storage), 2);
        assert_eq!(take(&mut schedule), Some(P(0)));
        assert_eq!(take(&mut schedule), None);
        schedule.finished(P(0), 0);
        assert_eq!(take(&mut schedule), Some(M(0)));
        schedule.want(2, Storage);
        assert_eq!(take(&mut schedule), Some(M(2)));
        schedule.finished(M(0), 0);
        assert_eq!(take(&mut schedule), Some(M(1)));
        assert_eq!(take(&mut schedule), None);
    }

    #[test]
    fn a_damaged_pack_blocks_its_modules() {
        let plan = packed(plan(&[&[], &[0]], &[]), &[0]);
        let mut schedule = Schedule::new(&plan);
        schedule.want(1, Storage);
        assert_eq!(take(&mut schedule), Some(P(0)));
        schedule.finished(P(0), 117);
        assert_eq!(take(&mut schedule), None);
        assert_eq!(schedule.state(M(0)), State::Blocked(P(0)));
        assert_eq!(schedule.state(M(1)), State::Blocked(M(0)));
    }

    #[test]
    fn a_failed_need_blocks_and_is_named() {
        let plan = plan(&[&[], &[0], &[1]], &[]);
        let mut schedule = Schedule::new(&plan);
        schedule.want(2, Disk);
        assert_eq!(take(&mut schedule), Some(M(0)));
        schedule.finished(M(0), 8);
        assert_eq!(take(&mut schedule), None);
        assert_eq!(schedule.state(M(0)), State::Failed(8));
        assert_eq!(schedule.state(M(1)), State::Blocked(M(0)));
        assert_eq!(schedule.state(M(2)), State::Blocked(M(1)));
        assert!(!schedule.wants(Urgency::Suspicion));
        assert_eq!(schedule.take_blocked(), [1, 2]);
        assert!(schedule.take_blocked().is_empty());
    }

    #[test]
    fn a_failed_soft_need_does_not() {
        let plan = plan(&[&[], &[0]], &[0]);
        let mut schedule = Schedule::new(&plan);
        schedule.want(1, Disk);
        assert_eq!(take(&mut schedule), Some(M(0)));
        schedule.finished(M(0), 19);
        assert_eq!(take(&mut schedule), Some(M(1)));
    }

    #[test]
    fn a_fallback_is_loaded_only_where_nothing_better_is() {
        // 2 wants 0 and 1; 1 does what 0 does.
        for (errno, expected) in [(0, State::Spared), (19, State::Wanted)] {
            let mut plan = plan(&[&[], &[], &[0, 1]], &[0, 1]);
            plan.modules[1].fallback_for = [0].into();
            let mut schedule = Schedule::new(&plan);
            assert_eq!(schedule.want(2, Image), 3);
            assert_eq!(take(&mut schedule), Some(M(0)));
            assert_eq!(take(&mut schedule), None, "whether 1 is needed is open");
            schedule.finished(M(0), errno);
            if expected == State::Wanted {
                assert_eq!(take(&mut schedule), Some(M(1)));
                assert_eq!(take(&mut schedule), None);
                schedule.finished(M(1), 0);
            }
            assert_eq!(take(&mut schedule), Some(M(2)));
            schedule.finished(M(2), 0);
            let end = schedule.state(M(1));
            assert_eq!(end == State::Spared, expected == State::Spared);
            assert!(!schedule.wants(Bus));
        }
        // Who asks for the fallback alone asks for the better one too.
        let mut plan = plan(&[&[], &[]], &[]);
        plan.modules[1].fallback_for = [0].into();
        let mut schedule = Schedule::new(&plan);
        assert_eq!(schedule.want(1, Image), 2);
        assert_eq!(take(&mut schedule), Some(M(0)));
    }

    #[test]
    fn what_was_given_up_can_be_wanted_again() {
        let plan = plan(&[&[], &[0]], &[]);
        let mut schedule = Schedule::new(&plan);
        schedule.want(1, Bus);
        assert_eq!(take(&mut schedule), Some(M(0)));
        schedule.drop_wanted();
        assert_eq!(schedule.state(M(1)), State::Idle);
        assert_eq!(schedule.state(M(0)), State::Running);
        assert_eq!(schedule.want(1, Disk), 1);
        assert_eq!(take(&mut schedule), None);
        schedule.finished(M(0), 0);
        assert_eq!(take(&mut schedule), Some(M(1)));
    }

    #[test]
    fn indices_out_of_range_are_nothing() {
        let plan = plan(&[], &[]);
        let mut schedule = Schedule::new(&plan);
        assert_eq!(schedule.want(7, Disk), 0);
        schedule.finished(M(7), 0);
        assert_eq!(take(&mut schedule), None);
    }
}
