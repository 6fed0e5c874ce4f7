//! QEMU's machine protocol: JSON lines over a UNIX socket.
//!
//! Reference: docs/interop/qmp-spec in QEMU. Only what a boot needs: the
//! greeting, `qmp_capabilities`, commands with their replies, and events.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Error;

/// How long QEMU may take to answer a command: its main loop is not held up by
/// the guest.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The longest message that is read, in bytes.
const MAX_MESSAGE: u64 = 16 << 20;

/// Something that happened to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpEvent {
    /// Its name: `SHUTDOWN`, `RESET`, `GUEST_PANICKED`, `STOP`, ...
    pub name: String,
    /// `data.reason` (of SHUTDOWN and RESET) or `data.action`, if there is one.
    pub reason: Option<String>,
}

/// What a disk has read since the machine's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockStats {
    /// QEMU's name of the drive: `disk0`, `disk1`, ... in the order of
    /// [`crate::Machine::disks`]; also its flash chips.
    pub device: String,
    /// Bytes read by the guest.
    pub read_bytes: u64,
    /// Read requests of the guest.
    pub read_operations: u64,
    /// Bytes written by the guest.
    pub written_bytes: u64,
}

/// A connection to a running QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    messages: Receiver<Value>,
    events: Vec<QmpEvent>,
}

impl Qmp {
    /// Connects to the socket at `path` and leaves negotiation mode.
    ///
    /// # Errors
    /// [`Error::Io`] if nobody listens there, [`Error::Qmp`] if it is not QEMU.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let what = || format!("connecting to {}", path.display());
        let stream = UnixStream::connect(path).map_err(Error::io(what()))?;
        let reader = stream.try_clone().map_err(Error::io(what()))?;
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            loop {
                let mut line = Vec::new();
                match (&mut reader).take(MAX_MESSAGE).read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
                let Ok(message) = serde_json::from_slice(&line) else {
                    break;
                };
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut qmp = Self {
            stream,
            messages,
            events: Vec::new(),
        };
        let greeting = qmp.next("greeting", Instant::now() + ANSWER_LIMIT)?;
        if greeting.get("QMP").is_none() {
            return Err(error(
                "greeting",
                "the first message is not QEMU's greeting",
            ));
        }
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Runs a command without arguments and returns what it returns.
    ///
    /// # Errors
    /// [`Error::Qmp`] if QEMU refuses it, is gone or does not answer in 20 s.
    pub fn execute(&mut self, command: &str) -> Result<Value, Error> {
        self.send(command, &json!({ "execute": command }))
    }

    /// Runs a command of QEMU's human monitor and returns what it prints: for
    /// options that are written as on QEMU's command line.
    ///
    /// # Errors
    /// As [`Self::execute`]. What the command itself finds wrong is in what it
    /// prints.
    pub fn monitor(&mut self, line: &str) -> Result<String, Error> {
        let command = json!({
            "execute": "human-monitor-command",
            "arguments": { "command-line": line },
        });
        let answer = self.send(line, &command)?;
        let text = answer.as_str().unwrap_or_default().trim();
        Ok(text.to_owned())
    }

    fn send(&mut self, command: &str, message: &Value) -> Result<Value, Error> {
        let line = format!("{message}\n");
        self.stream
            .write_all(line.as_bytes())
            .map_err(|e| error(command, &format!("sending failed: {e}")))?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let mut message = self.next(command, deadline)?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(refusal) = message.get("error") {
                let text = refusal.get("desc").and_then(Value::as_str);
                return Err(error(command, text.unwrap_or("refused without a reason")));
            }
            self.note_event(&message);
        }
    }

    /// The events since the last call, oldest first; does not wait.
    pub fn events(&mut self) -> Vec<QmpEvent> {
        while let Ok(message) = self.messages.try_recv() {
            self.note_event(&message);
        }
        std::mem::take(&mut self.events)
    }

    /// What each disk has read so far.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub fn block_stats(&mut self) -> Result<Vec<BlockStats>, Error> {
        let command = "query-blockstats";
        let answer = self.execute(command)?;
        let list = answer
            .as_array()
            .ok_or_else(|| error(command, "the answer is not a list"))?;
        Ok(list.iter().filter_map(block_stats).collect())
    }

    fn next(&mut self, command: &str, deadline: Instant) -> Result<Value, Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.messages.recv_timeout(left).map_err(|e| {
            let reason = match e {
                RecvTimeoutError::Timeout => "QEMU did not answer in time",
                RecvTimeoutError::Disconnected => "QEMU closed the connection",
            };
            error(command, reason)
        })
    }

    fn note_event(&mut self, message: &Value) {
        let Some(name) = message.get("event").and_then(Value::as_str) else {
            return;
        };
        let data = message.get("data");
        let text = |key| data.and_then(|d| d.get(key)).and_then(Value::as_str);
        self.events.push(QmpEvent {
            name: name.to_owned(),
            reason: text("reason").or(text("action")).map(str::to_owned),
        });
    }
}

fn block_stats(entry: &Value) -> Option<BlockStats> {
    let stats = entry.get("stats")?;
    let count = |key| stats.get(key).and_then(Value::as_u64);
    Some(BlockStats {
        device: entry.get("device")?.as_str()?.to_owned(),
        read_bytes: count("rd_bytes")?,
        read_operations: count("rd_operations")?,
        written_bytes: count("wr_bytes")?,
    })
}

fn error(command: &str, reason: &str) -> Error {
    Error::Qmp {
        command: command.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A QEMU that answers each line with the next of `answers`.
    fn fake(answers: &'static [&'static str]) -> Result<Qmp, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for (at, answer) in answers.iter().enumerate() {
                if at > 0 && lines.next().is_none() {
                    return;
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Qmp::connect(&path)
    }

    #[test]
    fn events_between_a_command_and_its_answer_are_kept() {
        let mut qmp = fake(&[
            "{\"QMP\": {}}\n",
            "{\"return\": {}}\n",
            "{\"event\": \"STOP\"}\n{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \
             \"reason\": \"guest-shutdown\"}}\n{\"return\": [{\"device\": \"disk0\", \"stats\": \
             {\"rd_bytes\": 512, \"rd_operations\": 1, \"wr_bytes\": 0}}, {\"device\": 1}]}\n",
        ])
        .unwrap();
        let stats = qmp.block_stats().unwrap();
        assert_eq!(stats.len(), 1);
        assert_eq!(stats[0].device, "disk0");
        assert_eq!(stats[0].read_bytes, 512);
        let events = qmp.events();
        assert_eq!(events[0].name, "STOP");
        assert_eq!(events[1].reason.as_deref(), Some("guest-shutdown"));
        assert!(qmp.events().is_empty());
    }

    #[test]
    fn refusals_and_nonsense_are_errors() {
        let mut qmp = fake(&[
            "{\"QMP\": {}}\n",
            "{\"return\": {}}\n",
            "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no such thing\"}}\n",
            "no json\n",
        ])
        .unwrap();
        let refused = qmp.execute("x").unwrap_err().to_string();
        assert!(refused.contains("no such thing"), "{refused}");
        let gone = qmp.execute("y").unwrap_err().to_string();
        assert!(gone.contains("closed"), "{gone}");
        assert!(fake(&["{\"hello\": 1}\n"]).is_err());
        assert!(fake(&[]).is_err());
    }
}
