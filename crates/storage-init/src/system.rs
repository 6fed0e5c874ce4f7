//! What an image needs that is the operating system and no initrd.
//!
//! systemd trusts less inside an initrd than outside of it: there, credentials of
//! the ESP have to be encrypted and extensions of the ESP to be signed. Here no
//! systemd ever runs inside an initrd, so what it would hold back there never gets to
//! where it looks outside: `/.extra` is not in the new root. Of its content only what
//! proves itself is handed on.

use alloc::format;
use alloc::string::String;

use iofs_plan::Selector;
use kernel_abi::file::{self, Kind};
use kernel_abi::tree::Source;

use crate::image::Found;
use crate::log::Log;
use crate::paths::Paths;
use crate::{boot_json, direct};

/// Where systemd takes the disk from whose partitions it looks through, if the root
/// is on none: a link to the device (`blockdev_get_root` in src/shared).
const VOLATILE_ROOT: &str = "/run/systemd/volatile-root";

/// Where services with `ImportCredential=` and `LoadCredentialEncrypted=` look, and
/// take nothing that cannot be decrypted. The other way there is, an environment
/// variable that names `/run/credentials/@encrypted`, keeps systemd from importing
/// any other credential.
const STORE: &str = "/run/credstore.encrypted";

/// Where systemd-stub leaves credentials, of one UKI and of all; the first wins.
const CREDENTIALS: [&str; 2] = ["credentials", "global_credentials"];

/// The signatures of PCR 11's values that came with the UKI: the TPM checks them by
/// the key that a volume was enrolled with. That key itself is left out, as what is
/// enrolled next would trust it.
const SIGNATURE: [&str; 2] = [
    "tpm2-pcr-signature.json",
    "/run/systemd/tpm2-pcr-signature.json",
];

/// The greatest signature file, in bytes.
const MAX_SIGNATURE: usize = 1 << 20;

/// The greatest encrypted credential, in bytes, as systemd has it.
const MAX_CREDENTIAL: usize = (1 << 20) + (128 << 10);

/// The most bytes of credentials in all: they stay in memory.
const MAX_CREDENTIALS: usize = 4 << 20;

/// The greatest length of a credential's name (systemd's FDNAME_MAX).
const MAX_NAME: usize = 255;

/// How encrypted credentials begin whose key is the host's, the TPM's or both, the
/// last two also with a signed PCR policy: systemd's 128-bit id of the sort, in
/// base64 (the first 126 bits). The one with an empty key, which anybody can make,
/// is not among them.
const KEYED: [&[u8; 21]; 5] = [
    b"Whxqht+dQJax1aZeCGLxm",
    b"DHzAexF2RZGcSwvqCLwg/",
    b"+vfrk0HjQSyhpDb5Wik2L",
    b"k6iUCUh0RJCQyvL8k8q1U",
    b"r0lQqEkTTrGnOEYwT/MMB",
];

/// The image's file as a unit's environment, for the unit that holds it (see the
/// builder's `system.rs`).
const IMAGE_ENV: &str = "/run/initoverlayfs/image.env";

/// Tells the system what it was booted from, and hands on what of `/.extra` proves
/// itself. A boot does not fail for want of it: failures are logged.
pub fn prepare(found: &Found, paths: &Paths, log: &mut Log) {
    for folder in ["/run/systemd", boot_json::FOLDER] {
        if let Err(error) = file::mkdir(folder) {
            log.warn(format_args!("{error}"));
        }
    }
    if !matches!(
        found.candidate.partition,
        Selector::Pmem { .. } | Selector::Embedded
    ) {
        if let Err(error) = name_disk(&found.part.name, paths) {
            log.warn(format_args!(
                "systemd will not find the other partitions of the boot disk: {error}"
            ));
        }
    }
    if let Some(path) = &found.candidate.file {
        if let Err(error) = file::write(IMAGE_ENV, format!("IMAGE_FILE={path}\n").as_bytes()) {
            log.warn(format_args!("the image's file will not be held: {error}"));
        }
    }
    if is_folder(&paths.extra) {
        import(&paths.extra, log);
        // For whoever looks for it, and out of systemd's sight.
        let source = match file::is_in_memory("/") {
            Ok(true) => Source::Freed,
            _ => Source::Kept,
        };
        direct::keep_appended(source, log);
    }
}

