//! A kernel as a program: Debian's user-mode-linux.
//!
//! # What was found *(linux.uml 6.1)*
//! * It reaches PID 1 of a small initramfs in about one second of wall time.
//! * `con=null con0=fd:0,fd:1` makes the console its standard input and
//!   output; kernel messages go there too (`console=tty0` is its own default).
//!   Without a terminal `con0=null,fd:1` is enough and has no input to poll.
//! * printk has no timestamps unless `printk.time=1`.
//! * Its memory is a file in TMPDIR, unlinked at once: /dev/shm makes it RAM.
//! * `umid` and `uml_dir` name its control socket's folder, by default in the
//!   home folder; it is left behind when the kernel panics.
//! * It puts `root=98:0` on the command line by itself; an initramfs with
//!   /init ignores that.
//! * Disks are `ubdX=file`; partitions appear as ubda1, ... `ubdXr=` is
//!   write-protected. They are /dev/ubda, with neither bus nor modalias.
//! * A panic ends the program with abort (status 134).
//! * Each process of the guest is a process of the host, so the whole process
//!   group is killed.
//! * Modules are in [`MODULES`], plain `.ko`, without signatures.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use qemu_driver::{ConsoleLine, LineBuffer};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{Error, packages};

/// The folder that holds a folder of modules for each release.
pub const MODULES: &str = "/usr/lib/uml/modules";

/// The program.
const PROGRAM: &str = "linux.uml";

/// How many of the last lines an error shows.
const SHOWN_LINES: usize = 25;

/// A user-mode kernel to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uml {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The initramfs.
    pub initrd: Option<PathBuf>,
    /// Raw disk images, ubda first.
    pub disks: Vec<UmlDisk>,
    /// More words for the kernel command line.
    pub append: String,
}

/// A disk of a user-mode kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UmlDisk {
    /// The raw image.
    pub path: PathBuf,
    /// Whether it is write-protected.
    pub read_only: bool,
}

/// How a user-mode kernel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UmlExit {
    /// The guest turned itself off, halted or restarted: status 0.
    Off,
    /// The kernel panicked: abort.
    Panicked,
    /// It was killed from here, at the line that was waited for.
    Stopped,
    /// The program ended with this status, or 128 and a signal's number.
    Status(i32),
}

/// What a user-mode kernel did in its life.
#[derive(Debug, Clone)]
pub struct UmlOutcome {
    /// How it ended.
    pub exit: UmlExit,
    /// Wall time from start to end.
    pub wall: Duration,
    /// What it printed.
    pub lines: Vec<ConsoleLine>,
}

impl UmlOutcome {
    /// The first line that contains `text`.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<&ConsoleLine> {
        self.lines.iter().find(|line| line.text.contains(text))
    }

    /// The whole console, for messages of failed tests.
    #[must_use]
    pub fn text(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(|line| line.text.as_str()).collect();
        lines.join("\n")
    }
}

impl Uml {
    /// A kernel with 256 MiB and this initramfs.
    #[must_use]
    pub fn new(initrd: impl Into<PathBuf>) -> Self {
        Self {
            memory_mib: 256,
            initrd: Some(initrd.into()),
            disks: Vec::new(),
            append: String::new(),
        }
    }

    /// The release of the installed user-mode kernel, from its modules.
    ///
    /// # Errors
    /// [`Error::Io`] if the package is not installed.
    pub fn release() -> Result<String, Error> {
        let mut names: Vec<String> = fs::read_dir(MODULES)
            .map_err(Error::io(format!(
                "reading {MODULES} (Debian package user-mode-linux)"
            )))?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
            .pop()
            .ok_or_else(|| Error::Disk(format!("{MODULES} is empty")))
    }

