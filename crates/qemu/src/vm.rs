//! A running machine.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::streams::{read_console, read_stderr};
use crate::tpm::Swtpm;
use crate::{Answer, BlockStats, ConsoleLine, Disk, Error, Machine, Qmp, QmpEvent, Stdin};

/// How many console lines are kept for error messages and for the outcome.
const KEPT_LINES: usize = 100_000;

/// How many of the last lines an error shows.
const SHOWN_LINES: usize = 25;

/// How long QEMU may take to open its control socket.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How often a wait looks at QEMU itself while the console is silent.
const TICK: Duration = Duration::from_millis(50);

/// What else to do with a machine while it runs.
#[derive(Default)]
pub struct RunOptions {
    /// Gets the console's bytes as they come, escapes included.
    pub tee: Option<Box<dyn Write + Send>>,
    /// What the serial line reads.
    pub stdin: Stdin,
    /// What is typed on the serial line, in this order. If there is anything, it
    /// reads nothing else.
    pub answers: Vec<Answer>,
    /// Whether to count the pages of memory that were touched.
    pub count_memory: bool,
    /// A limit on the machine's whole life; `None` is ten minutes.
    pub limit: Option<Duration>,
}

impl std::fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunOptions")
            .field("tee", &self.tee.is_some())
            .field("stdin", &self.stdin)
            .field("answers", &self.answers)
            .field("count_memory", &self.count_memory)
            .field("limit", &self.limit)
            .finish()
    }
}

/// Why a machine stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest turned itself off.
    PowerOff,
    /// The guest restarted itself: on purpose, or after a panic with `panic=`.
    Reset,
    /// The guest's kernel reported a panic to a pvpanic device.
    Panicked,
    /// It was stopped from here, by [`Vm::stop`].
    Stopped,
}

/// What a machine did in its life.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Why it stopped.
    pub exit: Exit,
    /// Wall time from start to end.
    pub wall: Duration,
    /// What it printed (the last hundred thousand lines).
    pub lines: Vec<ConsoleLine>,
    /// What its disks read.
    pub disks: Vec<BlockStats>,
    /// Bytes of memory that were ever touched by guest, firmware or loader, if
    /// [`RunOptions::count_memory`] was set.
    pub touched_bytes: Option<u64>,
}

impl Outcome {
    /// The first line that contains `text`.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<&ConsoleLine> {
        self.lines.iter().find(|line| line.text.contains(text))
    }

    /// The guest's clock at the first kernel message that contains `text`.
    #[must_use]
    pub fn time_of(&self, text: &str) -> Option<Duration> {
        self.lines
            .iter()
            .filter_map(|line| line.kernel.as_ref())
            .find(|(_, message)| message.contains(text))
            .map(|(time, _)| *time)
    }
}

/// A running machine. Dropping it kills it.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    qmp: Option<Qmp>,
    console: Receiver<ConsoleLine>,
    lines: VecDeque<ConsoleLine>,
    stderr: Arc<Mutex<Vec<u8>>>,
    started: Instant,
    deadline: Instant,
    ended: Option<Exit>,
    memory_file: Option<PathBuf>,
    /// How many disks were plugged in.
    plugged: usize,
    // The TPM ends after QEMU has (fields drop in this order), the files last.
    _tpm: Option<Swtpm>,
    _files: Vec<tempfile::TempDir>,
}

/// What ended a look at the console.
enum Pumped {
    Line(ConsoleLine),
    Over,
    Late,
}

impl Vm {
    /// Starts `machine`. Its control socket, its memory file and its TPM are
    /// made here if it does not name them.
    ///
    /// # Errors
    /// [`Error::MissingProgram`], [`Error::Tpm`], [`Error::Died`] if QEMU refuses the machine
    /// (with what it says), [`Error::Io`].
    pub fn start(machine: &Machine, options: RunOptions) -> Result<Self, Error> {
        let started = Instant::now();
        let mut machine = machine.clone();
        let mut files = Vec::new();
        let socket = match &machine.qmp_socket {
            Some(socket) => socket.clone(),
            None => {
                let dir = temp_dir(&std::env::temp_dir())?;
                let socket = dir.path().join("qmp");
                files.push(dir);
                machine.qmp_socket = Some(socket.clone());
                socket
            }
        };
        if options.count_memory && machine.memory_file.is_none() {
            let dir = temp_dir(&memory_folder())?;
            let path = dir.path().join("memory");
            let what = format!("making {}", path.display());
            let size = u64::from(machine.memory_mib) << 20;
            File::create(&path)
                .and_then(|file| file.set_len(size))
                .map_err(Error::io(what))?;
            files.push(dir);
            machine.memory_file = Some(path);
        }
        let tpm = start_tpm(&mut machine, &mut files)?;
        let stdin = match (options.answers.is_empty(), options.stdin) {
            (false, _) => Stdio::piped(),
            (true, Stdin::Null) => Stdio::null(),
            (true, Stdin::Inherit) => Stdio::inherit(),
        };
        let mut child = spawn(&machine, stdin)?;
        let console = read_console(&mut child, started, options.tee, options.answers);
        let stderr = read_stderr(&mut child);
        let limit = options.limit.unwrap_or(Duration::from_secs(600));
        let mut vm = Self {
            child,
            qmp: None,
            console,
            lines: VecDeque::new(),
            stderr,
            started,
            deadline: started + limit,
            ended: None,
            memory_file: machine.memory_file,
            plugged: 0,
            _tpm: tpm,
            _files: files,
        };
        vm.connect(&socket)?;
        Ok(vm)
    }

