//! The plain files beside a kernel's modules, and names.

use alloc::string::String;

/// A module's name from its path: the file name up to the first dot, with `_`
/// for `-`. `kernel/drivers/block/virtio-blk.ko.xz` is `virtio_blk`.
#[must_use]
pub fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split('.').next().unwrap_or(file);
    stem.replace('-', "_")
}

/// A name or alias as libkmod compares it: `_` for `-`, except in brackets,
/// where `-` is a range. `None` if brackets do not match.
#[must_use]
pub fn normalize(alias: &str) -> Option<String> {
    let mut in_brackets = false;
    let mut out = String::with_capacity(alias.len());
    for c in alias.chars() {
        match c {
            ']' if !in_brackets => return None,
            ']' => in_brackets = false,
            '[' => in_brackets = true,
            _ => {}
        }
        out.push(if c == '-' && !in_brackets { '_' } else { c });
    }
    (!in_brackets).then_some(out)
}

/// Lines that say something, without their ends.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// modules.dep: `(path, paths of dependencies)`, in the order of the file.
pub(crate) fn dep(
    text: &str,
) -> impl Iterator<Item = (&str, impl DoubleEndedIterator<Item = &str>)> {
    lines(text).filter_map(|line| {
        let (path, needs) = line.split_once(':')?;
        Some((path.trim(), needs.split_ascii_whitespace()))
    })
}

/// The paths in modules.order or modules.builtin, relative to the modules'
/// folder and without the suffix of a compression.
pub fn parse_order(text: &str) -> impl Iterator<Item = &str> {
    lines(text)
}

/// modules.builtin.modinfo: NUL-separated `module.key=value`, as `(module, key,
/// value)`.
pub fn parse_builtin_modinfo(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.split('\0').filter_map(|record| {
        let (name, value) = record.split_once('=')?;
        let (module, key) = name.split_once('.')?;
        Some((module, key, value))
    })
}
