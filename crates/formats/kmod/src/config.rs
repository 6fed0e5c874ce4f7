//! modprobe.d(5), and modules.alias, modules.softdep and modules.weakdep, which
//! have the same syntax.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::text::normalize;

/// A configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigFile<'a> {
    /// Its file name (`blacklist.conf`) or path; the last component decides
    /// about its place among the others.
    pub name: &'a str,
    /// Its contents.
    pub text: &'a str,
}

/// A line that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file's name, as given.
    pub file: String,
    /// The number of the (last physical) line, from 1.
    pub line: usize,
    /// The command that the line begins with.
    pub command: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} line {}: \"{}\" is not understood and is ignored",
            self.file,
            self.line,
            self.command.escape_debug()
        )
    }
}

/// `softdep NAME pre: … post: …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Softdep {
    /// A shell pattern over module names.
    pub(crate) name: String,
    pub(crate) pre: Vec<String>,
    pub(crate) post: Vec<String>,
}

/// `install NAME COMMAND`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// A shell pattern over module names.
    pub(crate) name: String,
    pub(crate) command: String,
    pub(crate) file: String,
    pub(crate) line: usize,
}

/// Everything that configuration says, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Config {
    pub(crate) aliases: Vec<(String, String)>,
    pub(crate) options: Vec<(String, String)>,
    pub(crate) blacklist: Vec<String>,
    pub(crate) install: Vec<Command>,
    pub(crate) remove: Vec<Command>,
    pub(crate) softdeps: Vec<Softdep>,
    pub(crate) weakdeps: Vec<(String, Vec<String>)>,
    pub(crate) warnings: Vec<Warning>,
}

impl Config {
    /// Adds what a file says to what earlier ones said.
    pub(crate) fn parse(&mut self, file: &ConfigFile<'_>) {
        for (line, text) in logical_lines(file.text) {
            let text = text.trim_matches([' ', '\t']);
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (command, rest) = word(text);
            if self.command(file, line, command, rest).is_none() {
                self.warnings.push(Warning {
                    file: file.name.to_string(),
                    line,
                    command: command.to_string(),
                });
            }
        }
    }

    fn command(
        &mut self,
        file: &ConfigFile<'_>,
        line: usize,
        command: &str,
        rest: &str,
    ) -> Option<()> {
        let (name, rest) = word(rest);
        let name = normalize(name).filter(|name| !name.is_empty())?;
        if command == "blacklist" {
            self.blacklist.push(name);
            return Some(());
        }
        if rest.is_empty() {
            return None;
        }
        let words = || rest.split_ascii_whitespace().map(String::from).collect();
        match command {
            "alias" => self.aliases.push((name, normalize(word(rest).0)?)),
            "options" => self.options.push((name, rest.to_string())),
            "softdep" => self.softdeps.push(softdep(name, rest)),
            "weakdep" => self.weakdeps.push((name, words())),
            "install" | "remove" => {
                let command_line = Command {
                    name,
                    command: rest.to_string(),
                    file: file.name.to_string(),
                    line,
                };
                match command {
                    "install" => self.install.push(command_line),
                    _ => self.remove.push(command_line),
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// The words before the first marker belong to neither list, as in the lines
/// that depmod makes of cifs's `MODULE_SOFTDEP("gcm")`.
fn softdep(name: String, rest: &str) -> Softdep {
    let (mut pre, mut post, mut ignored) = (Vec::new(), Vec::new(), Vec::new());
    let mut list = &mut ignored;
    for word in rest.split_ascii_whitespace() {
        match word {
            "pre:" => list = &mut pre,
            "post:" => list = &mut post,
            _ => list.push(word.to_string()),
        }
    }
    Softdep { name, pre, post }
}

fn word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_start_matches([' ', '\t']))
}

/// Lines, joined where one ends with a backslash, with the number of the last;
/// any other backslash only makes the next character stand.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut current = String::new();
    let mut number = 1;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\n' => {
                lines.push((number, core::mem::take(&mut current)));
                number += 1;
            }
            '\\' => match chars.next() {
                Some('\n') => number += 1,
                Some(other) => current.push(other),
                None => {}
            },
            _ => current.push(c),
        }
    }
    if !current.is_empty() {
        lines.push((number, current));
    }
    lines
}
