//! A fuzzer for stable Rust: no coverage, but the same inputs every time, in
//! seconds, on any machine.
//!
//! Input `n` of a target is a function of the target's name, its seeds and `n`
//! alone, so a failure is named by a number. A target runs in a thread of its
//! own and is watched: an input that takes too long is reported even if it
//! never ends.

use std::any::Any;
use std::fmt;
use std::panic::catch_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Target;

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Inputs a target, the seeds themselves included.
    pub inputs: u64,
    /// Time a target; whatever ends first ends it.
    pub time: Duration,
    /// The longest that an input may take.
    pub input_time: Duration,
}

/// A target that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its name.
    pub target: String,
    /// Number of the input.
    pub number: u64,
    /// Index of the seed that it was made of.
    pub seed: usize,
    /// The input.
    pub bytes: Vec<u8>,
    /// The panic's message, or how long it took.
    pub why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 64;
        write!(
            f,
            "{}: input {} (from seed {}, {} bytes): {}\n  ",
            self.target,
            self.number,
            self.seed,
            self.bytes.len(),
            self.why
        )?;
        for byte in self.bytes.iter().take(SHOWN) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(if self.bytes.len() > SHOWN { "..." } else { "" })
    }
}

impl std::error::Error for Failure {}

/// The input that is being tried.
struct Trial {
    number: u64,
    seed: usize,
    bytes: Arc<Vec<u8>>,
    since: Instant,
}

impl Trial {
    fn failed(&self, target: &str, why: String) -> Failure {
        Failure {
            target: target.to_owned(),
            number: self.number,
            seed: self.seed,
            bytes: self.bytes.to_vec(),
            why,
        }
    }

    fn took(&self) -> String {
        format!("it took more than {:?}", self.since.elapsed())
    }
}

/// Runs a target on its seeds and on what mutations make of them; returns how
/// many inputs were tried.
///
/// # Errors
/// The first input that panicked or took too long. One that never ends leaves
/// its thread behind.
///
/// # Panics
/// If there is no seed.
pub fn run(
    name: &'static str,
    target: Target,
    seeds: Vec<Vec<u8>>,
    limits: Limits,
) -> Result<u64, Box<Failure>> {
    assert!(!seeds.is_empty(), "{name} has no seed");
    let current: Arc<Mutex<Option<Trial>>> = Arc::default();
    let (sender, done) = channel();
    let shared = Arc::clone(&current);
    thread::spawn(move || {
        // The receiver is gone if the watch below has given up on an input.
        let _ = sender.send(try_all(name, target, &seeds, limits, &shared));
    });
    loop {
        match done.recv_timeout(Duration::from_millis(100)) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("the thread catches every panic"),
        }
        let current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trial) = &*current {
            if trial.since.elapsed() > limits.input_time {
                return Err(Box::new(trial.failed(name, trial.took())));
            }
        }
    }
}

fn try_all(
    name: &str,
    target: Target,
    seeds: &[Vec<u8>],
    limits: Limits,
    current: &Mutex<Option<Trial>>,
) -> Result<u64, Box<Failure>> {
    let set = |trial| *current.lock().unwrap_or_else(PoisonError::into_inner) = trial;
    let started = Instant::now();
    for number in 0..limits.inputs {
        if started.elapsed() > limits.time {
            return Ok(number);
        }
        let (seed, bytes) = input(name, seeds, number);
        let bytes = Arc::new(bytes);
        let trial = || Trial {
            number,
            seed,
            bytes: Arc::clone(&bytes),
            since: Instant::now(),
        };
        let this = trial();
        set(Some(trial()));
        let result = catch_unwind(|| target(&bytes));
        set(None);
        if let Err(panic) = result {
            return Err(Box::new(this.failed(name, message(panic.as_ref()))));
        }
        if this.since.elapsed() > limits.input_time {
            return Err(Box::new(this.failed(name, this.took())));
        }
    }
    Ok(limits.inputs)
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Input `number` of a target and the index of its seed: first the seeds as
/// they are, then mutations of each in turn.
#[must_use]
pub fn input(target: &str, seeds: &[Vec<u8>], number: u64) -> (usize, Vec<u8>) {
    let count = seeds.len() as u64;
    let index = usize::try_from(number % count.max(1)).unwrap_or(0);
    let mut bytes = seeds.get(index).cloned().unwrap_or_default();
    if number < count {
        return (index, bytes);
    }
    let name = target.bytes().fold(0u64, |hash, byte| {
        hash.wrapping_mul(257).wrapping_add(byte.into())
    });
    let mut random = Random(name ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // Mostly one change, so that what it does is not hidden by another.
    let mut changes = 1;
    while changes < 8 && random.below(2) == 0 {
        changes += 1;
    }
    for _ in 0..changes {
        mutate(&mut bytes, seeds, &mut random);
    }
    (index, bytes)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`; 0 if that is 0.
    fn below(&mut self, limit: usize) -> usize {
        let limit = limit.max(1) as u64;
        usize::try_from(self.next() % limit).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// Values at which arithmetic goes wrong, cut to the width that is wanted.
const EDGES: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Changes `bytes` in one place.
fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const LONGEST: usize = 1 << 20;
    let at = place(bytes, random);
    let run = 1 + random.below(64);
    let end = bytes.len().min(at + run);
    match random.below(12) {
        0..=2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        3 | 4 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.byte();
            }
        }
        // A field of 1 to 8 bytes, at an edge or near what it was.
        5..=8 => {
            let width = 1 << random.below(4);
            let Some(field) = bytes.get_mut(at..at + width) else {
                return;
            };
            let mut old = [0; 8];
            old[..width].copy_from_slice(field);
            let value = match random.below(3) {
                0 => u64::from_le_bytes(old)
                    .wrapping_add(random.next() % 9)
                    .wrapping_sub(4),
                _ => EDGES[random.below(EDGES.len())],
            };
            field.copy_from_slice(&value.to_le_bytes()[..width]);
        }
        9 => drop(bytes.drain(at.min(end)..end)),
        // Another seed's bytes, or these again, over or between.
        10 => {
            let other = seeds
                .get(random.below(seeds.len()))
                .map_or(&[][..], |seed| seed);
            let from = random.below(other.len());
            let part = &other[from..other.len().min(from + run)];
            let replaced = if random.below(2) == 0 {
                at
            } else {
                end.max(at)
            };
            if bytes.len() < LONGEST {
                bytes.splice(
                    at.min(bytes.len())..replaced.min(bytes.len()),
                    part.iter().copied(),
                );
            }
        }
        _ => bytes.truncate(at),
    }
}

/// Where to change something: anywhere, or, as images are mostly empty, at or
/// just behind a byte that is not zero.
fn place(bytes: &[u8], random: &mut Random) -> usize {
    let anywhere = random.below(bytes.len());
    if random.below(4) == 0 {
        return anywhere;
    }
    let near = bytes
        .get(anywhere..)
        .and_then(|rest| rest.iter().position(|&byte| byte != 0))
        .map_or(anywhere, |skip| anywhere + skip);
    near + random.below(4)
}
