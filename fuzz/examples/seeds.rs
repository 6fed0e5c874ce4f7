//! Writes every target's seeds to FOLDER/TARGET/, where cargo-fuzz looks for a
//! corpus.

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
        for (index, seed) in iofs_fuzz::seeds::of(name).iter().enumerate() {
            fs::write(folder.join(format!("seed-{index}")), seed)?;
        }
    }
    Ok(())
}