    /// Waits until a console line satisfies `predicate`, looking also at those
    /// that came before and were not yet waited for.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after `limit` (`what` names what was waited for; the
    /// machine is left running), [`Error::Ended`] if the guest stops first,
    /// [`Error::Died`] if QEMU does.
    pub fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        predicate: impl FnMut(&ConsoleLine) -> bool,
    ) -> Result<ConsoleLine, Error> {
        match self.pump(limit, predicate)? {
            Pumped::Line(line) => Ok(line),
            Pumped::Over => Err(Error::Ended {
                what: what.to_owned(),
                tail: self.tail(),
            }),
            Pumped::Late => Err(self.late(what, limit)),
        }
    }

    /// Reads the console until a line satisfies `predicate`, the guest has
    /// ended and all that it printed is read, or `limit` is over.
    fn pump(
        &mut self,
        limit: Duration,
        mut predicate: impl FnMut(&ConsoleLine) -> bool,
    ) -> Result<Pumped, Error> {
        let deadline = self.deadline.min(Instant::now() + limit);
        loop {
            // Asked before the console is drained, so that no line that came
            // before the end is missed.
            let over = self.is_over()?;
            while let Some(line) = self.next_line(TICK) {
                if predicate(&line) {
                    return Ok(Pumped::Line(line));
                }
                if Instant::now() >= deadline {
                    return Ok(Pumped::Late);
                }
            }
            if over {
                return Ok(Pumped::Over);
            }
            if Instant::now() >= deadline {
                return Ok(Pumped::Late);
            }
        }
    }

    fn late(&self, what: &str, limit: Duration) -> Error {
        Error::TimedOut {
            what: what.to_owned(),
            limit,
            tail: self.tail(),
        }
    }

    /// Waits for the guest's end, reads what is measured, ends QEMU.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after `limit` (the machine is killed),
    /// [`Error::Died`], [`Error::Qmp`].
    pub fn finish(mut self, limit: Duration) -> Result<Outcome, Error> {
        match self.pump(limit, |_| false)? {
            Pumped::Over | Pumped::Line(_) => self.conclude(),
            Pumped::Late => Err(self.late("the guest's end", limit)),
        }
    }

    /// Ends the machine now and reads what is measured.
    ///
    /// # Errors
    /// [`Error::Died`], [`Error::Qmp`].
    pub fn stop(mut self) -> Result<Outcome, Error> {
        if !self.is_over()? {
            self.qmp()?.execute("stop")?;
            self.ended = Some(Exit::Stopped);
        }
        self.conclude()
    }

    /// Attaches `disk` to the controller [`Machine::sockets`]`[socket]`, which
    /// must be of its bus, and returns the time since the start when it was in.
    ///
    /// # Errors
    /// [`Error::Qmp`] with what QEMU has against it.
    pub fn plug(&mut self, socket: usize, disk: &Disk) -> Result<Duration, Error> {
        let number = self.plugged;
        self.plugged += 1;
        let (drive, commands) = disk.plug(socket, number);
        // Not blockdev-add: it knows no writes that are thrown away.
        let drive = quote(&drive.to_string_lossy());
        self.monitor(&format!("drive_add dummy {drive}"), "OK")?;
        for command in commands {
            self.monitor(&command, "")?;
        }
        Ok(self.started.elapsed())
    }

    fn monitor(&mut self, line: &str, wanted: &str) -> Result<(), Error> {
        let answer = self.qmp()?.monitor(line)?;
        if answer == wanted {
            return Ok(());
        }
        Err(Error::Qmp {
            command: line.to_owned(),
            reason: answer,
        })
    }

    /// What each disk has read so far.
    ///
    /// # Errors
    /// [`Error::Qmp`] if QEMU does not answer.
    pub fn block_stats(&mut self) -> Result<Vec<BlockStats>, Error> {
        self.qmp()?.block_stats()
    }

    /// Bytes of memory touched so far: the memory file's blocks. On tmpfs a
    /// page that was only read counts too. `None` without a memory file.
    #[must_use]
    pub fn touched_bytes(&self) -> Option<u64> {
        let path = self.memory_file.as_ref()?;
        // st_blocks counts 512 bytes each, whatever the file system's unit.
        fs::metadata(path).ok().map(|meta| meta.blocks() * 512)
    }

    /// The process id of QEMU, for tests.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn connect(&mut self, socket: &Path) -> Result<(), Error> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.exited()? {
                return Err(self.died(status));
            }
            match Qmp::connect(socket) {
                Ok(qmp) => {
                    self.qmp = Some(qmp);
                    return Ok(());
                }
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn qmp(&mut self) -> Result<&mut Qmp, Error> {
        self.qmp.as_mut().ok_or_else(|| Error::Qmp {
            command: "connect".to_owned(),
            reason: "there is no connection".to_owned(),
        })
    }

    /// Whether the guest has ended (QEMU itself still runs then).
    fn is_over(&mut self) -> Result<bool, Error> {
        if let Some(qmp) = &mut self.qmp {
            for event in qmp.events() {
                if let Some(exit) = exit_of(&event) {
                    self.ended.get_or_insert(exit);
                }
            }
        }
        if self.ended.is_none() {
            if let Some(status) = self.exited()? {
                return Err(self.died(status));
            }
        }
        Ok(self.ended.is_some())
    }

    fn conclude(mut self) -> Result<Outcome, Error> {
        let disks = self.block_stats()?;
        let touched_bytes = self.touched_bytes();
        // The answer may be lost when QEMU is quicker; the exit tells.
        let _ = self.qmp()?.execute("quit");
        self.reap(Duration::from_secs(10));
        self.drain(Duration::from_secs(1));
        Ok(Outcome {
            exit: self.ended.take().unwrap_or(Exit::Stopped),
            wall: self.started.elapsed(),
            lines: std::mem::take(&mut self.lines).into(),
            disks,
            touched_bytes,
        })
    }

    /// Waits for QEMU's own end, kills it when it takes too long.
    fn reap(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        // Neither can fail for a child of ours that was not yet reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn next_line(&mut self, wait: Duration) -> Option<ConsoleLine> {
        match self.console.recv_timeout(wait) {
            Ok(line) => {
                self.keep(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => {
                // Do not spin while QEMU is on its way out.
                thread::sleep(wait);
                None
            }
            Err(RecvTimeoutError::Timeout) => None,
        }
    }

    /// Takes what the reader has not yet delivered, until its stream ends.
    fn drain(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            match self.console.recv_timeout(TICK) {
                Ok(line) => self.keep(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn keep(&mut self, line: ConsoleLine) {
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child
            .try_wait()
            .map_err(Error::io("asking for QEMU's state"))
    }

    fn died(&self, status: ExitStatus) -> Error {
        // The reader of the error output ends with the process, nearly.
        thread::sleep(TICK);
        let bytes = self.stderr.lock().map(|b| b.clone()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        Error::Died {
            status: match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => status.to_string(),
            },
            stderr: if text.is_empty() {
                "it said nothing".to_owned()
            } else {
                text
            },
        }
    }

    fn tail(&self) -> String {
        let skip = self.lines.len().saturating_sub(SHOWN_LINES);
        let tail: Vec<&str> = self
            .lines
            .iter()
            .skip(skip)
            .map(|line| line.text.as_str())
            .collect();
        tail.join("\n")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.reap(Duration::ZERO);
    }
}

/// A word of the human monitor, which may hold spaces.
fn quote(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

fn exit_of(event: &QmpEvent) -> Option<Exit> {
    match (event.name.as_str(), event.reason.as_deref()) {
        ("SHUTDOWN", Some("guest-reset")) => Some(Exit::Reset),
        ("SHUTDOWN", Some("guest-panic")) | ("GUEST_PANICKED", _) => Some(Exit::Panicked),
        ("SHUTDOWN", _) => Some(Exit::PowerOff),
        _ => None,
    }
}

/// Starts swtpm if the machine wants a TPM and names none that runs.
fn start_tpm(
    machine: &mut Machine,
    files: &mut Vec<tempfile::TempDir>,
) -> Result<Option<Swtpm>, Error> {
    let Some(tpm) = &mut machine.tpm else {
        return Ok(None);
    };
    if tpm.socket.is_some() {
        return Ok(None);
    }
    let dir = temp_dir(&std::env::temp_dir())?;
    let socket = dir.path().join("tpm");
    let state = match &tpm.state {
        Some(state) => state.clone(),
        None => dir.path().join("tpm-state"),
    };
    let swtpm = Swtpm::start(&state, &socket)?;
    tpm.socket = Some(socket);
    files.push(dir);
    Ok(Some(swtpm))
}

fn temp_dir(parent: &Path) -> Result<tempfile::TempDir, Error> {
    tempfile::Builder::new()
        .prefix("initoverlayfs-vm-")
        .tempdir_in(parent)
        .map_err(Error::io(format!(
            "making a temporary folder in {}",
            parent.display()
        )))
}

/// Where a memory file is made: in RAM, where its blocks are exactly the pages
/// touched and cost no writes; on disk where there is no /dev/shm.
fn memory_folder() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        shm.to_owned()
    } else {
        std::env::temp_dir()
    }
}

fn spawn(machine: &Machine, stdin: Stdio) -> Result<Child, Error> {
    let program = machine.arch.program();
    Command::new(program)
        .args(machine.args())
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::MissingProgram {
                program: program.to_owned(),
                package: machine.arch.package(),
            },
            _ => Error::Io {
                what: format!("starting {program}"),
                source,
            },
        })
}
