//! Which Debian mirror this machine uses, from apt's own configuration.

use std::fs;
use std::path::Path;

/// The archive's address in `/etc/apt`, if a Debian archive is configured
/// there; else debootstrap's default is right.
#[must_use]
pub fn configured() -> Option<String> {
    let mut files = vec![Path::new("/etc/apt/sources.list").to_owned()];
    let mut parts: Vec<_> = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    parts.sort();
    files.extend(parts);
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension()?.to_str()? {
            "list" => from_list(&text),
            "sources" => from_deb822(&text),
            _ => None,
        }
    })
}

/// From one-line entries: `deb [options] URI suite component...`.
fn from_list(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut rest = line.trim().strip_prefix("deb ")?.trim_start();
        if let Some(options) = rest.strip_prefix('[') {
            rest = options.split_once(']')?.1.trim_start();
        }
        let mut words = rest.split_whitespace();
        let uri = words.next()?;
        let suite = words.next()?;
        accept(uri, suite)
    })
}

/// From stanzas of `Field: value` lines.
fn from_deb822(text: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no")) {
            return None;
        }
        let suites = field("Suites")?;
        field("URIs")?
            .split_whitespace()
            .find_map(|uri| accept(uri, suites.split_whitespace().next()?))
    })
}

/// Debian's own archive lies in a folder `debian`; the security archive and
/// third parties' do not hold a base system.
fn accept(uri: &str, suite: &str) -> Option<String> {
    let http = uri.starts_with("http://") || uri.starts_with("https://");
    let debian = uri.trim_end_matches('/').ends_with("/debian");
    let base = !suite.contains("security") && !suite.ends_with('/');
    (http && debian && base).then(|| uri.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_archive_is_found_among_others() {
        let list = "# deb http://mirror.example/debian trixie main\n\
                    deb-src http://mirror.example/debian trixie main\n\
                    deb http://mirror.example/debian-security bookworm-security main\n\
                    deb [arch=amd64 signed-by=/k] https://mirror.example/debian/ bookworm main\n";
        assert_eq!(
            from_list(list).as_deref(),
            Some("https://mirror.example/debian/")
        );
        let sources = "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: sid\n\n\
                       Types: deb\nURIs: http://other.example/stable\nSuites: nodistro\n\n\
                       Types: deb\n# URIs: x\nURIs: http://mirror.example/debian\n\
                       Suites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(
            from_deb822(sources).as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(
            from_list("deb http://mirror.example/ubuntu noble main"),
            None
        );
        assert_eq!(from_deb822(""), None);
    }
}
