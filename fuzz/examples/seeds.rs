//! Writes every target's seeds to FOLDER/TARGET/, where cargo-fuzz looks for a
//! corpus.

// It fails like the tests that it is made for.
#![allow(clippy::unwrap_used)]

#[path = "../tests/mkfs/mod.rs"]
mod mkfs;

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: seeds FOLDER");
        std::process::exit(2);
    };
    for (name, _) in iofs_fuzz::TARGETS {
        let folder = folder.join(name);
        fs::create_dir_all(&folder)?;
        let seeds = match *name {
            "ext4" => mkfs::ext4_seeds(),
            "erofs" => mkfs::erofs_seeds(),
            other => iofs_fuzz::seeds::of(other),
        };
        for (index, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{index}")), seed)?;
        }
    }
    Ok(())
}
