//! Names: code page 437, short names, folding of case.

use alloc::string::String;
use alloc::vec::Vec;

/// Code page 437 from 0x80 on: what Linux, the firmware and DOS take short
/// names to be in unless told otherwise.
const CODE_PAGE_437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»\
    ░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
    αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// The length of a short name: eight characters and three.
pub(crate) const SHORT_LEN: usize = 11;
/// A space, which fills up short names.
const FILL: u8 = b' ';
/// Stands for 0xe5 where that would mean "deleted".
const KANJI_E5: u8 = 0x05;

/// Windows NT's and Linux's flags in byte 12 of an entry: base or extension
/// are to be shown in lower case.
const LOWER_BASE: u8 = 0x08;
const LOWER_EXTENSION: u8 = 0x10;

fn decode(byte: u8) -> char {
    match byte.checked_sub(0x80) {
        None => char::from(byte),
        Some(index) => CODE_PAGE_437
            .chars()
            .nth(index.into())
            .unwrap_or(char::REPLACEMENT_CHARACTER),
    }
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let len = bytes
        .iter()
        .rposition(|&byte| byte != FILL)
        .map_or(0, |last| last + 1);
    &bytes[..len]
}

/// The text of a volume label, `None` if it is blank.
pub(crate) fn label(bytes: &[u8]) -> Option<String> {
    let text: String = trimmed(bytes).iter().map(|&byte| decode(byte)).collect();
    (!text.is_empty() && !text.contains('\0')).then_some(text)
}

/// A short name as it is shown: `BASE.EXT`. It takes no memory of its own, as
/// every entry that a lookup passes is compared with one.
pub(crate) struct Short {
    chars: [char; SHORT_LEN + 1],
    len: usize,
}

impl Short {
    /// The name in `raw`, in the case that `flags` ask for.
    pub(crate) fn new(raw: &[u8; SHORT_LEN], flags: u8) -> Self {
        let mut name = Self {
            chars: ['\0'; SHORT_LEN + 1],
            len: 0,
        };
        let mut raw = *raw;
        if raw[0] == KANJI_E5 {
            raw[0] = 0xe5;
        }
        let (base, extension) = raw.split_at(8);
        name.push(base, flags & LOWER_BASE != 0);
        let extension = trimmed(extension);
        if !extension.is_empty() {
            name.push(b".", false);
            name.push(extension, flags & LOWER_EXTENSION != 0);
        }
        name
    }

    fn push(&mut self, part: &[u8], lower: bool) {
        for &byte in trimmed(part) {
            let c = decode(byte);
            if let Some(place) = self.chars.get_mut(self.len) {
                *place = if lower { c.to_ascii_lowercase() } else { c };
                self.len += 1;
            }
        }
    }

    pub(crate) fn chars(&self) -> &[char] {
        self.chars.get(..self.len).unwrap_or(&[])
    }

    /// Whether this is `wanted`, which is folded.
    pub(crate) fn is(&self, wanted: &[u16]) -> bool {
        let folded = self.chars().iter().map(|&c| fold_char(c));
        folded.eq(wanted.iter().copied())
    }
}

/// Whether a short name names a file. `.` and `..` do not, nor what begins with
/// a space; separators and control characters would lead whoever joins names to
/// paths astray.
pub(crate) fn is_short_name(raw: &[u8; SHORT_LEN]) -> bool {
    let [first, rest @ ..] = raw;
    let is_plain = |&byte: &u8| byte >= FILL && byte != b'/' && byte != b'\\';
    (is_plain(first) || *first == KANJI_E5)
        && !matches!(*first, FILL | b'.')
        && rest.iter().all(is_plain)
}

/// Whether a long name names a file, by the same rules.
pub(crate) fn is_long_name(units: &[u16]) -> bool {
    const DOT: u16 = 0x2e;
    let is_plain = |&unit: &u16| unit >= 0x20 && unit != 0x2f && unit != 0x5c;
    !matches!(units, [] | [DOT] | [DOT, DOT]) && units.iter().all(is_plain)
}

