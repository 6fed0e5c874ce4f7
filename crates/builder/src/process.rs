//! Running external programs.

use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;
use rustix::pipe::PipeFlags;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// How many lines of a failed program's output its error repeats.
const TAIL: usize = 12;

/// Runs `command` to its end; both its outputs go line by line to `progress`.
///
/// # Errors
/// [`ErrorKind::MissingTool`] if it is not installed (it is in `package`),
/// [`ErrorKind::Tool`] if it fails; the message holds the end of its output.
pub(crate) fn run(command: &mut Command, package: &str, progress: &dyn Progress) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|source| {
        Error::new(ErrorKind::Io, format!("no pipe for {name}'s output")).source(source)
    })?;
    let copy = writer.try_clone().map_err(|source| {
        Error::new(ErrorKind::Io, format!("no pipe for {name}'s output")).source(source)
    })?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(copy)
        .stderr(writer)
        .spawn()
        .map_err(|source| not_run(&name, package, source))?;
    // `command` holds the write ends open until they are replaced.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut lines = VecDeque::new();
    let mut output = BufReader::new(File::from(reader));
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        progress.tool_output(&text);
        if lines.len() == TAIL {
            lines.pop_front();
        }
        lines.push_back(text);
    }
    let status = child.wait().map_err(|source| {
        Error::new(ErrorKind::Io, format!("waiting for {name} failed")).source(source)
    })?;
    if status.success() {
        return Ok(());
    }
    let said = Vec::from(lines).join("\n");
    Err(Error::new(
        ErrorKind::Tool,
        format!("{name} failed ({status}); its last words:\n{said}"),
    ))
}

/// Error for a program that cannot be started.
pub(crate) fn not_run(name: &str, package: &str, source: std::io::Error) -> Error {
    if source.kind() == std::io::ErrorKind::NotFound {
        return Error::new(
            ErrorKind::MissingTool,
            format!("the program {name} is not installed"),
        )
        .hint(format!("Install the package {package}."));
    }
    Error::new(ErrorKind::Tool, format!("{name} cannot be run")).source(source)
}
