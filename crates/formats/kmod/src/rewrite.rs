//! modules.dep for files that have been renamed.

use alloc::string::String;

/// Replaces every path in a modules.dep by what `rename` makes of it, as when
/// `foo.ko.xz` became `foo.ko`, and leaves all else as it is. libkmod does not
/// read this file but modules.dep.bin: make that with [`crate::dep_index`].
/// modules.order and modules.builtin never have a compression's suffix.
pub fn rewrite_dep(text: &str, mut rename: impl FnMut(&str) -> String) -> String {
    const SEPARATORS: [char; 5] = [' ', '\t', '\n', '\r', ':'];
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if line.starts_with('#') {
            out.push_str(line);
            continue;
        }
        for piece in line.split_inclusive(SEPARATORS) {
            let path = piece.trim_end_matches(SEPARATORS);
            if !path.is_empty() {
                out.push_str(&rename(path));
            }
            out.push_str(piece.get(path.len()..).unwrap_or(""));
        }
    }
    out
}