fn name_disk(partition: &str, paths: &Paths) -> kernel_abi::Result<()> {
    let number = file::read_line(&format!("{}/class/block/{partition}/dev", paths.sys))?;
    file::symlink(&format!("/dev/block/{number}"), VOLATILE_ROOT)
}

/// Whether there is a folder that is no link.
fn is_folder(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = if folder.is_empty() { "/" } else { folder };
    file::list(folder).is_ok_and(|entries| {
        entries
            .iter()
            .any(|(entry, kind)| entry == name && *kind == Kind::Folder)
    })
}

fn import(extra: &str, log: &mut Log) {
    let [name, to] = SIGNATURE;
    let from = file::join(extra, name);
    if file::exists(&from) {
        let copied = file::read(&from, MAX_SIGNATURE).and_then(|text| file::write(to, &text));
        if let Err(error) = copied {
            log.warn(format_args!("the UKI's PCR signatures are lost: {error}"));
        }
    }
    let mut room = MAX_CREDENTIALS;
    for folder in CREDENTIALS {
        let folder = file::join(extra, folder);
        if !is_folder(&folder) {
            continue;
        }
        match file::list(&folder) {
            Err(error) => log.warn(format_args!("credentials are lost: {error}")),
            Ok(entries) => {
                for (name, kind) in entries {
                    let path = file::join(&folder, &name);
                    match credential(&path, &name, kind, &mut room) {
                        Ok(()) => log.info(format_args!("took the encrypted credential {path}")),
                        Err(why) => log.warn(format_args!("left out the credential {path}: {why}")),
                    }
                }
            }
        }
    }
}

/// Hands one on, or says why not.
fn credential(path: &str, name: &str, kind: Kind, room: &mut usize) -> Result<(), String> {
    let name = credential_name(name).ok_or("this is no name of one (NAME.cred)")?;
    if kind != Kind::File {
        return Err("it is no file".into());
    }
    let text = |error: kernel_abi::Error| format!("{error}");
    let bytes = file::read(path, MAX_CREDENTIAL.min(*room)).map_err(text)?;
    if !is_keyed(&bytes) {
        return Err(
            "it is not encrypted for this machine, so anybody can have written it (use \
             systemd-creds encrypt, with the TPM's or the host's key)"
                .into(),
        );
    }
    let to = file::join(STORE, name);
    if file::exists(&to) {
        return Err("there is one of that name already".into());
    }
    file::mkdir(STORE)
        .and_then(|()| file::write(&to, &bytes))
        .map_err(text)?;
    *room -= bytes.len();
    Ok(())
}

/// The name that a service knows it by: a file's and a descriptor's, as systemd
/// demands.
fn credential_name(file: &str) -> Option<&str> {
    let name = file.strip_suffix(".cred")?;
    let good = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b':' && byte != b'/';
    let sound = !name.is_empty()
        && name != "."
        && name != ".."
        && name.len() <= MAX_NAME
        && name.bytes().all(good);
    sound.then_some(name)
}

/// Whether nobody without the machine's keys can have made it.
fn is_keyed(bytes: &[u8]) -> bool {
    KEYED.iter().any(|id| bytes.starts_with(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keyed_credentials_pass() {
        assert!(is_keyed(
            b"k6iUCUh0RJCQyvL8k8q1UyAAAAABAAAADAAAABAAAAC1lFmbWAqZ8dCCQkk"
        ));
        // Encrypted with an empty key (systemd-creds encrypt --with-key=null).
        assert!(!is_keyed(b"BYRp2vb1QySABUnaD46i+yAAAAABAAAADAAAABAAAAA"));
        for plain in [
            &b"secret\n"[..],
            b"",
            b"k6iUCUh0RJCQyvL8k8q1",
            b" k6iUCUh0RJCQyvL8k8q1U",
        ] {
            assert!(!is_keyed(plain));
        }
    }

    #[test]
    fn names_are_systemds() {
        assert_eq!(credential_name("a.b.cred"), Some("a.b"));
        for bad in [
            "a",
            ".cred",
            "..cred",
            "...cred",
            "a:b.cred",
            "a\nb.cred",
            "ä.cred",
        ] {
            assert_eq!(credential_name(bad), None, "{bad:?}");
        }
    }
}
