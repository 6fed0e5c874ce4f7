//! File names of entries, which count boots.

use alloc::string::{String, ToString};
use core::fmt;

/// How often an entry may still be tried, in its file name:
/// `NAME+LEFT-DONE.conf`.
///
/// The numbers keep their count of digits, so that a rename keeps the length of
/// the name and is one write on FAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    left: u32,
    left_digits: usize,
    done: u32,
    done_digits: usize,
}

impl Counter {
    /// The most digits of a number; more are not a counter.
    const MAX_DIGITS: usize = 9;

    /// A new entry's counter, to be tried `left` times. Beyond 999999999 it
    /// stays there.
    #[must_use]
    pub fn new(left: u32) -> Self {
        let left = left.min(999_999_999);
        let digits = left.to_string().len();
        Self {
            left,
            left_digits: digits,
            done: 0,
            done_digits: digits,
        }
    }

    /// How often it may still be tried.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// How often it has been tried without success.
    #[must_use]
    pub fn done(&self) -> u32 {
        self.done
    }

    /// Whether no try is left.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.left == 0
    }

    /// The counter after one more try, as a boot loader counts.
    #[must_use]
    pub fn after_try(mut self) -> Self {
        self.left = self.left.saturating_sub(1);
        // Without its second number a counter stands at 0 tries done.
        self.done_digits = self.done_digits.max(1);
        let digits = u32::try_from(self.done_digits).unwrap_or(u32::MAX);
        let most = 10u32.saturating_pow(digits).saturating_sub(1);
        self.done = self.done.saturating_add(1).min(most);
        self
    }

    /// Splits the counter off the end of a name that has lost its `.conf`.
    fn split(stem: &str) -> Option<(&str, Self)> {
        let (name, counter) = stem.rsplit_once('+')?;
        let (left, done) = match counter.split_once('-') {
            Some((left, done)) => (left, Some(done)),
            None => (counter, None),
        };
        let number = |digits: &str| -> Option<u32> {
            let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            let fits = (1..=Self::MAX_DIGITS).contains(&digits.len());
            (only_digits && fits).then(|| digits.parse().ok())?
        };
        let done_value = done.map_or(Some(0), number)?;
        Some((
            name,
            Self {
                left: number(left)?,
                left_digits: left.len(),
                done: done_value,
                done_digits: done.map_or(0, str::len),
            },
        ))
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:0width$}", self.left, width = self.left_digits)?;
        if self.done_digits > 0 {
            write!(f, "-{:0width$}", self.done, width = self.done_digits)?;
        }
        Ok(())
    }
}

/// A name that is not an entry's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameError {
    /// It does not end with `.conf`: some other file.
    NoSuffix,
    /// Nothing is left before the counter or the suffix.
    Empty,
    /// More than 255 bytes.
    TooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// A character that the specification does not allow (or, when a name is
    /// read, a `/`, a backslash or a control character).
    BadCharacter {
        /// The character.
        character: char,
    },
    /// The name itself looks as if it had a counter.
    LooksCounted,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuffix => write!(f, "a boot entry's file name ends with .conf"),
            Self::Empty => write!(f, "a boot entry's file name is empty"),
            Self::TooLong { len } => {
                write!(f, "a boot entry's file name has {len} bytes, more than 255")
            }
            Self::BadCharacter { character } => write!(
                f,
                "'{}' cannot be in a boot entry's file name; letters, digits and + - _ . can",
                character.escape_debug()
            ),
            Self::LooksCounted => write!(
                f,
                "a boot entry's name must not end as a boot counter does (+3, +3-0)"
            ),
        }
    }
}

impl core::error::Error for NameError {}

/// The file name of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName {
    id: String,
    counter: Option<Counter>,
}

impl EntryName {
    const SUFFIX: &'static str = ".conf";
    const MAX_LEN: usize = 255;

    /// A name for a new entry; `id` is what stays when counting is over, such
    /// as `TOKEN-VERSION`.
    ///
    /// # Errors
    /// What [`NameError`] names.
    pub fn new(id: &str, counter: Option<Counter>) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+-_.".contains(c);
        if let Some(character) = id.chars().find(|&c| !allowed(c)) {
            return Err(NameError::BadCharacter { character });
        }
        if Counter::split(id).is_some() {
            return Err(NameError::LooksCounted);
        }
        Self {
            id: id.into(),
            counter,
        }
        .checked()
    }

    /// Reads the name of a file in /loader/entries.
    ///
    /// # Errors
    /// What [`NameError`] names.
    pub fn parse(file_name: &str) -> Result<Self, NameError> {
        // FAT does not tell case apart, nor does systemd-boot.
        let stem = file_name
            .len()
            .checked_sub(Self::SUFFIX.len())
            .and_then(|at| file_name.split_at_checked(at))
            .filter(|(_, suffix)| suffix.eq_ignore_ascii_case(Self::SUFFIX))
            .map(|(stem, _)| stem)
            .ok_or(NameError::NoSuffix)?;
        let bad = |c: char| c == '/' || c == '\\' || c.is_control();
        if let Some(character) = stem.chars().find(|&c| bad(c)) {
            return Err(NameError::BadCharacter { character });
        }
        let (id, counter) = match Counter::split(stem) {
            Some((id, counter)) => (id, Some(counter)),
            None => (stem, None),
        };
        Self {
            id: id.into(),
            counter,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, NameError> {
        if self.id.is_empty() {
            return Err(NameError::Empty);
        }
        let len = self.to_string().len();
        if len > Self::MAX_LEN {
            return Err(NameError::TooLong { len });
        }
        Ok(self)
    }

    /// The name without counter and suffix, which identifies the entry.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The counter; `None` if the entry is good or its boots are not counted.
    #[must_use]
    pub fn counter(&self) -> Option<Counter> {
        self.counter
    }

    /// Whether the entry has used up its tries.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.counter.is_some_and(|counter| counter.is_bad())
    }

    /// The same entry with another counter, or as good.
    #[must_use]
    pub fn with_counter(&self, counter: Option<Counter>) -> Self {
        Self {
            id: self.id.clone(),
            counter,
        }
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if let Some(counter) = self.counter {
            write!(f, "{counter}")?;
        }
        f.write_str(Self::SUFFIX)
    }
}
