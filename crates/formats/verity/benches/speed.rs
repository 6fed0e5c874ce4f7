//! How fast trees are made, against the hash function alone: a ratio from one
//! run, on an idle machine. `cargo bench -p iofs-verity`.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use common::{noise, params};
use iofs_source::{ReadAt, ReadError, ReadErrorKind};
use iofs_verity::Algorithm;
use iofs_verity::build::HashTree;
use sha2::{Digest as _, Sha256};

/// The fastest of each of three, taken in turn, so that what else the machine
/// does meets all alike.
fn fastest(run: [&dyn Fn(); 3]) -> [f64; 3] {
    let mut best = [Duration::MAX; 3];
    for _ in 0..100 {
        for (best, run) in best.iter_mut().zip(run) {
            let start = Instant::now();
            run();
            *best = start.elapsed().min(*best);
        }
    }
    best.map(|time| time.as_secs_f64())
}

/// A file, as the builder reads it.
struct OnDisk(File, u64);

impl ReadAt for OnDisk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_exact_at(buf, offset).map_err(|_| ReadError {
            offset,
            len: buf.len() as u64,
            kind: ReadErrorKind::Io { errno: 5 },
        })
    }

    fn size(&self) -> u64 {
        self.1
    }
}

fn main() {
    const BLOCKS: u32 = 4096;
    let data = noise(4096 * BLOCKS as usize);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&data).unwrap();
    let file = OnDisk(file, data.len() as u64);
    let params = params(Algorithm::Sha256, (4096, 4096), BLOCKS.into(), &[1; 32]);
    let [plain, memory, disk] = fastest([
        &|| {
            black_box(Sha256::digest(&data));
        },
        &|| {
            black_box(HashTree::build(&params, &data, |_| {}).unwrap());
        },
        &|| {
            black_box(HashTree::build(&params, &file, |_| {}).unwrap());
        },
    ]);
    #[allow(clippy::cast_precision_loss)]
    let processors = rayon::current_num_threads() as f64;
    let shares = [memory, disk].map(|time| plain / time / processors);
    let [memory, disk] = shares.map(|share| share * 100.);
    println!(
        "sha2 {:.0} MB/s; trees on {processors} processors, of that a processor: from memory \
         {memory:.0} %, from a file {disk:.0} % (aim: 80 %)",
        f64::from(BLOCKS) * 4096. / plain / 1e6,
    );
}
