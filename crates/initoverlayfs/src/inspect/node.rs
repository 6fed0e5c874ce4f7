//! The outline that an inspection yields.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::ui;

/// A thing: what it is, facts about it, files in it, parts of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    kind: &'static str,
    name: Option<String>,
    facts: Vec<(&'static str, Fact)>,
    files: Vec<Listed>,
    parts: Vec<Node>,
}

/// A fact's value.
#[derive(Debug, Clone)]
pub(crate) enum Fact {
    Text(String),
    /// Bytes.
    Size(u64),
    Number(u64),
    Flag(bool),
    List(Vec<String>),
}

/// A file in a list.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(crate) struct Listed {
    pub(crate) path: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// Permission bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    /// Target of a symbolic link, numbers of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
}

impl From<String> for Fact {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Fact {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<bool> for Fact {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<Vec<String>> for Fact {
    fn from(list: Vec<String>) -> Self {
        Self::List(list)
    }
}

impl Fact {
    /// A count or another plain number.
    pub(crate) fn number(n: impl TryInto<u64>) -> Self {
        Self::Number(n.try_into().unwrap_or(u64::MAX))
    }

    /// A size in bytes.
    pub(crate) fn size(n: impl TryInto<u64>) -> Self {
        Self::Size(n.try_into().unwrap_or(u64::MAX))
    }
}

impl Node {
    pub(crate) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    #[must_use]
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    #[must_use]
    pub(crate) fn fact(mut self, key: &'static str, value: impl Into<Fact>) -> Self {
        self.facts.push((key, value.into()));
        self
    }

    /// Adds the fact if there is a value.
    #[must_use]
    pub(crate) fn fact_if(self, key: &'static str, value: Option<impl Into<Fact>>) -> Self {
        match value {
            Some(value) => self.fact(key, value),
            None => self,
        }
    }

    #[must_use]
    pub(crate) fn part(mut self, part: Node) -> Self {
        self.parts.push(part);
        self
    }

    #[must_use]
    pub(crate) fn files(mut self, files: Vec<Listed>) -> Self {
        self.files = files;
        self
    }

    /// Prints the outline to standard output.
    pub(crate) fn print(&self) {
        self.print_at(0);
    }

    fn print_at(&self, depth: usize) {
        let indent = "  ".repeat(depth);
        let name = self.name.as_deref().map(clean).unwrap_or_default();
        let head = if depth == 0 && !name.is_empty() {
            format!("{name}: {}", self.kind)
        } else {
            format!("{} {name}", self.kind)
        };
        let bold = anstyle::Style::new().bold();
        anstream::println!("{indent}{bold}{}{bold:#}", head.trim_end());
        let width = self.facts.iter().map(|(key, _)| key.len()).max();
        let width = width.unwrap_or(0);
        for (key, value) in &self.facts {
            let key = key.replace('_', " ");
            match value {
                Fact::List(lines) if lines.len() != 1 => {
                    anstream::println!("{indent}  {key}:");
                    for line in lines {
                        anstream::println!("{indent}    {}", clean(line));
                    }
                }
                _ => anstream::println!("{indent}  {key:<width$}  {}", value.text()),
            }
        }
        for file in &self.files {
            anstream::println!("{indent}  {}", file.line());
        }
        for part in &self.parts {
            part.print_at(depth + 1);
        }
    }
}

impl Fact {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => clean(text),
            Self::Size(bytes) if *bytes >= 1024 => format!("{} ({bytes} bytes)", ui::size(*bytes)),
            Self::Size(bytes) => ui::size(*bytes),
            Self::Number(n) => n.to_string(),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.into(),
            Self::List(lines) => clean(&lines.join(", ")),
        }
    }
}

impl Listed {
    fn line(&self) -> String {
        let letter = match self.kind {
            "directory" => 'd',
            "symlink" => 'l',
            "block-device" => 'b',
            "char-device" => 'c',
            "fifo" => 'p',
            "socket" => 's',
            _ => '-',
        };
        let mode = match self.mode {
            Some(mode) => format!("{:04o}", mode & 0o7777),
            None => "    ".into(),
        };
        let size = self.size.map(|n| n.to_string()).unwrap_or_default();
        let target = match &self.target {
            Some(target) => format!(" -> {}", clean(target)),
            None => String::new(),
        };
        format!("{letter}{mode} {size:>10} {}{target}", clean(&self.path))
    }
}

/// Text from a file, without what could steer a terminal.
fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
            let escaped = escape.then(|| c.escape_unicode());
            let plain = (!escape).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

impl Serialize for Fact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(serializer),
            Self::Size(n) | Self::Number(n) => n.serialize(serializer),
            Self::Flag(flag) => flag.serialize(serializer),
            Self::List(list) => list.serialize(serializer),
        }
    }
}

/// `kind`, `name`, the facts under their own keys, then `files` and `parts`
/// where there are any.
impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", self.kind)?;
        if let Some(name) = &self.name {
            map.serialize_entry("name", name)?;
        }
        for (key, value) in &self.facts {
            map.serialize_entry(key, value)?;
        }
        if !self.files.is_empty() {
            map.serialize_entry("files", &self.files)?;
        }
        if !self.parts.is_empty() {
            map.serialize_entry("parts", &self.parts)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_the_order_and_leaves_empty_lists_out() {
        let node = Node::new("gpt-disk")
            .fact("size", Fact::size(4096u32))
            .part(Node::new("fat").named("1").fact("dirty", false));
        assert_eq!(
            serde_json::to_string(&node).unwrap(),
            r#"{"kind":"gpt-disk","size":4096,"parts":[{"kind":"fat","name":"1","dirty":false}]}"#
        );
    }

    #[test]
    fn a_hostile_name_cannot_steer_the_terminal() {
        assert_eq!(
            clean("a\x1b[2Jb\n\u{202e}c"),
            "a\\u{1b}[2Jb\\u{a}\\u{202e}c"
        );
        assert_eq!(clean("Größe"), "Größe");
    }
}
