//! Child processes for parallel work, and the end of this one.

use alloc::ffi::CString;
use alloc::string::String;
use alloc::vec::Vec;
use core::ptr;

use linux_raw_sys::general::{__NR_clone, __NR_close_range, __NR_execve, __NR_exit_group, SIGCHLD};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::arch::syscall5;
use crate::error::on_path;
use crate::{Error, Result, clock, file};

/// A started child.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    /// Becomes readable when the child ends, so that waiting can have a limit.
    pidfd: OwnedFd,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status, 0 to 255.
    Exited(u8),
    /// A signal ended it.
    Signalled,
}

/// Runs `work` in a child process; its result is the child's exit status.
///
/// A fork (clone(2) with no flags but SIGCHLD), not a thread: no shared memory,
/// no locks, no stack to set up, and a child that crashes takes nothing along.
/// The calling process must have one thread; PID 1's start code makes no others.
///
/// # Errors
/// ENOMEM or EAGAIN when the kernel has no room for a process.
#[allow(
    unsafe_code,
    reason = "rustix offers fork only as a libc's building block"
)]
pub fn fork(work: impl FnOnce() -> u8) -> Result<Child> {
    let error = |errno| Error::new("starting", "a worker process", errno);
    // SAFETY: no pointers are passed. The child gets a copy of this address
    // space and of this thread, the only one, so no lock or invariant of another
    // thread can be left half-changed in it; it never returns from this function.
    let result = unsafe { syscall5(__NR_clone, [SIGCHLD as usize, 0, 0, 0, 0]) };
    if result == 0 {
        let status = work();
        exit(status);
    }
    let pid = i32::try_from(result)
        .ok()
        .filter(|&pid| pid > 0)
        .and_then(Pid::from_raw)
        .ok_or_else(|| error(raw_errno(result)))?;
    // Cannot race with the child's end: it stays a zombie until waited for.
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Child { pid, pidfd }),
        Err(errno) => {
            // A child that nobody can wait for.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            Err(error(errno))
        }
    }
}

/// As [`fork`], but the child begins with `work` only when this process executes
/// another program or ends. It gives up, with status 1, if that takes longer than
/// `timeout_us` microseconds.
///
/// # Errors
/// As [`fork`]; EMFILE when there are no descriptors left.
pub fn fork_until_exec(timeout_us: u64, work: impl FnOnce() -> u8) -> Result<Child> {
    // Nobody writes into it: the last copy of its end for writing goes with exec.
    let (end, held) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|errno| Error::new("making", "a pipe", errno))?;
    let held = held.into_raw_fd();
    let child = fork(|| {
        // The child's own copy would keep it waiting.
        close(held);
        match wait(&[], Some(end.as_fd()), timeout_us) {
            Woken::Readable => work(),
            Woken::Timeout | Woken::Ended(..) => 1,
        }
    });
    if child.is_err() {
        close(held);
    }
    child
}

/// What [`wait`] was woken by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The child of this index has ended; it is done with.
    Ended(usize, Ended),
    /// There is something to read.
    Readable,
    /// Nothing happened in time.
    Timeout,
}

/// Waits for at most `timeout_us` microseconds until one of `children` ends or
/// `input` can be read. A child's end goes first.
#[must_use]
pub fn wait(children: &[Child], input: Option<BorrowedFd<'_>>, timeout_us: u64) -> Woken {
    let deadline = clock::micros().saturating_add(timeout_us);
    let mut fds: Vec<PollFd<'_>> = children
        .iter()
        .map(|child| PollFd::new(&child.pidfd, PollFlags::IN))
        .collect();
    fds.extend(input.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    loop {
        let left = deadline.saturating_sub(clock::micros());
        match poll(&mut fds, Some(&clock::timespec(left))) {
            Ok(0) => return Woken::Timeout,
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(_) => return Woken::Timeout,
        }
    }
    let Some((index, child)) = fds
        .iter()
        .position(|fd| !fd.revents().is_empty())
        .and_then(|index| Some((index, children.get(index)?)))
    else {
        return Woken::Readable;
    };
    let status = rustix::process::waitpid(Some(child.pid), WaitOptions::empty())
        .ok()
        .flatten()
        .and_then(|(_, status)| status.exit_status());
    let ended = match status {
        Some(code) => Ended::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        None => Ended::Signalled,
    };
    Woken::Ended(index, ended)
}

/// Ends this process.
#[allow(
    unsafe_code,
    reason = "rustix offers exit only as a libc's building block"
)]
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: exit_group(2) takes a number and does not return.
        unsafe { syscall5(__NR_exit_group, [usize::from(status), 0, 0, 0, 0]) };
    }
}

