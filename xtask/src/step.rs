//! Steps: commands with a log, a time limit, a line on standard output.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use vmtest::guest::{self, Guest, workspace};

/// How much of a failed step's output is shown, in lines.
const SHOWN_LINES: usize = 80;

/// The folder of logs; the last run's are overwritten.
pub(crate) fn logs() -> io::Result<PathBuf> {
    let folder = workspace().join("target/xtask-logs");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A cargo command in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = guest::cargo();
    command.args(args);
    command
}

/// Installs missing packages, with a line on standard output for each step.
pub(crate) fn packages() -> Result<(), vmtest::Error> {
    let folder = logs().map_err(vmtest::Error::io("making target/xtask-logs"))?;
    vmtest::packages::ensure(&folder.join("packages.log"), &mut |line| println!("{line}"))
}

/// The cached guest, with a line on standard output for each step.
pub(crate) fn guest() -> Result<Guest, vmtest::Error> {
    Guest::ensure(&mut |line| println!("{line}"))
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) success: bool,
    pub(crate) output: String,
}

/// Runs `command` with its output in `log` (appended). It is killed, with all
/// that it started in its process group, after `limit`.
pub(crate) fn run(mut command: Command, log: &Path, limit: Duration) -> io::Result<Finished> {
    let mut file = File::options().create(true).append(true).open(log)?;
    let begin = file.metadata()?.len();
    writeln!(file, "+ {command:?}")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file.try_clone()?)
        .process_group(0)
        .spawn()?;
    let deadline = Instant::now() + limit;
    let success = loop {
        if let Some(status) = child.try_wait()? {
            break status.success();
        }
        if Instant::now() >= deadline {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                kill_process_group(group, Signal::KILL)?;
            }
            child.wait()?;
            writeln!(file, "killed after {} s", limit.as_secs())?;
            break false;
        }
        thread::sleep(Duration::from_millis(50));
    };
    let bytes = fs::read(log)?;
    let own = bytes
        .get(usize::try_from(begin).unwrap_or(0)..)
        .unwrap_or(&[]);
    Ok(Finished {
        success,
        output: String::from_utf8_lossy(own).into_owned(),
    })
}

/// The last lines of an output, for a failed step.
pub(crate) fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let skip = lines.len().saturating_sub(SHOWN_LINES);
    let mut text = String::new();
    if skip > 0 {
        text.push_str(&format!("    ({skip} lines before)\n"));
    }
    for line in lines.iter().skip(skip) {
        text.push_str("    ");
        text.push_str(line);
        text.push('\n');
    }
    text
}
