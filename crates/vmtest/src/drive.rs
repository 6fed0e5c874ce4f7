//! Drives as their data sheets describe them: what a read costs, and when.
//!
//! A [`Drive`] is figures; a [`Model`] is a drive in use, without a clock of its
//! own, so that it can be tested. [`served`] puts a model in front of a file.
//!
//! # The model
//! * A command takes `latency`, then its data cross the bus at `bandwidth`. Up to
//!   `parallel` commands are worked on at once; the bus is one. A read longer than
//!   `largest` is several commands, one after the other.
//! * A spinning disk has one arm and looks ahead: after a read the head stays on
//!   its track and what passes below it can be had without a wait. Elsewhere costs
//!   a seek, `track + k * sqrt(distance)`, with `k` from the average seek, which by
//!   definition is that over a third of the disk; then the wait until the sector
//!   comes by. Of the commands that it has, it takes the one that is nearest in
//!   time, as disks with command queues do.
//! * Not modelled: what controllers of flash read ahead on their own, writes, heat.

use std::collections::VecDeque;
use std::time::Duration;

pub mod served;

/// A drive's figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drive {
    /// Name in tables.
    pub name: &'static str,
    /// From command to first byte.
    pub latency: Duration,
    /// Bytes a second.
    pub bandwidth: u64,
    /// Commands that it works on at once.
    pub parallel: usize,
    /// Bytes that one command moves at most.
    pub largest: u64,
    /// The mechanics of one that spins.
    pub spins: Option<Spins>,
    /// Where the figures are from.
    pub source: &'static str,
}

/// The mechanics of a spinning disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spins {
    /// A seek to the next track.
    pub track: Duration,
    /// The average seek.
    pub average: Duration,
    /// One turn.
    pub turn: Duration,
    /// Its size in bytes.
    pub size: u64,
}

/// How far a disk looks ahead: one of the 32 segments of a cache of 64 MiB.
const LOOK_AHEAD: u64 = 2 << 20;

/// No drive: what is left is the computer's own work.
pub const NONE: Drive = Drive {
    name: "none",
    latency: Duration::ZERO,
    bandwidth: u64::MAX,
    parallel: 32,
    largest: u64::MAX,
    spins: None,
    source: "a disk that takes no time but that of the way to it",
};

/// Every drive of the bench.
pub const DRIVES: [Drive; 6] = [
    Drive {
        name: "eMMC",
        latency: Duration::from_micros(125),
        bandwidth: 250_000_000,
        parallel: 1,
        largest: 512 << 10,
        spins: None,
        source: "eMMC 5.1 parts of 8 to 32 GB (HS400, no command queue): 250 MB/s, 7 000 random \
                 reads of 4 KiB a second",
    },
    Drive {
        name: "SD card",
        latency: Duration::from_micros(620),
        bandwidth: 90_000_000,
        parallel: 1,
        largest: 512 << 10,
        spins: None,
        source: "SD Physical Layer 5.1, class A1: 1 500 random reads of 4 KiB a second; UHS-I \
                 SDR104 cards: 90 MB/s",
    },
    Drive {
        name: "USB 2 stick",
        latency: Duration::from_micros(900),
        bandwidth: 33_000_000,
        parallel: 1,
        // max_sectors of Linux's usb-storage.
        largest: 120 << 10,
        spins: None,
        source: "bulk-only transport at high speed: 33 MB/s, commands of 120 KiB, three transfers \
                 each; sticks read 4 KiB about 1 000 times a second",
    },
    Drive {
        name: "SATA SSD",
        latency: Duration::from_micros(70),
        bandwidth: 550_000_000,
        parallel: 8,
        largest: 512 << 10,
        spins: None,
        source: "data sheets of SATA SSDs with TLC: 550 MB/s, 13 000 random reads of 4 KiB a \
                 second one by one, 98 000 with 32 commands",
    },
    Drive {
        name: "NVMe",
        latency: Duration::from_micros(51),
        bandwidth: 3_400_000_000,
        parallel: 32,
        largest: 512 << 10,
        spins: None,
        source: "data sheets of PCIe 3.0 SSDs with TLC: 3.4 GB/s, 19 000 random reads of 4 KiB a \
                 second one by one, 600 000 with 32 commands",
    },
    Drive {
        name: "HDD",
        latency: Duration::from_micros(100),
        bandwidth: 180_000_000,
        parallel: 1,
        largest: 512 << 10,
        spins: Some(Spins {
            track: Duration::from_micros(1000),
            average: Duration::from_micros(8500),
            turn: Duration::from_micros(8333),
            size: 1_000_000_000_000,
        }),
        source: "data sheets of 1 TB desktop disks, 7 200 turns a minute: average seek 8.5 ms, next \
                 track 1 ms, 180 MB/s",
    },
];

/// A read, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
}

/// A drive in use. Times are since any fixed moment and do not decrease.
#[derive(Debug, Clone)]
pub struct Model {
    drive: Drive,
    waiting: VecDeque<(u64, Read)>,
    /// Numbers of commands that are worked on, and when each is done.
    working: Vec<(u64, Duration)>,
    /// When the bus is free.
    bus: Duration,
    /// Where the head was, and when.
    head: (u64, Duration),
    /// Where what it has looked ahead begins.
    buffer: u64,
}

