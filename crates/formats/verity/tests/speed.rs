//! How fast trees are made, against the hash function alone.

mod common;

use std::time::{Duration, Instant};

use common::{noise, params};
use iofs_verity::Algorithm;
use iofs_verity::build::HashTree;
use sha2::{Digest as _, Sha256};

fn fastest(mut run: impl FnMut()) -> Duration {
    let timed = (0..5).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    timed.min().unwrap_or_default()
}

/// At least 80 % of the speed of sha2 on one processor, for each processor.
#[test]
#[ignore = "a measurement: alone on an idle machine, with --release"]
fn a_tree_takes_little_more_than_hashing() {
    const BLOCKS: u32 = 16384;
    let data = noise(4096 * BLOCKS as usize);
    let params = params(Algorithm::Sha256, (4096, 4096), BLOCKS.into(), &[1; 32]);
    let plain = fastest(|| {
        std::hint::black_box(Sha256::digest(&data));
    });
    let tree = fastest(|| {
        std::hint::black_box(HashTree::build(&params, &data, |_| {}).ok());
    });
    #[allow(clippy::cast_precision_loss)]
    let processors = rayon::current_num_threads() as f64;
    let share = plain.as_secs_f64() / tree.as_secs_f64() / processors;
    println!(
        "sha2 {plain:?}, tree {tree:?}, {processors} processors: {:.0} %",
        share * 100.
    );
    assert!(share >= 0.8, "{share}");
}
