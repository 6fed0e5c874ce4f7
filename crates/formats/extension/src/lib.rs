//! What an extension image (sysext, confext) is called, and what it is for, by its own
//! word: the rules of systemd-sysext and systemd-confext (os-release(5)).
//!
//! # Format
//! `usr/lib/extension-release.d/extension-release.NAME` (of a confext, below `etc`) is a
//! text of lines `NAME=value`. `ID` has to be the image's or `_any`; then `SYSEXT_LEVEL`,
//! where both have it, or else `VERSION_ID`. `ARCHITECTURE` and `SYSEXT_SCOPE` narrow it
//! down further. Of what versions of systemd differ in, the stricter counts: `ID_LIKE` of
//! the image, which only new ones look at, makes nothing fit.
//!
//! A signature says that an extension is its maker's, not that it fits. PID 1, the builder
//! and systemd decide that by the same file, so that what is merged at boot is what
//! `systemd-sysext refresh` would merge again.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::format;
use alloc::string::String;

use ddi::Arch;
use iofs_plan::Stage;

/// What an extension extends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `/usr` and `/opt`.
    Sysext,
    /// `/etc`.
    Confext,
}

impl Kind {
    /// The word for it, which systemd names the mount by, too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sysext => "sysext",
            Self::Confext => "confext",
        }
    }

    /// Where systemd looks for them below /run and /var/lib, and the file in which a
    /// merged hierarchy names them.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Sysext => "extensions",
            Self::Confext => "confexts",
        }
    }

    /// The folders of the root that it extends.
    #[must_use]
    pub fn hierarchies(self) -> &'static [&'static str] {
        match self {
            Self::Sysext => &["usr", "opt"],
            Self::Confext => &["etc"],
        }
    }

    /// Where in an extension of that name it says what it is for.
    #[must_use]
    pub fn release_file(self, name: &str) -> String {
        let place = match self {
            Self::Sysext => "usr/lib",
            Self::Confext => "etc",
        };
        format!("{place}/extension-release.d/extension-release.{name}")
    }

    fn level(self) -> &'static str {
        match self {
            Self::Sysext => "SYSEXT_LEVEL",
            Self::Confext => "CONFEXT_LEVEL",
        }
    }

    fn scope(self) -> &'static str {
        match self {
            Self::Sysext => "SYSEXT_SCOPE",
            Self::Confext => "CONFEXT_SCOPE",
        }
    }
}

/// What a text in the format of os-release(5) assigns to `name`; empty for nothing. The
/// quotes around a value are not part of it; nothing is unescaped.
#[must_use]
pub fn field<'t>(text: &'t str, name: &str) -> &'t str {
    // As in a shell, the last assignment counts.
    let value = text
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
    let value = value.unwrap_or("").trim();
    let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    quoted('"').or_else(|| quoted('\'')).unwrap_or(value)
}

/// The name of the extension in the file `file`, and what its name says that it is.
///
/// # Errors
/// Why it can be no extension's name, as a sentence.
pub fn name_of(file: &str) -> Result<(&str, Option<Kind>), &'static str> {
    let base = file.strip_suffix(".raw").unwrap_or(file);
    let (name, kind) = match base.strip_suffix(".sysext") {
        Some(name) => (name, Some(Kind::Sysext)),
        None => match base.strip_suffix(".confext") {
            Some(name) => (name, Some(Kind::Confext)),
            None => (base, None),
        },
    };
    if !is_name(name) {
        return Err("its name has other than letters, digits and ._-+~^@");
    }
    Ok((name, kind))
}

/// Whether an extension can be called that: it becomes part of paths and of a list of
/// lines.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+~^@".contains(c);
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(is_plain)
}

/// Where an image of that stage says what it is, as paths in it; the first that is there
/// counts. Extensions are compared with that ([`fits`]).
#[must_use]
pub fn host_places(stage: Stage) -> &'static [&'static str] {
    match stage {
        Stage::Initrd => &[
            "etc/initrd-release",
            "usr/lib/initrd-release",
            "etc/os-release",
            "usr/lib/os-release",
        ],
        Stage::System => &["etc/os-release", "usr/lib/os-release"],
    }
}

/// Whether an extension with this extension-release is for the image with this
/// os-release.
///
/// # Errors
/// Why not, as a sentence.
pub fn fits(kind: Kind, release: &str, host: &str, stage: Stage) -> Result<(), String> {
    let scope = match field(release, kind.scope()) {
        // An empty word is as good as none.
        "" => "system portable",
        scope => scope,
    };
    let stage = stage.name();
    if !scope.split_ascii_whitespace().any(|word| word == stage) {
        return Err(format!(
            "{}=\"{}\" does not have the word {stage}, which is what the image is",
            kind.scope(),
            shown(scope)
        ));
    }
    let arch = field(release, "ARCHITECTURE");
    let native = Arch::NATIVE.name();
    if !arch.is_empty() && arch != "_any" && arch != native {
        let arch = shown(arch);
        return Err(format!("it is for {arch}, and this machine is {native}"));
    }
    let same = |name: &str| {
        let (theirs, ours) = (field(release, name), field(host, name));
        match theirs == ours {
            true => Ok(()),
            false => Err(format!(
                "it is for {name}=\"{}\", and the image has {name}=\"{}\"",
                shown(theirs),
                shown(ours)
            )),
        }
    };
    match field(release, "ID") {
        "" => return Err("its extension-release names no ID".into()),
        "_any" => return Ok(()),
        _ => same("ID")?,
    }
    let level = kind.level();
    if !field(host, level).is_empty() && !field(release, level).is_empty() {
        return same(level);
    }
    if !field(host, "VERSION_ID").is_empty() {
        return same("VERSION_ID");
    }
    Ok(())
}

