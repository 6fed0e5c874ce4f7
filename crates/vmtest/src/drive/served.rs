//! A file behind a drive's model, as a disk of a user-mode kernel.
//!
//! The model answers the NBD protocol on a socket; qemu-storage-daemon turns
//! that into vhost-user, which user-mode-linux takes as a virtio-blk disk
//! (`virtio_uml.device=`). Requests arrive as the guest's block layer made them,
//! and as many at once. ubd would cut them into pages and wait for each; a FUSE
//! file system below it would need root.
//!
//! The way (two sockets, switches of process) costs about 70 µs a request by
//! itself. Most of that is taken off the model's latency: replies leave
//! [`TRANSPORT`] before the model says.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Drive, Model, Read};
use crate::{Error, packages};

/// What of a request's cost on its way is taken off the model's latency; less than
/// it costs on a quiet machine, so that no drive is faster than its model.
pub const TRANSPORT: Duration = Duration::from_micros(50);

/// The program between NBD and vhost-user.
const DAEMON: &str = "qemu-storage-daemon";

/// How long that program may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// From here on, a wait is spent looking: sleeping is not that exact.
const SPIN: Duration = Duration::from_micros(120);

/// The longest read that is answered; the guest's are half a mebibyte.
const LONGEST: u32 = 32 << 20;

// The protocol's numbers (NetworkBlockDevice/nbd, doc/proto.md).
const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_UNSUPPORTED: u32 = (1 << 31) | 1;
const READ: u16 = 0;
const DISCONNECT: u16 = 2;
const EINVAL: u32 = 22;
/// The flags of an export that cannot be written.
const READ_ONLY: u16 = 0b11;

/// What was asked of the drive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Every read, in the order of arrival, with the time since the first.
    pub reads: Vec<(Duration, Read)>,
}

impl Asked {
    /// How many bytes were read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reads.iter().map(|(_, read)| read.len).sum()
    }

    /// How many reads did not begin where the one before ended.
    #[must_use]
    pub fn jumps(&self) -> usize {
        self.reads
            .windows(2)
            .filter(|pair| match pair {
                [(_, before), (_, next)] => before.offset + before.len != next.offset,
                _ => false,
            })
            .count()
    }

    /// How many reads there were.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.reads.len()
    }
}

/// A file behind a model, being served; it ends when this is dropped.
#[derive(Debug)]
pub struct Served {
    socket: PathBuf,
    asked: Arc<Mutex<Asked>>,
    daemon: Child,
    _folder: tempfile::TempDir,
}

impl Served {
    /// Serves `disk`, which is read into the page cache first: the host's own
    /// drive is not to be measured.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Disk`] if the daemon does not come up.
    pub fn start(disk: &Path, drive: Drive) -> Result<Self, Error> {
        let mut file =
            File::open(disk).map_err(Error::io(format!("opening {}", disk.display())))?;
        let size = io::copy(&mut file, &mut io::sink())
            .map_err(Error::io(format!("reading {}", disk.display())))?;
        let folder = tempfile::Builder::new()
            .prefix("initoverlayfs-drive-")
            .tempdir()
            .map_err(Error::io("making a temporary folder"))?;
        let nbd = folder.path().join("nbd");
        let socket = folder.path().join("vhost-user");
        let listener = UnixListener::bind(&nbd).map_err(Error::io("making a socket"))?;
        let asked = Arc::new(Mutex::new(Asked::default()));
        let noted = Arc::clone(&asked);
        thread::spawn(move || {
            // One client, the daemon; its end is the end of the connection.
            if let Ok((stream, _)) = listener.accept() {
                let _ = serve(&stream, file, size, drive, &noted);
            }
        });
        let daemon = daemon(&nbd, &socket)?;
        let mut served = Self {
            socket,
            asked,
            daemon,
            _folder: folder,
        };
        served.wait()?;
        Ok(served)
    }

    /// The word for the kernel's command line that makes it a disk.
    #[must_use]
    pub fn word(&self) -> String {
        // 2 is virtio's number for block devices.
        format!("virtio_uml.device={}:2", self.socket.display())
    }

    /// What was asked of it up to now.
    #[must_use]
    pub fn asked(&self) -> Asked {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }

    fn wait(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        while !self.socket.exists() {
            let ended = self
                .daemon
                .try_wait()
                .map_err(Error::io(format!("waiting for {DAEMON}")))?;
            if ended.is_some() || Instant::now() > deadline {
                return Err(Error::Disk(format!("{DAEMON} does not serve the disk")));
            }
            thread::sleep(Duration::from_millis(5));
        }
        // The daemon may have looked at the disk: that is not the guest's.
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.reads.clear();
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself, with its only client.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn daemon(nbd: &Path, socket: &Path) -> Result<Child, Error> {
    let program = packages::find_program(DAEMON).ok_or_else(|| Error::MissingPackages {
        packages: vec!["qemu-system-common".to_owned()],
        command: "apt-get install --no-install-recommends qemu-system-common".to_owned(),
    })?;
    Command::new(program)
        .arg("--blockdev")
        .arg(format!(
            "driver=nbd,node-name=disk,read-only=on,server.type=unix,server.path={}",
            nbd.display()
        ))
        .arg("--export")
        .arg(format!(
            "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={}",
            socket.display()
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::io(format!("starting {DAEMON}")))
}

/// A read as the client knows it.
struct Request {
    cookie: u64,
    read: Read,
    /// Inside the disk.
    valid: bool,
}

fn serve(
    stream: &UnixStream,
    file: File,
    size: u64,
    drive: Drive,
    asked: &Mutex<Asked>,
) -> io::Result<()> {
    greet(stream, size)?;
    let (sender, requests) = mpsc::channel();
    let replies = stream.try_clone()?;
    let worker = thread::scope(|scope| {
        let worker = scope.spawn(move || answer(&replies, &file, drive, asked, requests));
        while let Ok(Some(request)) = receive(stream, size) {
            if sender.send(request).is_err() {
                break;
            }
        }
        drop(sender);
        worker.join()
    });
    worker.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

/// The handshake, up to transmission.
fn greet(mut stream: &UnixStream, size: u64) -> io::Result<()> {
    let mut hello = [MAGIC.to_be_bytes(), OPTION.to_be_bytes()].concat();
    // Fixed newstyle, no zeroes.
    hello.extend(3_u16.to_be_bytes());
    stream.write_all(&hello)?;
    let _flags: [u8; 4] = array(stream)?;
    loop {
        if u64::from_be_bytes(array(stream)?) != OPTION {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let option = u32::from_be_bytes(array(stream)?);
        let len = u32::from_be_bytes(array(stream)?);
        io::copy(&mut stream.take(len.into()), &mut io::sink())?;
        let reply = |kind: u32, data: &[u8]| {
            let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
            bytes.extend(option.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
            bytes.extend(data);
            let mut stream = stream;
            stream.write_all(&bytes)
        };
        if option != OPT_GO && option != OPT_INFO {
            reply(REP_UNSUPPORTED, &[])?;
            continue;
        }
        let mut export = 0_u16.to_be_bytes().to_vec();
        export.extend(size.to_be_bytes());
        export.extend(READ_ONLY.to_be_bytes());
        reply(REP_INFO, &export)?;
        reply(REP_ACK, &[])?;
        if option == OPT_GO {
            return Ok(());
        }
    }
}

fn array<const N: usize>(mut stream: &UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The next request; `None` at the end.
fn receive(stream: &UnixStream, size: u64) -> io::Result<Option<Request>> {
    if u32::from_be_bytes(array(stream)?) != REQUEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let _flags: [u8; 2] = array(stream)?;
    let kind = u16::from_be_bytes(array(stream)?);
    let cookie = u64::from_be_bytes(array(stream)?);
    let offset = u64::from_be_bytes(array(stream)?);
    let len = u32::from_be_bytes(array(stream)?);
    if kind == DISCONNECT {
        return Ok(None);
    }
    let end = offset.checked_add(len.into());
    let valid = kind == READ && len <= LONGEST && end.is_some_and(|end| end <= size);
    let len = if valid { len.into() } else { 0 };
    Ok(Some(Request {
        cookie,
        read: Read { offset, len },
        valid,
    }))
}

/// Answers each request when the model says so.
fn answer(
    mut stream: &UnixStream,
    file: &File,
    drive: Drive,
    asked: &Mutex<Asked>,
    requests: Receiver<Request>,
) -> io::Result<()> {
    let mut model = Model::new(drive);
    let mut replies: HashMap<u64, Vec<u8>> = HashMap::new();
    let start = Instant::now();
    let mut first = None;
    let mut number = 0;
    loop {
        let due = model.next().map(|at| at.saturating_sub(TRANSPORT));
        let Some(request) = next_request(&requests, due.map(|due| start + due)) else {
            return Ok(());
        };
        let now = start.elapsed();
        if let Some(request) = request {
            if request.valid {
                let began = *first.get_or_insert(now);
                let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                asked.reads.push((now - began, request.read));
            }
            model.submit(number, request.read, now);
            replies.insert(number, reply(file, &request));
            number += 1;
        }
        while let Some(done) = model.finished(now + TRANSPORT) {
            stream.write_all(&replies.remove(&done).unwrap_or_default())?;
        }
    }
}

/// The next request, or none by the time `due`; `None` when there will be no more.
#[allow(clippy::option_option, reason = "three ends of a wait")]
fn next_request(requests: &Receiver<Request>, due: Option<Instant>) -> Option<Option<Request>> {
    let Some(due) = due else {
        return requests.recv().ok().map(Some);
    };
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(None);
        }
        if left > SPIN {
            match requests.recv_timeout(left - SPIN) {
                Ok(request) => return Some(Some(request)),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            }
        }
        match requests.try_recv() {
            Ok(request) => return Some(Some(request)),
            Err(TryRecvError::Empty) => std::hint::spin_loop(),
            Err(TryRecvError::Disconnected) => return None,
        }
    }
}

fn reply(file: &File, request: &Request) -> Vec<u8> {
    let mut data = vec![0; usize::try_from(request.read.len).unwrap_or(0)];
    let read = request.valid && file.read_exact_at(&mut data, request.read.offset).is_ok();
    let error = if read { 0 } else { EINVAL };
    let mut bytes = REPLY.to_be_bytes().to_vec();
    bytes.extend(error.to_be_bytes());
    bytes.extend(request.cookie.to_be_bytes());
    if read {
        bytes.extend(data);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that has shaken hands, and what the server noted.
    fn served(drive: Drive, client: impl FnOnce(&UnixStream)) -> Asked {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.write_all(&[2; 4096]).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let asked = Mutex::new(Asked::default());
        thread::scope(|scope| {
            let server = scope.spawn(|| serve(&far, file, 8192, drive, &asked));
            greeted(&near);
            client(&near);
            (&near).write_all(&request(DISCONNECT, 0, 0, 0)).unwrap();
            server.join().unwrap().unwrap();
        });
        asked.into_inner().unwrap()
    }

    fn greeted(mut stream: &UnixStream) {
        let hello: [u8; 18] = array(stream).unwrap();
        assert!(hello.starts_with(b"NBDMAGICIHAVEOPT"));
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        let option = |number: u32, data: &[u8]| {
            let mut stream = stream;
            let len = u32::try_from(data.len()).unwrap();
            let mut bytes = OPTION.to_be_bytes().to_vec();
            bytes.extend(number.to_be_bytes());
            bytes.extend(len.to_be_bytes());
            bytes.extend(data);
            stream.write_all(&bytes).unwrap();
        };
        let reply = || {
            let head: [u8; 20] = array(stream).unwrap();
            let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
            assert_eq!(head[..8], OPTION_REPLY.to_be_bytes());
            (word(8), word(12), word(16))
        };
        // Structured replies are declined.
        option(8, &[]);
        assert_eq!(reply(), (8, REP_UNSUPPORTED, 0));
        option(OPT_GO, &[0; 6]);
        assert_eq!(reply(), (OPT_GO, REP_INFO, 12));
        let export: [u8; 12] = array(stream).unwrap();
        assert_eq!(export[2..10], 8192_u64.to_be_bytes());
        assert_eq!(reply(), (OPT_GO, REP_ACK, 0));
    }

    fn request(kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
        let mut bytes = REQUEST.to_be_bytes().to_vec();
        bytes.extend([0; 2]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes
    }

    /// The error and the cookie of a reply.
    fn reply_head(stream: &UnixStream) -> (u32, u64) {
        let head: [u8; 16] = array(stream).unwrap();
        assert_eq!(head[..4], REPLY.to_be_bytes());
        (
            u32::from_be_bytes(head[4..8].try_into().unwrap()),
            u64::from_be_bytes(head[8..].try_into().unwrap()),
        )
    }

    #[test]
    fn reads_are_answered_and_counted() {
        let asked = served(super::super::NONE, |mut stream| {
            stream.write_all(&request(READ, 7, 4096, 4096)).unwrap();
            assert_eq!(reply_head(stream), (0, 7));
            let data: [u8; 4096] = array(stream).unwrap();
            assert!(data.iter().all(|&byte| byte == 2));
            stream.write_all(&request(READ, 8, 0, 512)).unwrap();
            assert_eq!(reply_head(stream), (0, 8));
            let _: [u8; 512] = array(stream).unwrap();
        });
        assert_eq!(
            (asked.requests(), asked.bytes(), asked.jumps()),
            (2, 4608, 1)
        );
    }

    #[test]
    fn what_is_no_read_inside_the_disk_is_an_error_and_not_counted() {
        let asked = served(super::super::NONE, |mut stream| {
            for (kind, offset, len) in [
                (READ, 8192, 1),
                (READ, u64::MAX, 4096),
                (READ, 0, LONGEST + 1),
                (3, 0, 0),
            ] {
                stream.write_all(&request(kind, 1, offset, len)).unwrap();
                assert_eq!(reply_head(stream), (EINVAL, 1));
            }
        });
        assert_eq!(asked, Asked::default());
    }

    #[test]
    fn a_reply_waits_for_the_drive() {
        let slow = Drive {
            latency: Duration::from_millis(30),
            ..super::super::NONE
        };
        let start = Instant::now();
        served(slow, |mut stream| {
            stream.write_all(&request(READ, 1, 0, 512)).unwrap();
            assert_eq!(reply_head(stream), (0, 1));
            let _: [u8; 512] = array(stream).unwrap();
        });
        assert!(start.elapsed() >= Duration::from_millis(30) - TRANSPORT);
    }
}