/// Replaces this process by `path`.
///
/// # Errors
/// Returns only if the kernel refuses; the error is why.
#[allow(
    unsafe_code,
    reason = "rustix offers execve only as a libc's building block"
)]
pub fn exec(path: &CString, args: &[CString], env: &[CString]) -> Error {
    let pointers = |strings: &[CString]| -> Vec<*const core::ffi::c_char> {
        strings
            .iter()
            .map(|text| text.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let argv = pointers(args);
    let envp = pointers(env);
    // SAFETY: the path is NUL-terminated; both arrays end in a null pointer and
    // point at NUL-terminated strings that outlive the call.
    let result = unsafe {
        syscall5(
            __NR_execve,
            [
                path.as_ptr().addr(),
                argv.as_ptr().addr(),
                envp.as_ptr().addr(),
                0,
                0,
            ],
        )
    };
    Error::new("executing", &path.to_string_lossy(), raw_errno(result))
}

/// Gives the standard streams something to stand on where they are closed, as
/// they are for PID 1 of a kernel without a console: `/dev/console` if it opens,
/// else `/dev/null`. Without it, the next file that is opened would become
/// standard output.
///
/// # Errors
/// The kernel's, if not even `/dev/null` opens.
pub fn ensure_standard_streams() -> Result<()> {
    loop {
        // The kernel hands out the lowest free number.
        let fd =
            file::open_inherited("/dev/console").or_else(|_| file::open_inherited("/dev/null"))?;
        let number = fd.into_raw_fd();
        if number > 2 {
            close(number);
            return Ok(());
        }
    }
}

#[allow(
    unsafe_code,
    reason = "closes a number that was just taken out of its owner"
)]
fn close(number: i32) {
    use rustix::fd::FromRawFd;
    // SAFETY: the caller got the number from `into_raw_fd` and gives it up here.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
}

/// Makes `path` this process's standard streams.
///
/// # Errors
/// The kernel's; the streams are then as they were.
pub fn use_console(path: &str) -> Result<()> {
    let error = |errno| Error::new("changing to console", path, errno);
    let console = file::open_inherited(path)?;
    rustix::stdio::dup2_stdin(&console).map_err(error)?;
    rustix::stdio::dup2_stdout(&console).map_err(error)?;
    rustix::stdio::dup2_stderr(&console).map_err(error)?;
    let number = console.into_raw_fd();
    if number > 2 {
        close(number);
    }
    Ok(())
}

/// Writes to standard error; nobody can be told if that fails.
#[allow(unsafe_code, reason = "borrows a stream that may be closed")]
pub fn write_error(text: &str) {
    // SAFETY: the descriptor is borrowed for one write; if it is closed, the
    // kernel answers EBADF.
    let stderr = unsafe { rustix::fd::BorrowedFd::borrow_raw(2) };
    let _ = rustix::io::write(stderr, text.as_bytes());
}

/// Has systemd spare this process when it ends all others, before the root changes
/// and at shutdown: it leaves those whose command line begins with `@`
/// (systemd.io/ROOT_STORAGE_DAEMONS). For children of [`fork`] with an end of their
/// own; their arguments are changed by that.
///
/// # Errors
/// The kernel's, ENODATA if /proc/self/stat does not say where the arguments are.
#[allow(unsafe_code, reason = "the arguments are the kernel's to place")]
pub fn be_spared() -> Result<()> {
    const STAT: &str = "/proc/self/stat";
    let stat = file::read_line(STAT)?;
    let arguments = arguments(&stat).ok_or_else(|| Error::new("reading", STAT, Errno::NODATA))?;
    // SAFETY: that is where the kernel put this program's first argument, on the
    // writable stack; it is at least the NUL that ends it. This process has one thread
    // and a copy of its parent's memory, and nobody holds a reference there.
    unsafe { ptr::with_exposed_provenance_mut::<u8>(arguments).write_volatile(b'@') };
    Ok(())
}

