//! Running the programs that make things.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;

/// How much of a failed program's output an error shows, in bytes.
const SHOWN: u64 = 3000;

/// Whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs `command` to its end with its output in the file `log`, which is
/// appended to.
///
/// # Errors
/// [`Error::Program`] with the end of its output, [`Error::Io`] if it cannot be
/// started.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<(), Error> {
    let mut file = File::options()
        .create(true)
        .append(true)
        .read(true)
        .open(log)
        .map_err(Error::io(format!("opening {}", log.display())))?;
    let name = describe(command);
    let clone = |file: &File| {
        file.try_clone()
            .map_err(Error::io(format!("opening {}", log.display())))
    };
    // A log that cannot be headed is still a log.
    let _ = writeln!(file, "+ {name}");
    let begin = file.metadata().map(|m| m.len()).unwrap_or(0);
    let status = command
        .stdin(Stdio::null())
        .stdout(clone(&file)?)
        .stderr(clone(&file)?)
        .status()
        .map_err(Error::io(format!("starting {name}")))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Program {
        program: name,
        status: status.to_string(),
        tail: tail(&mut file, begin),
    })
}

/// Runs `command` to its end and returns its standard output.
///
/// # Errors
/// As [`run_logged`].
pub fn output(command: &mut Command) -> Result<Vec<u8>, Error> {
    output_with_input(command, &[])
}

/// As [`output`], with `input` on its standard input.
///
/// # Errors
/// As [`run_logged`].
pub fn output_with_input(command: &mut Command, input: &[u8]) -> Result<Vec<u8>, Error> {
    let name = describe(command);
    let start = || format!("running {name}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io(start()))?;
    let stdin = child.stdin.take();
    // In a thread: a program that answers before it has read all would wait for
    // its answers to be read.
    let (written, output) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input)));
        let output = child.wait_with_output();
        (writer.join(), output)
    });
    match written {
        // It may not want its input; its status tells whether that is bad.
        Ok(Err(e)) if e.kind() != io::ErrorKind::BrokenPipe => return Err(Error::io(start())(e)),
        _ => {}
    }
    let output = output.map_err(Error::io(start()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    Err(Error::Program {
        program: name,
        status: output.status.to_string(),
        tail: text.chars().take(3000).collect(),
    })
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program()];
    words.extend(command.get_args());
    let words: Vec<_> = words.into_iter().map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

fn tail(file: &mut File, begin: u64) -> String {
    let mut bytes = Vec::new();
    let end = file.metadata().map(|m| m.len()).unwrap_or(0);
    let from = begin.max(end.saturating_sub(SHOWN));
    // The error is about the program; a log that cannot be read is empty.
    let _ = file
        .seek(SeekFrom::Start(from))
        .and_then(|_| file.take(SHOWN).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_what_the_program_said() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        run_logged(Command::new("sh").args(["-c", "echo before"]), &log).unwrap();
        let error = run_logged(Command::new("sh").args(["-c", "echo why; exit 3"]), &log)
            .unwrap_err()
            .to_string();
        assert!(error.contains("why") && error.contains('3'), "{error}");
        assert!(!error.contains("before"), "{error}");
        let error = output(Command::new("sh").args(["-c", "echo no >&2; exit 1"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no"), "{error}");
        assert!(output(&mut Command::new("/no/such/program")).is_err());
        assert_eq!(
            output_with_input(&mut Command::new("cat"), b"in").unwrap(),
            b"in"
        );
    }
}
