//! Finds the programs that go into what is built.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{CliError, Result};

/// Where packages put them.
const SYSTEM: &str = "/usr/lib/initoverlayfs";

/// The program `name`: the one that the user named, else the first of: beside
/// this program, `../lib/initoverlayfs` from there, [`SYSTEM`].
///
/// # Errors
/// If it is at none of them; the message lists them.
pub(crate) fn find(name: &str, option: &str, chosen: Option<&Path>) -> Result<PathBuf> {
    let places = match chosen {
        Some(path) => vec![path.to_owned()],
        None => places(env::current_exe().ok().as_deref(), name),
    };
    if let Some(found) = places.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let tried: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
    Err(CliError::usage(format!(
        "cannot find the program {name}; looked for {}",
        tried.join(", ")
    ))
    .hint(format!(
        "name it with {option}, or build it: \
         cargo build -p storage-init --features freestanding --profile pid1"
    )))
}

fn places(program: Option<&Path>, name: &str) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(dir) = program.and_then(Path::parent) {
        places.push(dir.join(name));
        if let Some(prefix) = dir.parent() {
            places.push(prefix.join("lib/initoverlayfs").join(name));
        }
    }
    places.push(Path::new(SYSTEM).join(name));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_are_tried_from_near_to_far() {
        let found = places(Some(Path::new("/opt/x/bin/initoverlayfs")), "storage-init");
        let expected = [
            "/opt/x/bin/storage-init",
            "/opt/x/lib/initoverlayfs/storage-init",
            "/usr/lib/initoverlayfs/storage-init",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn a_missing_program_is_a_usage_error_that_names_the_places() {
        let error = find(
            "storage-init",
            "--storage-init",
            Some(Path::new("/nowhere")),
        )
        .unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("/nowhere"));
        assert!(error.advice().unwrap().contains("--storage-init"));
    }
}
