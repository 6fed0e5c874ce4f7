//! Keys in the kernel's keyrings (kernel: security/keys/keyctl.c; add_key(2),
//! keyctl(2)).

use alloc::string::String;

use linux_raw_sys::general::{__NR_add_key, __NR_keyctl};
use rustix::io::Errno;

use crate::arch::syscall5;
use crate::error::c_string;
use crate::{Error, Result, file};

/// `KEYCTL_RESTRICT_KEYRING` (include/uapi/linux/keyctl.h).
const RESTRICT_KEYRING: usize = 29;

/// The list of the keys that this process may view.
const LIST: &str = "/proc/keys";

/// The list's greatest length, in bytes: distributions' kernels have some
/// twenty keys, of a line each.
const MAX_LIST: usize = 1 << 20;

/// A keyring, by its serial number (a positive `key_serial_t`) or a special one
/// (a negative one).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyring(u32);

impl Keyring {
    /// The calling process's own (`KEY_SPEC_PROCESS_KEYRING`): it goes with the
    /// process, and with an exec.
    pub const PROCESS: Self = Self(-2i32 as u32);

    /// One of the kernel's own, by its name: `.dm-verity`. `None` if this kernel
    /// has none of that name.
    ///
    /// # Errors
    /// The kernel's; ENOENT if it has no key service at all.
    pub fn find(name: &str) -> Result<Option<Self>> {
        let list = file::read(LIST, MAX_LIST)?;
        Ok(find_in(&list, name).map(Self))
    }

    /// Whether any of the kernel's keyrings has a public key whose description has
    /// `id` in it (`kernel_id` of a certificate, crate `iofs-trust`).
    ///
    /// # Errors
    /// The kernel's; ENOENT if it does not list its keys.
    pub fn any_has(id: &str) -> Result<bool> {
        let list = file::read(LIST, MAX_LIST)?;
        Ok(is_in(&list, id))
    }

    /// Adds a key to it.
    ///
    /// # Errors
    /// The kernel's: EPERM for a keyring that takes no more, EKEYREJECTED or
    /// EBADMSG for a payload that its type does not take.
    pub fn add(self, kind: &str, description: &str, payload: &[u8]) -> Result<()> {
        let texts = c_string(kind.as_bytes())
            .and_then(|kind| Ok((kind, c_string(description.as_bytes())?)));
        let result = texts.and_then(|(kind, description)| {
            // The casts expose the pointers: the kernel reads through them.
            let arguments = [
                kind.as_ptr() as usize,
                description.as_ptr() as usize,
                payload.as_ptr() as usize,
                payload.len(),
                self.argument(),
            ];
            call(__NR_add_key, arguments)
        });
        result
            .map_err(|errno| Error::new("adding a key to the kernel's keyring", description, errno))
    }

    /// Lets nothing more be added to it, by anybody, until the next boot.
    ///
    /// # Errors
    /// The kernel's; EEXIST if it takes nothing more already.
    pub fn seal(self, name: &str) -> Result<()> {
        // No type and no restriction: every key is refused.
        call(__NR_keyctl, [RESTRICT_KEYRING, self.argument(), 0, 0, 0])
            .map_err(|errno| Error::new("sealing keyring", name, errno))
    }

    fn argument(self) -> usize {
        self.0 as usize
    }
}

#[allow(unsafe_code, reason = "rustix does not offer these calls")]
fn call(number: u32, arguments: [usize; 5]) -> core::result::Result<(), Errno> {
    // SAFETY: the only callers are above. add_key reads two C strings and as
    // many payload bytes as it is told, all borrowed for longer than the call;
    // KEYCTL_RESTRICT_KEYRING is given no pointer but NULL, which it takes.
    let result = unsafe { syscall5(number, arguments) };
    match i32::try_from(result) {
        Ok(error) if error < 0 => Err(Errno::from_raw_os_error(-error)),
        _ => Ok(()),
    }
}

/// The serial of the keyring of that name in /proc/keys, whose lines are
/// `SERIAL FLAGS USAGE EXPIRY PERM UID GID TYPE DESCRIPTION: SUMMARY`, the serial
/// in hexadecimal (security/keys/proc.c).
fn find_in(list: &[u8], name: &str) -> Option<u32> {
    let text = String::from_utf8_lossy(list);
    text.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let serial = fields.next()?;
        let kind = fields.nth(6)?;
        let description = fields.next()?.trim_end_matches(':');
        let wanted = kind == "keyring" && description == name;
        u32::from_str_radix(serial, 16).ok().filter(|_| wanted)
    })
}

/// Whether the list has an asymmetric key with `id` in its description. Types are cut
/// off at nine letters.
fn is_in(list: &[u8], id: &str) -> bool {
    // Descriptions are names from certificates, in whatever encoding those have.
    let text = String::from_utf8_lossy(list);
    text.lines().any(|line| {
        let kind = line.split_ascii_whitespace().nth(7);
        kind == Some("asymmetri") && line.contains(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_found_by_its_identifier() {
        let list = b"0df5d8c4 I------     1 perm 1f0b0000     0     0 keyring   .a6cc: empty\n\
                     0129e5e2 I------     1 perm 1f030000     0     0 asymmetri \
                     Debian Secure Boot CA: 6ccece7e4c6c0d1f: X509.rsa 4c6c0d1f []\n";
        assert!(is_in(list, "6ccece7e4c6c0d1f"));
        assert!(!is_in(list, "a6cc"));
        assert!(!is_in(list, "11"));
        assert!(!is_in(b"", ""));
        let mut odd =
            b"0129e5e1 I------ 1 perm 1f030000 0 0 asymmetri Soci\xe9t\xe9: 01: X509.rsa 01 []\n\
            0df5d8c4 I------ 1 perm 1f0b0000 0 0 keyring .dm-verity: empty\n"
                .to_vec();
        assert_eq!(find_in(&odd, ".dm-verity"), Some(0x0df5_d8c4));
        odd.extend_from_slice(list);
        assert!(is_in(&odd, "6ccece7e4c6c0d1f"));
    }

    #[test]
    fn a_keyring_is_found_by_its_name() {
        let list = b"0df5d8c4 I------     1 perm 1f0b0000     0     0 keyring   .dma: empty\n\
                     1f5d8c4a I------     1 perm 1f0f0000     0     0 user      .dm-verity: 3\n\
                     2f5d8c4a I------     1 perm 1f0f0000     0     0 keyring   .dm-verity: 1\n";
        assert_eq!(find_in(list, ".dm-verity"), Some(0x2f5d_8c4a));
        assert_eq!(find_in(list, ".dma"), Some(0x0df5_d8c4));
        assert_eq!(find_in(list, ".platform"), None);
        assert_eq!(find_in(b"\xff", ".dma"), None);
        assert_eq!(find_in(b"1f5d8c4a I--\n", ".dma"), None);
    }

    #[test]
    fn a_key_can_be_added_and_a_wrong_one_not() {
        match Keyring::PROCESS.add("user", "initoverlayfs-test", b"payload") {
            Ok(()) => {
                let error = Keyring::PROCESS.add("no-such-type", "x", b"y").unwrap_err();
                assert_eq!(error.errno(), Errno::NODEV);
            }
            // In a container or on a kernel without keys.
            Err(error) => assert!([Errno::NOSYS, Errno::PERM].contains(&error.errno())),
        }
        assert!(Keyring::PROCESS.add("us\0er", "x", b"y").is_err());
    }
}
