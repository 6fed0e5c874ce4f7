//! What QEMU prints, read by threads of its own: the guest's console and QEMU's
//! complaints.

use std::io::{Read, Write};
use std::process::Child;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use crate::answer::Typist;
use crate::{Answer, ConsoleLine, LineBuffer};

/// The console's lines as they come; `tee` gets the bytes, `answers` are typed.
pub(crate) fn read_console(
    child: &mut Child,
    started: Instant,
    mut tee: Option<Box<dyn Write + Send>>,
    answers: Vec<Answer>,
) -> Receiver<ConsoleLine> {
    let (sender, receiver) = mpsc::channel();
    let mut typist = child
        .stdin
        .take()
        .map(|keyboard| Typist::new(answers, keyboard));
    if let Some(mut stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut lines = LineBuffer::default();
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                let bytes = buffer.get(..count).unwrap_or(&[]);
                if let Some(tee) = &mut tee {
                    // The watcher may go away; the boot goes on.
                    let _ = tee.write_all(bytes).and_then(|()| tee.flush());
                }
                if let Some(typist) = &mut typist {
                    typist.read(bytes);
                }
                lines.push(bytes, |line| {
                    let _ = sender.send(ConsoleLine::new(started.elapsed(), line));
                });
            }
            lines.finish(|line| {
                let _ = sender.send(ConsoleLine::new(started.elapsed(), line));
            });
        });
    }
    receiver
}

/// The beginning of what QEMU says on its error output.
pub(crate) fn read_stderr(child: &mut Child) -> Arc<Mutex<Vec<u8>>> {
    /// More is read but not kept.
    const KEPT: usize = 64 << 10;
    let kept = Arc::new(Mutex::new(Vec::new()));
    if let Some(mut stderr) = child.stderr.take() {
        let kept = Arc::clone(&kept);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                if let (Ok(mut kept), Some(bytes)) = (kept.lock(), buffer.get(..count)) {
                    let room = KEPT.saturating_sub(kept.len());
                    kept.extend(bytes.iter().take(room));
                }
            }
        });
    }
    kept
}