    /// The program's arguments; `control` is the folder of its control socket.
    #[must_use]
    pub fn args(&self, control: &Path) -> Vec<OsString> {
        let with_path = |key: &str, path: &Path| {
            let mut word = OsString::from(key);
            word.push(path);
            word
        };
        let mut args: Vec<OsString> = vec![
            format!("mem={}M", self.memory_mib).into(),
            "con=null".into(),
            "con0=null,fd:1".into(),
            "printk.time=1".into(),
            with_path("uml_dir=", control),
            "umid=guest".into(),
        ];
        for (index, disk) in self.disks.iter().enumerate() {
            let flag = if disk.read_only { "r" } else { "" };
            args.push(with_path(&format!("ubd{index}{flag}="), &disk.path));
        }
        if let Some(initrd) = &self.initrd {
            args.push(with_path("initrd=", initrd));
        }
        args.extend(self.append.split_whitespace().map(OsString::from));
        args
    }

    /// Runs the kernel to its end, or kills it after `limit`.
    ///
    /// # Errors
    /// [`Error::TimedOut`] with the end of the console, [`Error::Io`].
    pub fn run(&self, limit: Duration) -> Result<UmlOutcome, Error> {
        self.run_until("the guest's end", limit, |_| false)
    }

    /// Runs the kernel until it ends or until a console line satisfies
    /// `predicate`; it is killed then. `what` names that line.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after `limit`, with the end of the console;
    /// [`Error::Io`].
    pub fn run_until(
        &self,
        what: &str,
        limit: Duration,
        predicate: impl FnMut(&ConsoleLine) -> bool,
    ) -> Result<UmlOutcome, Error> {
        let mut running = self.start()?;
        let exit = running.wait(what, limit, predicate)?;
        Ok(UmlOutcome {
            exit,
            wall: running.started.elapsed(),
            lines: std::mem::take(&mut running.lines),
        })
    }

    fn start(&self) -> Result<Running, Error> {
        let program = packages::find_program(PROGRAM).ok_or_else(|| Error::MissingPackages {
            packages: vec!["user-mode-linux".to_owned()],
            command: "apt-get install --no-install-recommends user-mode-linux".to_owned(),
        })?;
        let shm = Path::new("/dev/shm");
        let memory = if shm.is_dir() {
            shm.to_owned()
        } else {
            std::env::temp_dir()
        };
        let control = tempfile::Builder::new()
            .prefix("initoverlayfs-uml-")
            .tempdir()
            .map_err(Error::io("making a temporary folder"))?;
        // The kernel takes what lies between its data and its heap for memory, too
        // (arch/um/kernel/um_arch.c): where the heap begins at random, a guest may have
        // twice the memory that it was given.
        let mut child = Command::new("setarch")
            .arg("--addr-no-randomize")
            .arg(program)
            .args(self.args(control.path()))
            .env("TMPDIR", memory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // What the program says before its console is up.
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("starting {PROGRAM}")))?;
        let started = Instant::now();
        let (sender, console) = mpsc::channel();
        if let Some(mut stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut lines = LineBuffer::default();
                let mut buffer = [0; 8192];
                while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                    lines.push(buffer.get(..count).unwrap_or(&[]), |line| {
                        // Nobody listens any more: the guest is being killed.
                        let _ = sender.send(ConsoleLine::new(started.elapsed(), line));
                    });
                }
                lines.finish(|line| {
                    let _ = sender.send(ConsoleLine::new(started.elapsed(), line));
                });
            });
        }
        Ok(Running {
            child,
            console,
            started,
            lines: Vec::new(),
            _control: control,
        })
    }
}

fn exit_of(status: ExitStatus, lines: &[ConsoleLine]) -> UmlExit {
    match (status.code(), status.signal()) {
        (Some(0), _) => UmlExit::Off,
        // 134 where a shell or the kernel itself reports the abort.
        (Some(134), _) | (_, Some(6)) if was_done(lines) => UmlExit::Off,
        (Some(134), _) | (_, Some(6)) => UmlExit::Panicked,
        (Some(code), _) => UmlExit::Status(code),
        (None, signal) => UmlExit::Status(128 + signal.unwrap_or(0)),
    }
}

