//! The kernel command line, split as the kernel's own parser splits it.
//!
//! Source: `next_arg` in lib/cmdline.c, `parse_args` in kernel/params.c,
//! `set_init_arg` in init/main.c.
//!
//! * Parameters are separated by spaces: the bytes that the kernel's `isspace`
//!   knows, which are the ASCII ones and 0xA0 (even inside a UTF-8 character).
//! * A `"` turns quoting on and off anywhere; spaces inside do not separate.
//!   Only a quote that opens the whole parameter or its value is taken away,
//!   with the one that ends the parameter; others stay.
//! * The first `=` ends the name, unless it is the first byte.
//! * `-` and `_` are the same in a name.
//! * A parameter `--` ends the kernel's parameters. What follows goes to init,
//!   up to a second `--`.
//!
//! Everything is bytes: a command line need not be UTF-8. It ends at the first
//! NUL. There are no errors; every byte string is some command line. Parsing
//! takes linear time and copies nothing.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod overrides;
mod root;

use alloc::borrow::Cow;
use alloc::vec::Vec;

pub use overrides::{MAX_HINTS, Mode, Overrides, Record, Warning, hints};
pub use root::{Root, RootWords, UsrWords};

/// One parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param<'a> {
    /// What stands before the first `=`, or the whole parameter.
    pub name: &'a [u8],
    /// What stands after the first `=`; `None` if there is none.
    pub value: Option<&'a [u8]>,
}

impl<'a> Param<'a> {
    /// Whether this is the parameter of that name, `-` and `_` being the same.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        names_equal(self.name, name.as_bytes())
    }

    /// The value, if there is one and it is UTF-8.
    #[must_use]
    pub fn value_str(&self) -> Option<&'a str> {
        self.value
            .and_then(|value| core::str::from_utf8(value).ok())
    }

    /// The parameter without its quotes, as the kernel hands it to init.
    fn joined(self) -> Cow<'a, [u8]> {
        match self.value {
            None => Cow::Borrowed(self.name),
            Some(value) => {
                let mut joined = Vec::with_capacity(self.name.len() + 1 + value.len());
                joined.extend_from_slice(self.name);
                joined.push(b'=');
                joined.extend_from_slice(value);
                Cow::Owned(joined)
            }
        }
    }
}

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cmdline<'a> {
    params: Vec<Param<'a>>,
    init_args: Vec<Cow<'a, [u8]>>,
}

impl<'a> Cmdline<'a> {
    /// Splits a command line, as read from /proc/cmdline.
    #[must_use]
    pub fn parse<T: AsRef<[u8]> + ?Sized>(text: &'a T) -> Self {
        let text = text.as_ref();
        let text = text.split(|&byte| byte == 0).next().unwrap_or(text);
        let mut rest = skip_spaces(text);
        let mut parsed = Self::default();
        let mut for_init = false;
        while !rest.is_empty() {
            let (param, after) = next_arg(rest);
            rest = after;
            if param.value.is_none() && param.name == b"--" {
                if for_init {
                    break;
                }
                for_init = true;
            } else if for_init {
                parsed.init_args.push(param.joined());
            } else {
                parsed.params.push(param);
            }
        }
        parsed
    }

    /// The kernel's parameters, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Param<'a>> + '_ {
        self.params.iter().copied()
    }

    /// The parameter of that name (`-` and `_` are the same); the last one if
    /// there are several.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Param<'a>> {
        self.iter().rev().find(|param| param.is(name))
    }

    /// Every parameter of that name, in order.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = Param<'a>> + 's {
        self.iter().filter(move |param| param.is(name))
    }

    /// The words after `--`, without their quotes.
    #[must_use]
    pub fn init_args(&self) -> &[Cow<'a, [u8]>] {
        &self.init_args
    }
}

/// Compares parameter names as the kernel's `parameq` does.
fn names_equal(a: &[u8], b: &[u8]) -> bool {
    let canonical = |byte: &u8| if *byte == b'-' { b'_' } else { *byte };
    a.iter().map(canonical).eq(b.iter().map(canonical))
}

/// The kernel's `isspace` (lib/ctype.c), which is Latin-1's.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0)
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|&&byte| is_space(byte)).count();
    text.get(spaces..).unwrap_or(&[])
}

/// Takes the next parameter off `text`, which does not begin with a space.
fn next_arg(text: &[u8]) -> (Param<'_>, &[u8]) {
    let (text, quoted) = match text.split_first() {
        Some((b'"', rest)) => (rest, true),
        _ => (text, false),
    };
    let mut in_quote = quoted;
    let mut equals = None;
    let mut end = text.len();
    for (at, &byte) in text.iter().enumerate() {
        if is_space(byte) && !in_quote {
            end = at;
            break;
        }
        if byte == b'=' && at > 0 && equals.is_none() {
            equals = Some(at);
        }
        if byte == b'"' {
            in_quote = !in_quote;
        }
    }
    let (arg, rest) = text.split_at(end);
    let param = match equals {
        None => Param {
            name: strip_last_quote(arg, quoted),
            value: None,
        },
        Some(at) => {
            let (name, value) = (&arg[..at], &arg[at + 1..]);
            let value = match value.split_first() {
                Some((b'"', value)) => strip_last_quote(value, true),
                _ => strip_last_quote(value, quoted),
            };
            Param {
                name,
                value: Some(value),
            }
        }
    };
    (param, skip_spaces(rest))
}

fn strip_last_quote(text: &[u8], strip: bool) -> &[u8] {
    match text.split_last() {
        Some((b'"', rest)) if strip => rest,
        _ => text,
    }
}

#[cfg(test)]
mod tests;