/// `arg_start` of proc_pid_stat(5), the 48th field. The second, a name in parentheses,
/// may have any character in it.
fn arguments(stat: &str) -> Option<usize> {
    let name = stat.bytes().rposition(|byte| byte == b')')?;
    let mut fields = stat.get(name + 1..)?.split_ascii_whitespace();
    let start = fields.nth(48 - 3)?.parse().ok()?;
    (start != 0).then_some(start)
}

/// Closes what this process has inherited beyond its standard streams, but for `kept`:
/// for a child of [`fork`] that outlives its parent's work.
#[allow(unsafe_code, reason = "closes numbers that others own")]
pub fn keep_only(kept: &[BorrowedFd<'_>]) {
    let mut numbers: Vec<u32> = kept
        .iter()
        .filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok())
        .collect();
    iofs_source::sort_compactly(&mut numbers, |a, b| a < b);
    let mut from = 3;
    for end in numbers.into_iter().chain([u32::MAX]) {
        if from < end {
            let args = [from as usize, (end - 1) as usize, 0, 0, 0];
            // SAFETY: close_range(2) takes numbers. Their owners are values of the
            // parent's that this child has copies of, and never gets back to.
            unsafe { syscall5(__NR_close_range, args) };
        }
        from = from.max(end.saturating_add(1));
    }
}

/// Checks that `path` is a file that this process may execute.
///
/// # Errors
/// The kernel's; EACCES if it is not executable.
pub fn check_executable(path: &str) -> Result<()> {
    on_path("executing", path, |path| {
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK)
    })
}

/// Whether this is the init process.
#[must_use]
pub fn is_init() -> bool {
    rustix::process::getpid() == Pid::INIT
}

/// Sleeps for `micros` microseconds: for showing a report before a restart,
/// never for waiting on hardware.
pub fn sleep(micros: u64) {
    let deadline = clock::micros().saturating_add(micros);
    loop {
        let left = deadline.saturating_sub(clock::micros());
        if left == 0 || poll(&mut [], Some(&clock::timespec(left))) == Ok(0) {
            return;
        }
    }
}

/// The kernel's release, as `uname -r` prints it.
#[must_use]
pub fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// The number of CPUs that this process may run on, at least 1.
#[must_use]
pub fn cpus() -> usize {
    rustix::thread::sched_getaffinity(None).map_or(1, |set| (set.count() as usize).max(1))
}