/// Whether the kernel had come to its end (kernel/reboot.c): once in some hundred boots
/// on a busy machine, the program aborts when it takes itself apart.
fn was_done(lines: &[ConsoleLine]) -> bool {
    let has = |text: &str| lines.iter().any(|line| line.text.contains(text));
    has("reboot: ") && !has("Kernel panic")
}

struct Running {
    child: Child,
    console: Receiver<ConsoleLine>,
    started: Instant,
    lines: Vec<ConsoleLine>,
    _control: tempfile::TempDir,
}

impl Running {
    fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        mut predicate: impl FnMut(&ConsoleLine) -> bool,
    ) -> Result<UmlExit, Error> {
        const TICK: Duration = Duration::from_millis(20);
        let deadline = self.started + limit;
        let status = loop {
            let status = self
                .child
                .try_wait()
                .map_err(Error::io(format!("waiting for {PROGRAM}")))?;
            if let Some(status) = status {
                break status;
            }
            match self.console.recv_timeout(TICK) {
                Ok(line) => {
                    let awaited = predicate(&line);
                    self.lines.push(line);
                    if awaited {
                        return Ok(UmlExit::Stopped);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The console is closed shortly before the end.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(TICK),
            }
            if Instant::now() >= deadline {
                return Err(Error::TimedOut {
                    what: what.to_owned(),
                    limit,
                    tail: self.tail(),
                });
            }
        };
        // Guests' processes may hold the console open a little longer.
        self.kill_group();
        while let Ok(line) = self.console.recv_timeout(Duration::from_millis(500)) {
            self.lines.push(line);
        }
        Ok(exit_of(status, &self.lines))
    }

    fn tail(&self) -> String {
        let skip = self.lines.len().saturating_sub(SHOWN_LINES);
        let lines: Vec<&str> = self
            .lines
            .iter()
            .skip(skip)
            .map(|line| line.text.as_str())
            .collect();
        lines.join("\n")
    }

    fn kill_group(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // There may be nobody left.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
        // Reaps; cannot fail for a child of ours.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_is_a_panic_unless_the_kernel_was_done() {
        let aborted = ExitStatus::from_raw(6);
        let exit = |texts: &[&str]| {
            let line = |text: &&str| ConsoleLine::new(Duration::ZERO, text.as_bytes());
            exit_of(aborted, &texts.iter().map(line).collect::<Vec<_>>())
        };
        assert_eq!(exit(&[]), UmlExit::Panicked);
        assert_eq!(exit(&["[ 1.0] reboot: Power down"]), UmlExit::Off);
        let both = ["Kernel panic - not syncing: x", "reboot: Power down"];
        assert_eq!(exit(&both), UmlExit::Panicked);
    }

    #[test]
    fn arguments_name_disks_and_initramfs() {
        let mut uml = Uml::new("/i");
        uml.disks = vec![
            UmlDisk {
                path: "/a".into(),
                read_only: false,
            },
            UmlDisk {
                path: "/b".into(),
                read_only: true,
            },
        ];
        uml.append = "quiet  x=y".to_owned();
        let args = uml.args(Path::new("/c"));
        for word in [
            "ubd0=/a",
            "ubd1r=/b",
            "initrd=/i",
            "quiet",
            "x=y",
            "mem=256M",
        ] {
            assert!(args.contains(&OsString::from(word)), "{word} in {args:?}");
        }
    }

    #[test]
    fn a_kernel_without_init_panics_and_leaves_nothing() {
        let mut uml = Uml::new("/dev/null");
        uml.initrd = None;
        let outcome = uml.run(Duration::from_secs(60)).unwrap();
        assert_eq!(outcome.exit, UmlExit::Panicked, "{}", outcome.text());
        assert!(outcome.find("Kernel panic").is_some(), "{}", outcome.text());
        assert!(outcome.find("Linux version").unwrap().kernel.is_some());
    }

    #[test]
    fn a_limit_ends_it() {
        let mut uml = Uml::new("/dev/null");
        uml.initrd = None;
        let start = Instant::now();
        let error = uml.run(Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
