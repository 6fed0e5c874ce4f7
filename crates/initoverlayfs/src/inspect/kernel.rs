//! Linux kernel images.
//!
//! Sources: Documentation/arch/x86/boot.rst (the setup header at 0x1f1) and
//! Documentation/arch/arm64/booting.rst. Little-endian.

use iofs_cpio::Compression;

use super::node::{Fact, Node};
use super::{Described, View};

pub(super) fn describe(view: &View<'_>) -> Described {
    let Some(head) = view.bytes(0, 0x270) else {
        return Ok(None);
    };
    if head.get(0x202..0x206) == Some(b"HdrS") {
        return Ok(Some(x86(view, &head)));
    }
    if head.get(0x38..0x3c) == Some(b"ARM\x64") {
        let node = Node::new("linux-kernel")
            .fact("architecture", "arm64")
            .fact("size", Fact::size(view.source.size()))
            .fact("efi_stub", head.starts_with(b"MZ"));
        return Ok(Some(node));
    }
    Ok(None)
}

fn x86(view: &View<'_>, head: &[u8]) -> Node {
    let word = |at: usize| match head.get(at..at + 2) {
        Some(&[a, b]) => u16::from_le_bytes([a, b]),
        _ => 0,
    };
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 2)) << 16;
    let protocol = word(0x206);
    // An older kernel without this field means 4.
    let setup_sectors = match head.get(0x1f1) {
        Some(0) | None => 4,
        Some(&n) => u64::from(n),
    };
    let version = match word(0x20e) {
        0 => None,
        at => string(view, u64::from(at) + 0x200),
    };
    let release = version.as_deref().and_then(|v| v.split(' ').next());
    let payload = (protocol >= 0x208)
        .then(|| (setup_sectors + 1) * 512 + long(0x248))
        .and_then(|at| view.bytes(at, 8))
        .and_then(|bytes| Compression::detect(&bytes));
    Node::new("linux-kernel")
        .fact("architecture", "x86")
        .fact("size", Fact::size(view.source.size()))
        .fact_if("release", release)
        .fact_if("version", version.as_deref())
        .fact(
            "boot_protocol",
            format!("{}.{:02}", protocol >> 8, protocol & 0xff),
        )
        .fact("efi_stub", head.starts_with(b"MZ"))
        .fact_if("compression", payload.map(Compression::name))
}

/// The NUL-terminated text at `at`.
fn string(view: &View<'_>, at: u64) -> Option<String> {
    let len = view.source.size().checked_sub(at)?.min(256);
    let bytes = view.bytes(at, usize::try_from(len).ok()?)?;
    let text = bytes.split(|&b| b == 0).next()?;
    let text = std::str::from_utf8(text).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}
