//! The boot entry's text.

use crate::error::InstallError;

/// What an entry says.
pub(crate) struct Entry<'a> {
    pub(crate) title: &'a str,
    pub(crate) version: &'a str,
    pub(crate) sort_key: &'a str,
    pub(crate) machine_id: Option<&'a str>,
    pub(crate) linux: &'a str,
    pub(crate) initrd: &'a str,
    pub(crate) options: &'a str,
}

pub(crate) fn text(entry: &Entry<'_>) -> Result<String, InstallError> {
    let mut out = String::new();
    let mut line = |key: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("{key:<10} {value}\n"));
        }
    };
    line("title", entry.title);
    line("version", entry.version);
    line("machine-id", entry.machine_id.unwrap_or(""));
    line("sort-key", entry.sort_key);
    line("linux", entry.linux);
    line("initrd", entry.initrd);
    line("options", entry.options);
    Ok(out)
}
