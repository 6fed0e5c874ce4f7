//! Kernel uevents over netlink (kernel: lib/kobject_uevent.c).
//!
//! A message is `ACTION@DEVPATH`, then `KEY=value` strings, each ended by a NUL.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::{Error, Result};

/// The kernel's own group; group 2 carries udev's messages, which need no trust
/// here since nobody runs udev yet.
const KERNEL_GROUP: u32 = 1;

/// The kernel limits a message to UEVENT_BUFFER_SIZE (2048) plus its header.
const MAX_LEN: usize = 8192;

/// A device that came, went or changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind`, ...
    pub action: String,
    /// Path below /sys.
    pub devpath: String,
    /// `block`, `usb`, `pci`, ...
    pub subsystem: String,
    /// Which driver could serve it, if the bus says so.
    pub modalias: Option<String>,
}

impl Uevent {
    /// Reads a message; `None` for what is no kernel uevent.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut strings = message.split(|&byte| byte == 0);
        let header = core::str::from_utf8(strings.next()?).ok()?;
        let (action, devpath) = header.split_once('@')?;
        let mut event = Self {
            action: action.to_string(),
            devpath: devpath.to_string(),
            ..Self::default()
        };
        for pair in strings.filter_map(|text| core::str::from_utf8(text).ok()) {
            match pair.split_once('=') {
                Some(("SUBSYSTEM", value)) => event.subsystem = value.to_string(),
                Some(("MODALIAS", value)) => event.modalias = Some(value.to_string()),
                _ => {}
            }
        }
        Some(event)
    }
}

/// What has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// These, in their order.
    Events(Vec<Uevent>),
    /// Some were lost: look at everything again.
    Lost,
}

/// A subscription to the kernel's uevents.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Subscribes. Do this before looking at /sys, so that nothing falls between.
    ///
    /// # Errors
    /// The kernel's.
    pub fn subscribe() -> Result<Self> {
        let error = |errno| Error::new("listening for", "kernel uevents", errno);
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(KOBJECT_UEVENT),
        )
        .map_err(error)?;
        // A machine with hundreds of devices sends a few hundred KB at once.
        // Best effort: what does not fit is reported as lost.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20);
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP)).map_err(error)?;
        Ok(Self { socket })
    }

    /// Takes all that have come, without waiting: [`crate::process::wait`] says
    /// when there are some. An error of the socket counts as a loss.
    #[must_use]
    pub fn take(&self) -> Taken {
        let mut buffer = alloc::vec![0; MAX_LEN];
        let mut events = Vec::new();
        // Bounded, so that a storm of events cannot hold the boot here.
        while events.len() < 4096 {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((len, _)) => {
                    events.extend(buffer.get(..len).and_then(Uevent::parse));
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return Taken::Lost,
            }
        }
        Taken::Events(events)
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_apart() {
        let event = Uevent::parse(
            b"add@/devices/pci0000:00/x\0ACTION=add\0SUBSYSTEM=pci\0MODALIAS=pci:v1d2\0SEQNUM=7\0",
        )
        .unwrap();
        assert_eq!(event.action, "add");
        assert_eq!(event.devpath, "/devices/pci0000:00/x");
        assert_eq!(event.subsystem, "pci");
        assert_eq!(event.modalias.as_deref(), Some("pci:v1d2"));
    }

    #[test]
    fn what_is_no_uevent_is_passed_over() {
        assert_eq!(Uevent::parse(b""), None);
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed"), None);
        assert_eq!(Uevent::parse(b"\xff@\xff"), None);
    }

    #[test]
    fn taking_does_not_wait() {
        let uevents = Uevents::subscribe().unwrap();
        assert!(matches!(uevents.take(), Taken::Events(_)));
    }
}
