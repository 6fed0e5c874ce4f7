//! Running veritysetup, and devices for it.

// Each test binary uses its own part of this module.
#![allow(dead_code, clippy::unwrap_used)]

use std::process::{Command, Output};

use iofs_verity::build::HashTree;
use iofs_verity::{Algorithm, Params, Uuid};

pub(crate) const UUID: Uuid = Uuid::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788);

/// Runs a tool to its end.
pub(crate) fn output(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| {
            panic!("{program} is needed for this test (Debian: cryptsetup-bin): {error}")
        })
}

/// Runs a tool that must succeed, and returns what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = output(program, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// `len` bytes that repeat nowhere and are the same every time (xorshift64).
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

pub(crate) fn params(algorithm: Algorithm, sizes: (u32, u32), blocks: u64, salt: &[u8]) -> Params {
    Params::new(algorithm, sizes.0, sizes.1, blocks, salt.to_vec()).unwrap()
}

/// Data, their tree and the hash device.
pub(crate) struct Sample {
    pub(crate) params: Params,
    pub(crate) data: Vec<u8>,
    pub(crate) tree: HashTree,
    pub(crate) hashes: Vec<u8>,
}

pub(crate) fn sample(params: Params) -> Sample {
    let data = noise(usize::try_from(params.data_len()).unwrap());
    let tree = HashTree::build(&params, &data, |_| {}).unwrap();
    let hashes = tree.hash_device(&params, UUID);
    Sample {
        params,
        data,
        tree,
        hashes,
    }
}
