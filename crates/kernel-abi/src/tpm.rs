//! A TPM's character device (kernel: drivers/char/tpm/tpm-dev-common.c).

use alloc::vec;
use alloc::vec::Vec;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::{Error, Result, clock, file};

/// The greatest response, in bytes (`TPM_BUFSIZE` in drivers/char/tpm/tpm.h).
const MAX_RESPONSE: usize = 4096;

/// Sends one command to the TPM at `path` (`/dev/tpm0`) and returns its response;
/// waits for it no longer than `timeout_us` microseconds.
///
/// # Errors
/// The kernel's: EBUSY while somebody else has it open; ETIMEDOUT.
pub fn exchange(path: &str, command: &[u8], timeout_us: u64) -> Result<Vec<u8>> {
    // Without O_NONBLOCK the write itself would wait, and without a limit.
    let device = file::open(path, OFlags::RDWR | OFlags::NONBLOCK)?;
    let error = |errno| Error::new("asking the TPM", path, errno);
    if rustix::io::write(&device, command).map_err(error)? != command.len() {
        return Err(error(Errno::IO));
    }
    let deadline = clock::micros().saturating_add(timeout_us);
    loop {
        let left = deadline.saturating_sub(clock::micros());
        let mut fds = [PollFd::new(&device, PollFlags::IN)];
        match poll(&mut fds, Some(&clock::timespec(left))) {
            Ok(0) if left == 0 => return Err(error(Errno::TIMEDOUT)),
            Ok(0) | Err(Errno::INTR) => {}
            Err(errno) => return Err(error(errno)),
            Ok(_) => break,
        }
    }
    let mut response = vec![0; MAX_RESPONSE];
    let len = rustix::io::read(&device, &mut *response).map_err(error)?;
    response.truncate(len);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_to_read_is_the_response() {
        // A FIFO that is open for both answers with what was written to it.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tpm0");
        let path = path.to_str().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).unwrap();
        assert_eq!(exchange(path, b"command", 1_000_000).unwrap(), b"command");
        let error = exchange("/no/such/tpm", b"command", 1).unwrap_err();
        assert_eq!(error.errno(), Errno::NOENT);
    }

    #[test]
    fn silence_has_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tpm0");
        let path = path.to_str().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).unwrap();
        let error = exchange(path, b"", 10_000).unwrap_err();
        assert_eq!(error.errno(), Errno::TIMEDOUT);
    }
}
