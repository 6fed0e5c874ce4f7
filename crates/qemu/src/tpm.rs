//! A TPM 2.0 for a machine: swtpm, started and ended with it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// How long swtpm may take to open its socket. It takes some 50 ms.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long swtpm may take to end by itself once QEMU has.
const END_LIMIT: Duration = Duration::from_secs(2);

/// How the guest talks to its TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmInterface {
    /// Command Response Buffer: what firmware TPMs have.
    Crb,
    /// TPM Interface Specification: what discrete chips have.
    Tis,
}

/// A machine's TPM 2.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tpm {
    /// How the guest talks to it. Arm's virt machine has TIS only.
    pub interface: TpmInterface,
    /// The folder that keeps what a TPM keeps without power: seeds, keys,
    /// counters, never PCRs. Made if it is not there. `None` is a new TPM,
    /// forgotten with the machine.
    pub state: Option<PathBuf>,
    /// Where swtpm listens. `None` leaves it to [`crate::Vm::start`], which
    /// then starts swtpm; a path is that of one which runs already.
    pub socket: Option<PathBuf>,
}

impl Tpm {
    /// A new TPM on a CRB, forgotten with the machine.
    #[must_use]
    pub fn new() -> Self {
        Self {
            interface: TpmInterface::Crb,
            state: None,
            socket: None,
        }
    }
}

impl Default for Tpm {
    fn default() -> Self {
        Self::new()
    }
}

/// A running swtpm. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Swtpm {
    child: Child,
}

impl Swtpm {
    /// Starts swtpm with its state in the folder `state`, listening at `socket`.
    ///
    /// # Errors
    /// [`Error::MissingProgram`], [`Error::Tpm`] if it does not come up,
    /// [`Error::Io`].
    pub(crate) fn start(state: &Path, socket: &Path) -> Result<Self, Error> {
        let arguments = args(&absolute(state)?, &absolute(socket)?)?;
        fs::create_dir_all(state).map_err(Error::io(format!("making {}", state.display())))?;
        let child = Command::new("swtpm")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => Error::MissingProgram {
                    program: "swtpm".to_owned(),
                    package: "swtpm",
                },
                _ => Error::Io {
                    what: "starting swtpm".to_owned(),
                    source,
                },
            })?;
        let mut swtpm = Self { child };
        swtpm.wait_for(socket)?;
        Ok(swtpm)
    }

    fn wait_for(&mut self, socket: &Path) -> Result<(), Error> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let ended = self
                .child
                .try_wait()
                .map_err(Error::io("asking for swtpm's state"))?;
            if let Some(status) = ended {
                let mut text = String::new();
                if let Some(stderr) = self.child.stderr.take() {
                    // The status says enough if the text cannot be read.
                    let _ = stderr.take(4096).read_to_string(&mut text);
                }
                return Err(Error::Tpm {
                    reason: format!("it ended ({status}): {}", text.trim()),
                });
            }
            if socket.exists() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::Tpm {
                    reason: format!("it did not open {}", socket.display()),
                });
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its process id, for tests.
    #[cfg(test)]
    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Swtpm {
    /// It ends by itself when QEMU has gone (`--terminate`), its state written.
    fn drop(&mut self) {
        let deadline = Instant::now() + END_LIMIT;
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
}

/// swtpm's arguments. No power-on and no startup is asked for here: QEMU asks
/// for the one at each reset, firmware or the guest's kernel for the other.
fn args(state: &Path, socket: &Path) -> Result<Vec<OsString>, Error> {
    Ok(vec![
        "socket".into(),
        "--tpm2".into(),
        "--tpmstate".into(),
        option("dir=", state)?,
        "--ctrl".into(),
        option("type=unixio,path=", socket)?,
        "--terminate".into(),
    ])
}

fn option(prefix: &str, path: &Path) -> Result<OsString, Error> {
    // swtpm's option parser knows no escape.
    if path.as_os_str().as_bytes().contains(&b',') {
        return Err(Error::Tpm {
            reason: format!("it cannot take a path with a comma: {}", path.display()),
        });
    }
    let mut option = OsString::from(prefix);
    option.push(path);
    Ok(option)
}

/// swtpm changes its folder, so that a relative path would be another.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(Error::io(format!("resolving {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_absolute_paths_without_commas() {
        let strings: Vec<String> = args(Path::new("/s"), Path::new("/r/tpm"))
            .unwrap()
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect();
        assert_eq!(
            strings.join(" "),
            "socket --tpm2 --tpmstate dir=/s --ctrl type=unixio,path=/r/tpm --terminate"
        );
        assert!(args(Path::new("/a,b"), Path::new("/r")).is_err());
        assert!(absolute(Path::new("state")).unwrap().is_absolute());
    }

    #[test]
    fn it_ends_with_its_owner_and_says_why_it_cannot_start() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("tpm");
        let swtpm = Swtpm::start(&dir.path().join("state"), &socket).unwrap();
        let process = format!("/proc/{}", swtpm.pid());
        assert!(Path::new(&process).exists());
        drop(swtpm);
        assert!(!Path::new(&process).exists());

        // Longer than a socket's name may be.
        let long = dir.path().join("x".repeat(120));
        let error = Swtpm::start(&dir.path().join("state"), &long)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("swtpm: it ended"), "{error}");
    }
}