impl Model {
    /// The drive, idle, its head at the start.
    #[must_use]
    pub fn new(drive: Drive) -> Self {
        Self {
            drive,
            waiting: VecDeque::new(),
            working: Vec::new(),
            bus: Duration::ZERO,
            head: (0, Duration::ZERO),
            buffer: 0,
        }
    }

    /// Hands it a read, to be known by `number`.
    pub fn submit(&mut self, number: u64, read: Read, now: Duration) {
        self.waiting.push_back((number, read));
        self.start(now);
    }

    /// When the next read is done, if it has any.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.working.iter().map(|(_, done)| *done).min()
    }

    /// The number of a read that is done by `now`, the earliest first.
    pub fn finished(&mut self, now: Duration) -> Option<u64> {
        let (at, _) = self
            .working
            .iter()
            .enumerate()
            .filter(|(_, (_, done))| *done <= now)
            .min_by_key(|(_, (_, done))| *done)?;
        let (number, done) = self.working.swap_remove(at);
        // A drive does not wait for whoever looks.
        self.start(done);
        Some(number)
    }

    fn start(&mut self, now: Duration) {
        while self.working.len() < self.drive.parallel {
            let nearest = match self.drive.spins {
                Some(spins) => (0..self.waiting.len())
                    .min_by_key(|at| self.waiting.get(*at).map(|w| self.reach(spins, w.1, now))),
                None => Some(0),
            };
            let Some((number, read)) = nearest.and_then(|at| self.waiting.remove(at)) else {
                return;
            };
            let done = self.done(read, now);
            self.working.push((number, done));
        }
    }

    /// When a read that starts now is done.
    fn done(&mut self, read: Read, now: Duration) -> Duration {
        let commands = read.len.div_ceil(self.drive.largest).max(1);
        let latency = self
            .drive
            .latency
            .saturating_mul(u32::try_from(commands).unwrap_or(u32::MAX));
        let transfer = self.stream(read.len);
        let Some(spins) = self.drive.spins else {
            let done = (now + latency).max(self.bus) + transfer;
            self.bus = done;
            return done;
        };
        let start = now + latency;
        let (wait, moved) = self.reach(spins, read, start);
        if moved {
            self.buffer = read.offset;
        }
        let done = start + wait + transfer;
        // What was in the buffer leaves the head ahead of the read's end.
        let ahead = self.passed(done);
        let end = read.offset + read.len;
        self.head = (if moved { end } else { ahead.max(end) }, done);
        done
    }

    /// How long `len` bytes take to pass.
    fn stream(&self, len: u64) -> Duration {
        let nanos = u128::from(len) * 1_000_000_000 / u128::from(self.drive.bandwidth.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Up to where the disk has looked ahead.
    fn passed(&self, now: Duration) -> u64 {
        let nanos = now.saturating_sub(self.head.1).as_nanos();
        let bytes = nanos * u128::from(self.drive.bandwidth) / 1_000_000_000;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).min(LOOK_AHEAD);
        self.head.0.saturating_add(bytes)
    }

    /// How long until the first byte, and whether the arm moves for it.
    fn reach(&self, spins: Spins, read: Read, now: Duration) -> (Duration, bool) {
        let passed = self.passed(now);
        if read.offset >= self.buffer && read.offset <= passed {
            // The rest of a read that is half in the buffer streams in at the same
            // speed as that crosses the bus.
            return (Duration::ZERO, false);
        }
        let third = (spins.size as f64 / 3.0).sqrt();
        let factor = spins.average.saturating_sub(spins.track).as_secs_f64() / third;
        let distance = passed.abs_diff(read.offset) as f64;
        let seek = spins.track + Duration::from_secs_f64(factor * distance.sqrt());
        let turn = spins.turn.as_nanos().max(1);
        let place = self.stream(read.offset).as_nanos() % turn;
        let angle = (now + seek).as_nanos() % turn;
        let rest = u64::try_from((place + turn - angle) % turn).unwrap_or(0);
        let moved = seek + Duration::from_nanos(rest);
        if read.offset > passed {
            let streamed = self.stream(read.offset - passed);
            if streamed <= moved {
                return (streamed, false);
            }
        }
        (moved, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(name: &str) -> Drive {
        *DRIVES.iter().find(|drive| drive.name == name).unwrap()
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// Reads one after the other; when each is done.
    fn serial(drive: Drive, reads: &[(u64, u64)]) -> Vec<Duration> {
        let mut model = Model::new(drive);
        let mut now = Duration::ZERO;
        let mut times = Vec::new();
        for (number, (offset, len)) in (0..).zip(reads) {
            let (offset, len) = (*offset, *len);
            model.submit(number, Read { offset, len }, now);
            now = model.next().unwrap();
            assert_eq!(model.finished(now), Some(number));
            times.push(now);
        }
        assert_eq!(model.next(), None);
        times
    }

    /// Reads handed over at once; when the last is done.
    fn at_once(drive: Drive, count: u64, len: u64) -> Duration {
        let mut model = Model::new(drive);
        for number in 0..count {
            let offset = number * 7919 * 4096;
            model.submit(number, Read { offset, len }, Duration::ZERO);
        }
        let mut now = Duration::ZERO;
        while let Some(next) = model.next() {
            now = next;
            while model.finished(now).is_some() {}
        }
        now
    }

    fn per_second(count: u64, time: Duration) -> f64 {
        count as f64 / time.as_secs_f64()
    }

    #[test]
    fn flash_reads_as_often_as_its_source_says() {
        let rates = [
            ("eMMC", 7000.0),
            ("SD card", 1500.0),
            ("USB 2 stick", 1000.0),
            ("SATA SSD", 13_000.0),
            ("NVMe", 19_000.0),
        ];
        for (name, expected) in rates {
            let reads: Vec<_> = (0..100).map(|n| (n * 7919 * 4096, 4096)).collect();
            let rate = per_second(100, *serial(drive(name), &reads).last().unwrap());
            assert!((rate / expected - 1.0).abs() < 0.05, "{name}: {rate}");
        }
        for (name, expected) in [("SATA SSD", 98_000.0), ("NVMe", 600_000.0)] {
            let rate = per_second(3200, at_once(drive(name), 3200, 4096));
            assert!((rate / expected - 1.0).abs() < 0.1, "{name}: {rate}");
        }
    }

    #[test]
    fn long_reads_come_at_the_bandwidth() {
        for drive in DRIVES {
            let time = at_once(drive, 1, 256 << 20);
            let rate = per_second(256 << 20, time) / drive.bandwidth as f64;
            // Sticks and cards pay for every command.
            assert!(rate <= 1.0 && rate > 0.75, "{}: {rate}", drive.name);
        }
    }

    #[test]
    fn one_command_at_a_time_where_there_is_no_queue() {
        let emmc = drive("eMMC");
        let one = at_once(emmc, 1, 4096);
        assert_eq!(at_once(emmc, 10, 4096), one * 10);
        assert!(at_once(drive("NVMe"), 10, 4096) < at_once(drive("NVMe"), 1, 4096) * 2);
    }

    #[test]
    fn a_long_read_is_several_commands() {
        let usb = drive("USB 2 stick");
        let extra = at_once(usb, 1, 240 << 10) - at_once(usb, 1, 120 << 10);
        assert!(extra > usb.latency, "{extra:?}");
    }

    #[test]
    fn an_average_seek_is_that_over_a_third() {
        let hdd = drive("HDD");
        let spins = hdd.spins.unwrap();
        let third = spins.size / 3;
        // From many places and angles: seek and half a turn.
        let mut model = Model::new(hdd);
        let mut now = Duration::ZERO;
        let mut sum = Duration::ZERO;
        for number in 0..200 {
            now += micros(1777);
            let offset = if number % 2 == 0 { third } else { 0 } + number * 12_345_678;
            model.submit(number, Read { offset, len: 512 }, now);
            let done = model.next().unwrap();
            sum += done - now;
            now = done;
            assert_eq!(model.finished(now), Some(number));
        }
        let mean = (sum / 200).as_secs_f64();
        let expected = (spins.average + spins.turn / 2 + hdd.latency).as_secs_f64();
        assert!((mean / expected - 1.0).abs() < 0.1, "{mean} {expected}");
    }

    #[test]
    fn a_disk_streams_what_follows_and_keeps_what_it_passed() {
        let hdd = drive("HDD");
        let far = 10 << 30;
        let times = serial(
            hdd,
            &[(far, 65_536), (far + 65_536, 65_536), (far + 4096, 4096)],
        );
        assert!(times[0] > micros(1000));
        // No turn is lost between reads that follow one another.
        assert!(times[1] - times[0] < micros(600), "{times:?}");
        assert!(times[2] - times[1] < micros(200), "{times:?}");
        // Back beyond what it has: a seek and most of a turn.
        let back = serial(hdd, &[(far, 65_536), (far - 65_536, 4096)]);
        assert!(back[1] - back[0] > micros(5000), "{back:?}");
        // A little ahead passes by itself.
        let ahead = serial(hdd, &[(far, 65_536), (far + 200_000, 4096)]);
        assert!(ahead[1] - ahead[0] < micros(1500), "{ahead:?}");
    }

    #[test]
    fn a_disk_takes_the_nearest_first() {
        let mut model = Model::new(drive("HDD"));
        let read = |offset| Read { offset, len: 4096 };
        model.submit(0, read(100 << 30), Duration::ZERO);
        model.submit(1, read(900 << 30), Duration::ZERO);
        model.submit(2, read((100 << 30) + 4096), Duration::ZERO);
        let mut order = Vec::new();
        while let Some(now) = model.next() {
            order.extend(model.finished(now));
        }
        assert_eq!(order, [0, 2, 1]);
    }

    #[test]
    fn every_drive_says_where_it_is_from() {
        for drive in DRIVES {
            assert!(drive.source.len() > 40 && drive.parallel > 0, "{drive:?}");
        }
    }
}