/// The checksum by which long-name entries refer to their short name.
pub(crate) fn checksum(raw: &[u8; SHORT_LEN]) -> u8 {
    raw.iter()
        .fold(0u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte))
}

/// UTF-16 units of `text`, folded for comparison.
pub(crate) fn folded(text: &str) -> Vec<u16> {
    text.encode_utf16().map(fold).collect()
}

/// A character of a short name, folded. Code page 437 needs one unit for each.
fn fold_char(c: char) -> u16 {
    u16::try_from(u32::from(c)).map_or(0xfffd, fold)
}

/// The upper case of a UTF-16 unit, for ASCII, Latin-1, Latin Extended-A, Greek
/// and the main Cyrillic letters. Written out because the standard tables would
/// add a quarter to PID 1; letters of other scripts match in their own case.
pub(crate) fn fold(unit: u16) -> u16 {
    match unit {
        0x61..=0x7a | 0xe0..=0xf6 | 0xf8..=0xfe => unit - 0x20,
        0xff => 0x178,
        0x131 => 0x49,
        0x17f => 0x53,
        0x100..=0x12f | 0x132..=0x137 | 0x14a..=0x177 => unit & !1,
        0x139..=0x148 | 0x179..=0x17e if unit % 2 == 0 => unit - 1,
        0x3ac => 0x386,
        0x3ad..=0x3af => unit - 0x25,
        0x3c2 => 0x3a3,
        0x3b1..=0x3cb => unit - 0x20,
        0x3cc => 0x38c,
        0x3cd | 0x3ce => unit - 0x3f,
        0x430..=0x44f => unit - 0x20,
        0x450..=0x45f => unit - 0x50,
        _ => unit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_page_is_complete() {
        assert_eq!(CODE_PAGE_437.chars().count(), 128);
        assert_eq!(decode(0x80), 'Ç');
        assert_eq!(decode(0xe1), 'ß');
        assert_eq!(decode(0xff), '\u{a0}');
    }

    #[test]
    fn folding_is_upper_case_where_it_claims_to_be() {
        let ranges = [
            0x20..=0x7e,
            0xa0..=0x12f,
            0x132..=0x148,
            0x14a..=0x17f,
            0x386..=0x38f,
            0x391..=0x3ce,
            0x400..=0x45f,
        ];
        for unit in ranges.into_iter().flatten() {
            let c = char::from_u32(u32::from(unit)).unwrap();
            let mut upper = c.to_uppercase();
            let (first, more) = (upper.next().unwrap(), upper.next());
            // Sharp s and the like become two letters; µ leaves Latin-1;
            // accented capitals of combining pairs have no single unit.
            if more.is_some() || unit == 0xb5 {
                assert_eq!(fold(unit), unit);
            } else {
                assert_eq!(u32::from(fold(unit)), u32::from(first), "{c}");
            }
        }
    }

    #[test]
    fn short_names_are_shown_as_linux_shows_them() {
        let short = |raw, flags| Short::new(raw, flags).chars().iter().collect::<String>();
        assert_eq!(short(b"VMLINUZ EFI", 0), "VMLINUZ.EFI");
        assert_eq!(short(b"VMLINUZ EFI", 0x18), "vmlinuz.efi");
        assert_eq!(short(b"VMLINUZ EFI", 0x08), "vmlinuz.EFI");
        assert_eq!(short(b"EFI        ", 0), "EFI");
        assert_eq!(short(b"\x05A         ", 0), "σA");
        assert_eq!(short(b"A B     C  ", 0), "A B.C");
    }

    #[test]
    fn labels_lose_their_padding_only() {
        assert_eq!(label(b"MY  ESP    ").as_deref(), Some("MY  ESP"));
        assert_eq!(label(b"           "), None);
        assert_eq!(label(&[0; 11]), None);
    }
}
