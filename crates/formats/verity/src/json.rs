//! Just enough JSON (RFC 8259) to read one object of strings: PID 1 has no
//! use for more.

use alloc::string::String;
use core::fmt;

/// How deep values that are passed over may nest.
const MAX_DEPTH: u32 = 16;

/// Why a text is not the JSON that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonError {
    /// Not UTF-8.
    Utf8 {
        /// Offset of the first byte that is not, in bytes.
        offset: usize,
    },
    /// Something else than the grammar allows.
    Syntax {
        /// Offset, in bytes.
        offset: usize,
        /// What may stand there.
        expected: &'static str,
    },
    /// Values nest too deep.
    Depth {
        /// Offset, in bytes.
        offset: usize,
    },
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utf8 { offset } => write!(f, "byte {offset} is not UTF-8"),
            Self::Syntax { offset, expected } => {
                write!(f, "byte {offset} is not JSON: there should be {expected}")
            }
            Self::Depth { offset } => {
                write!(f, "values nest deeper than {MAX_DEPTH} at byte {offset}")
            }
        }
    }
}

impl core::error::Error for JsonError {}

/// A position in a text.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, JsonError> {
        let text = core::str::from_utf8(bytes).map_err(|error| JsonError::Utf8 {
            offset: error.valid_up_to(),
        })?;
        Ok(Self { text, at: 0 })
    }

    /// Reads an object that is the whole text. `member` is called with each
    /// name and must consume the value, by [`Self::string`] or [`Self::skip`].
    pub(crate) fn object<E: From<JsonError>>(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.space();
        self.take(b'{', "an object")?;
        self.members(|reader| {
            let name = reader.string()?;
            reader.space();
            reader.take(b':', "a colon")?;
            reader.space();
            member(reader, &name)
        })?;
        self.space();
        if self.at == self.text.len() {
            Ok(())
        } else {
            Err(self.wrong("the end").into())
        }
    }

    /// Members up to the closing brace.
    fn members<E: From<JsonError>>(
        &mut self,
        member: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.list(b'}', "a comma or the object's end", member)
    }

    fn list<E: From<JsonError>>(
        &mut self,
        end: u8,
        expected: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.space();
        if self.peek() == Some(end) {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            item(self)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == end => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong(expected).into()),
            }
        }
    }

    /// Reads a string.
    pub(crate) fn string(&mut self) -> Result<String, JsonError> {
        self.take(b'"', "a string")?;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let Some(plain) = rest.find(|c: char| c == '"' || c == '\\' || c < ' ') else {
                self.at = self.text.len();
                return Err(self.wrong("the string's end"));
            };
            out.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                _ => return Err(self.wrong("no control character")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        const EXPECTED: &str = "an escape of JSON's";
        self.at += 1;
        let c = match self.peek() {
            Some(quoted @ (b'"' | b'\\' | b'/')) => char::from(quoted),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let first = self.unit()?;
                if !(0xd800..0xdc00).contains(&first) {
                    return char::from_u32(first).ok_or_else(|| self.wrong(EXPECTED));
                }
                self.take(b'\\', EXPECTED)?;
                self.take(b'u', EXPECTED)?;
                let second = self.unit()?;
                if !(0xdc00..0xe000).contains(&second) {
                    return Err(self.wrong(EXPECTED));
                }
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return char::from_u32(code).ok_or_else(|| self.wrong(EXPECTED));
            }
            _ => return Err(self.wrong(EXPECTED)),
        };
        self.at += 1;
        Ok(c)
    }

    /// The four digits of a `\u` escape.
    fn unit(&mut self) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self
                .peek()
                .and_then(|byte| char::from(byte).to_digit(16))
                .ok_or_else(|| self.wrong("a hexadecimal digit"))?;
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }

    /// Passes over a value of any type.
    pub(crate) fn skip(&mut self) -> Result<(), JsonError> {
        self.skip_value(MAX_DEPTH)
    }

    fn skip_value(&mut self, depth: u32) -> Result<(), JsonError> {
        let deeper = || depth.checked_sub(1);
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'{') => {
                let depth = deeper().ok_or(JsonError::Depth { offset: self.at })?;
                self.at += 1;
                self.members(|reader| {
                    reader.string()?;
                    reader.space();
                    reader.take(b':', "a colon")?;
                    reader.space();
                    reader.skip_value(depth)
                })
            }
            Some(b'[') => {
                let depth = deeper().ok_or(JsonError::Depth { offset: self.at })?;
                self.at += 1;
                self.list(b']', "a comma or the array's end", |reader| {
                    reader.skip_value(depth)
                })
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.literal(),
        }
    }

    fn literal(&mut self) -> Result<(), JsonError> {
        for word in ["true", "false", "null"] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(());
            }
        }
        Err(self.wrong("a value"))
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.wrong("a digit"));
        }
        Ok(())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.peek() != Some(byte) {
            return Err(self.wrong(expected));
        }
        self.at += 1;
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn wrong(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax {
            offset: self.at,
            expected,
        }
    }
}