/// A value for messages: nobody may have proven it, and they end on consoles.
fn shown(value: &str) -> String {
    let safe = |c: char| match c {
        ' '..='~' => c,
        _ => '?',
    };
    let mut text: String = value.chars().take(MAX_SHOWN).map(safe).collect();
    if value.chars().nth(MAX_SHOWN).is_some() {
        text.push('…');
    }
    text
}

/// How much of a value is shown, in characters.
const MAX_SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_hostile_values_is_short_and_plain() {
        let release = format!("ID=\u{1b}[2J{}\n", "x".repeat(60_000));
        let why = fits(Kind::Sysext, &release, "ID=debian\n", Stage::System).unwrap_err();
        assert!(why.len() < 200 && !why.contains('\u{1b}'), "{why}");
        assert!(why.starts_with("it is for ID=\"?[2Jxx"), "{why}");
    }

    #[test]
    fn the_last_assignment_counts() {
        let text = "A=1\n#A=2\nXA=3\n A = 4\nB=\"b c\"\nC='\n D='d' \nA=5\n";
        for (name, value) in [("A", "5"), ("B", "b c"), ("C", "'"), ("D", "d"), ("E", "")] {
            assert_eq!(field(text, name), value, "{name}");
        }
    }

    #[test]
    fn names_are_without_their_ends() {
        assert_eq!(name_of("tools.raw"), Ok(("tools", None)));
        assert_eq!(
            name_of("tools-1.2.sysext.raw"),
            Ok(("tools-1.2", Some(Kind::Sysext)))
        );
        assert_eq!(
            name_of("site.confext.raw"),
            Ok(("site", Some(Kind::Confext)))
        );
        for name in [
            ".raw",
            "..raw",
            ".sysext.raw",
            "a/b.raw",
            "a\nb.raw",
            "a b.raw",
            "ü.raw",
        ] {
            assert!(name_of(name).is_err(), "{name}");
        }
        assert!(name_of(&format!("{}.raw", "x".repeat(129))).is_err());
    }

    #[test]
    fn an_extension_fits_as_systemd_has_it() {
        let debian = "ID=debian\nVERSION_ID=\"13\"\n";
        let levelled = "ID=debian\nVERSION_ID=13\nSYSEXT_LEVEL=2\n";
        let rolling = "ID=arch\n";
        let only_level = "ID=arch\nSYSEXT_LEVEL=2\n";
        for (release, host, expected) in [
            ("ID=debian\nVERSION_ID=13\n", debian, true),
            ("ID=debian\nVERSION_ID=12\n", debian, false),
            ("ID=debian\n", debian, false),
            ("ID=fedora\nVERSION_ID=13\n", debian, false),
            ("ID=_any\nVERSION_ID=12\n", debian, true),
            ("VERSION_ID=13\n", debian, false),
            ("", debian, false),
            ("ID=debian\nSYSEXT_LEVEL=2\n", levelled, true),
            (
                "ID=debian\nSYSEXT_LEVEL=1\nVERSION_ID=13\n",
                levelled,
                false,
            ),
            ("ID=debian\nVERSION_ID=13\n", levelled, true),
            // A level that only the extension has says nothing.
            ("ID=debian\nSYSEXT_LEVEL=2\n", debian, false),
            ("ID=arch\n", rolling, true),
            ("ID=arch\nVERSION_ID=7\n", rolling, true),
            ("ID=arch\n", only_level, true),
            ("ID=_any\nARCHITECTURE=_any\n", debian, true),
            ("ID=_any\nARCHITECTURE=s390x\n", debian, false),
            ("ID=_any\nSYSEXT_SCOPE=initrd\n", debian, false),
            ("ID=_any\nSYSEXT_SCOPE=\"initrd system\"\n", debian, true),
            ("ID=_any\nSYSEXT_SCOPE=systems\n", debian, false),
        ] {
            let fits = fits(Kind::Sysext, release, host, Stage::System);
            assert_eq!(fits.is_ok(), expected, "{release:?} on {host:?}: {fits:?}");
        }
    }

    #[test]
    fn an_initrd_takes_what_says_so() {
        let host = "ID=debian\nVERSION_ID=13\n";
        let fits = |kind, release| fits(kind, release, host, Stage::Initrd);
        assert!(fits(Kind::Sysext, "ID=_any\n").is_err());
        assert!(fits(Kind::Sysext, "ID=_any\nSYSEXT_SCOPE=initrd\n").is_ok());
        assert!(fits(Kind::Confext, "ID=_any\nSYSEXT_SCOPE=initrd\n").is_err());
        assert!(fits(Kind::Confext, "ID=_any\nCONFEXT_SCOPE=\"system initrd\"\n").is_ok());
        let native = format!(
            "ID=_any\nSYSEXT_SCOPE=initrd\nARCHITECTURE={}\n",
            Arch::NATIVE.name()
        );
        assert!(fits(Kind::Sysext, &native).is_ok());
    }
}
