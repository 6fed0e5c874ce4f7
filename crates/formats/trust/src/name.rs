//! Names and numbers as text for messages.

use alloc::string::String;
use core::fmt::Write as _;

use der::Tag;
use der::asn1::ObjectIdentifier;

use crate::error::Refusal;
use crate::input::Input;

/// After so many bytes a name is cut off: it comes from a hostile file and goes
/// to the console.
const MAX_TEXT: usize = 160;

/// A Name (RFC 5280, 4.1.2.4) as `CN=…, O=…`, in the order of the certificate.
/// Control characters become `?`.
pub(crate) fn text(name: &[u8]) -> String {
    let mut out = String::new();
    if append(name, &mut out).is_err() || out.is_empty() {
        out.push_str("(no readable name)");
    }
    out
}

fn append(name: &[u8], out: &mut String) -> Result<(), Refusal> {
    let what = "a name";
    let mut name = Input::new(name, what)?.sequence(what)?;
    while !name.is_empty() {
        let mut relative = name.set(what)?;
        while !relative.is_empty() {
            let mut pair = relative.sequence(what)?;
            let kind = pair.oid(what)?;
            let value = pair.any(what)?;
            if out.len() > MAX_TEXT {
                out.push('…');
                return Ok(());
            }
            if !out.is_empty() {
                out.push_str(", ");
            }
            push_kind(&kind, out);
            out.push('=');
            if value.is(Tag::BmpString) {
                out.push_str("(UTF-16)");
                continue;
            }
            let value = value.content.get(..MAX_TEXT).unwrap_or(value.content);
            for chunk in value.utf8_chunks() {
                out.extend(
                    chunk
                        .valid()
                        .chars()
                        .map(|c| if c.is_control() { '?' } else { c }),
                );
                if !chunk.invalid().is_empty() {
                    out.push('?');
                }
            }
        }
    }
    Ok(())
}

/// The usual short names (RFC 4514, 3), else the object identifier.
fn push_kind(kind: &ObjectIdentifier, out: &mut String) {
    let short = match kind.as_bytes() {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        _ => return out.push_str(&dotted(kind)),
    };
    out.push_str(short);
}

/// An object identifier in its usual form, such as `2.5.4.3`. (The library's own
/// way of writing it takes two kilobytes more.)
pub(crate) fn dotted(oid: &ObjectIdentifier) -> String {
    let mut out = String::new();
    let mut arc = 0u32;
    for &byte in oid.as_bytes() {
        // The library has checked that arcs fit into 32 bits.
        arc = arc << 7 | u32::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        // Writing to a String does not fail.
        let _ = if out.is_empty() {
            let first = (arc / 40).min(2);
            write!(out, "{first}.{}", arc - first * 40)
        } else {
            write!(out, ".{arc}")
        };
        arc = 0;
    }
    out
}

/// Bytes in hexadecimal, at most 32 of them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes.iter().take(32) {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    if bytes.len() > 32 {
        out.push('…');
    }
    out
}