pub(crate) fn raw_errno(result: isize) -> Errno {
    i32::try_from(result.unsigned_abs())
        .ok()
        .filter(|errno| (1..4096).contains(errno))
        .map_or(Errno::INVAL, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    // cargo runs tests in threads; these children only exit, so that is sound.

    fn assert_good_end(child: Child) {
        assert_eq!(
            wait(&[child], None, 10_000_000),
            Woken::Ended(0, Ended::Exited(0))
        );
    }

    #[test]
    fn children_report_their_status() {
        let children = std::vec![fork(|| 42).unwrap(), fork(|| 42).unwrap()];
        let Woken::Ended(_, ended) = wait(&children, None, 10_000_000) else {
            panic!("no child ended");
        };
        assert_eq!(ended, Ended::Exited(42));
    }

    #[test]
    fn waiting_for_a_child_has_a_limit() {
        let child = fork(|| {
            sleep(300_000);
            0
        })
        .unwrap();
        let children = [child];
        assert_eq!(wait(&children, None, 20_000), Woken::Timeout);
        assert_eq!(
            wait(&children, None, 10_000_000),
            Woken::Ended(0, Ended::Exited(0))
        );
    }

    #[test]
    fn input_wakes_too() {
        let (reader, writer) = std::io::pipe().unwrap();
        let child = fork(|| {
            sleep(10_000_000);
            0
        })
        .unwrap();
        let children = [child];
        assert_eq!(wait(&children, Some(reader.as_fd()), 1000), Woken::Timeout);
        std::io::Write::write_all(&mut &writer, b"x").unwrap();
        assert_eq!(
            wait(&children, Some(reader.as_fd()), 10_000_000),
            Woken::Readable
        );
        rustix::process::kill_process(children[0].pid, rustix::process::Signal::KILL).unwrap();
        assert_eq!(
            wait(&children, None, 10_000_000),
            Woken::Ended(0, Ended::Signalled)
        );
    }

    #[test]
    fn a_child_waits_for_exec() {
        // A middle process, so that there is one to execute something.
        let (reader, writer) = std::io::pipe().unwrap();
        let middle = fork(|| {
            let child = fork_until_exec(10_000_000, || {
                u8::from(std::io::Write::write_all(&mut &writer, b"x").is_err())
            });
            let early = rustix::event::poll(
                &mut [PollFd::new(&reader, PollFlags::IN)],
                Some(&clock::timespec(20_000)),
            );
            if child.is_err() || early != Ok(0) {
                return 9;
            }
            let path = CString::new("/bin/true").unwrap();
            exec(&path, std::slice::from_ref(&path), &[]);
            8
        })
        .unwrap();
        assert_good_end(middle);
        assert_eq!(wait(&[], Some(reader.as_fd()), 10_000_000), Woken::Readable);
        let late = [fork_until_exec(20_000, || 0).unwrap()];
        assert_eq!(
            wait(&late, None, 10_000_000),
            Woken::Ended(0, Ended::Exited(1))
        );
    }

    /// Runs a test whose child does more than exit in a process of one thread; false in
    /// the process that is not.
    fn is_alone(test: &str) -> bool {
        const ALONE: &str = "KERNEL_ABI_TEST_ALONE";
        if std::env::var_os(ALONE).is_some() {
            return true;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([&std::format!("process::tests::{test}"), "--exact"])
            .args(["--test-threads=1", "--nocapture"])
            .env(ALONE, "yes")
            .output()
            .unwrap();
        let text = std::string::String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
        false
    }

    #[test]
    fn a_spared_process_has_a_name_for_it() {
        if !is_alone("a_spared_process_has_a_name_for_it") {
            return;
        }
        let child = fork(|| {
            let mut name = std::fs::read("/proc/self/cmdline").unwrap_or_default();
            let spared = be_spared();
            let after = std::fs::read("/proc/self/cmdline").unwrap_or_default();
            let before = core::mem::replace(&mut name[0], b'@');
            u8::from(before == b'@' || spared.is_err() || after != name)
        });
        assert_good_end(child.unwrap());
    }

    #[test]
    fn arguments_are_found_behind_any_name() {
        let fields = |name: &str, last: u32| {
            let numbers: String = (4..48).map(|field| std::format!("{field} ")).collect();
            std::format!("7 ({name}) S {numbers}{last} 49")
        };
        assert_eq!(arguments(&fields("init", 4096)), Some(4096));
        assert_eq!(arguments(&fields("a) S (b", 4096)), Some(4096));
        assert_eq!(arguments(&fields("init", 0)), None);
        assert_eq!(arguments("7 (init) S 1 2 3"), None);
        assert_eq!(arguments(""), None);
    }

    #[test]
    fn a_child_keeps_what_it_is_told() {
        if !is_alone("a_child_keeps_what_it_is_told") {
            return;
        }
        let files: Vec<_> = (0..6).map(|_| tempfile::tempfile().unwrap()).collect();
        let child = fork(|| {
            keep_only(&[files[4].as_fd(), files[1].as_fd(), files[4].as_fd()]);
            let open = |at: usize| rustix::fs::fstat(&files[at]).is_ok();
            let right = [0, 1, 2, 3, 4, 5].map(open) == [false, true, false, false, true, false];
            u8::from(!right)
        });
        assert_good_end(child.unwrap());
    }

    #[test]
    fn exec_names_what_is_missing() {
        let path = CString::new("/no/such/init").unwrap();
        let error = exec(&path, std::slice::from_ref(&path), &[]);
        assert_eq!(error.errno(), Errno::NOENT);
        assert_eq!(error.on(), "/no/such/init");
    }
}
