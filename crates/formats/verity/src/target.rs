//! The device-mapper table of a verity device.
//!
//! Documentation/admin-guide/device-mapper/verity.rst; the arguments are split
//! at white space with backslash as the escape (`dm_split_args`).

use alloc::string::String;
use core::fmt::{self, Write as _};

use crate::{Params, RootHash};

/// The unit of table lines, in bytes.
const SECTOR: u64 = 512;

/// What the kernel does when a block does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCorruption {
    /// The read fails with EIO, the kernel logs it.
    #[default]
    Error,
    /// The machine restarts.
    Restart,
    /// The kernel panics.
    Panic,
}

impl OnCorruption {
    fn option(self) -> Option<&'static str> {
        match self {
            Self::Error => None,
            Self::Restart => Some("restart_on_corruption"),
            Self::Panic => Some("panic_on_corruption"),
        }
    }
}

/// Why there is no such table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetError<'a> {
    /// A device's name or a key's description is empty, or has white space, a
    /// backslash or a control character in it.
    Word(&'a str),
    /// The root hash is of another hash function than the tree.
    RootHash {
        /// The root hash.
        root: RootHash,
    },
    /// The tree would lie over the data, on the same device.
    Overlap {
        /// Where the tree starts, in hash blocks.
        hash_start: u64,
    },
}

impl fmt::Display for TargetError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(
                f,
                "\"{}\" cannot stand in a device-mapper table",
                word.escape_default()
            ),
            Self::RootHash { root } => write!(
                f,
                "the root hash {root} is of another hash function than the tree"
            ),
            Self::Overlap { hash_start } => write!(
                f,
                "a hash tree at hash block {hash_start} would lie over the data on the same device"
            ),
        }
    }
}

impl core::error::Error for TargetError<'_> {}

/// A verity device to set up, the only target of its table.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The data device: a path or `MAJOR:MINOR`.
    pub data_device: &'a str,
    /// The hash device, likewise; may be the same.
    pub hash_device: &'a str,
    /// Where the tree starts on the hash device, in hash blocks: see
    /// [`Params::tree_start`].
    pub hash_start: u64,
    /// What the tree is made with.
    pub params: &'a Params,
    /// The root hash.
    pub root: &'a RootHash,
    /// What happens when a block does not match.
    pub on_corruption: OnCorruption,
    /// Description of the `user` key in the caller's keyrings that holds the
    /// root hash's PKCS#7 signature, for the kernel to check.
    pub signature_key: Option<&'a str>,
    /// Whether a data block is checked at its first read only. It saves time,
    /// and gives up what protects against a medium that changes later.
    pub check_at_most_once: bool,
}

impl<'a> Target<'a> {
    /// The target's name in the kernel.
    pub const NAME: &'static str = "verity";

    /// Length of the device, in 512-byte sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.params.data_len() / SECTOR
    }

    /// The target's arguments: `1 <data> <hash> <block sizes> <data blocks>
    /// <tree start> <hash function> <root hash> <salt> [<count> <options>]`.
    ///
    /// # Errors
    /// If a word would break the line, the root hash is not of the tree's hash
    /// function, or the tree lies over the data.
    pub fn arguments(&self) -> Result<String, TargetError<'a>> {
        self.check()?;
        let params = self.params;
        let mut line = String::new();
        // Writing to a String does not fail.
        let _ = write!(
            line,
            "1 {} {} {} {} {} {} {} {} ",
            self.data_device,
            self.hash_device,
            params.data_block_size(),
            params.hash_block_size(),
            params.data_blocks(),
            self.hash_start,
            params.algorithm(),
            self.root,
        );
        match params.salt() {
            [] => line.push('-'),
            salt => line.push_str(&base16ct::lower::encode_string(salt)),
        }
        let key = self
            .signature_key
            .map(|key| ["root_hash_sig_key_desc", key]);
        let options = [
            self.on_corruption.option(),
            self.check_at_most_once.then_some("check_at_most_once"),
            key.map(|[word, _]| word),
            key.map(|[_, key]| key),
        ];
        let count = options.iter().flatten().count();
        if count > 0 {
            let _ = write!(line, " {count}");
        }
        for option in options.into_iter().flatten() {
            line.push(' ');
            line.push_str(option);
        }
        Ok(line)
    }

    fn check(&self) -> Result<(), TargetError<'a>> {
        let words = [
            Some(self.data_device),
            Some(self.hash_device),
            self.signature_key,
        ];
        for word in words.into_iter().flatten() {
            let breaks = |c: char| c.is_whitespace() || c.is_control() || c == '\\';
            if word.is_empty() || word.contains(breaks) {
                return Err(TargetError::Word(word));
            }
        }
        if self.root.algorithm() != self.params.algorithm() {
            return Err(TargetError::RootHash { root: *self.root });
        }
        let start = self
            .hash_start
            .saturating_mul(self.params.hash_block_size().into());
        if self.data_device == self.hash_device && start < self.params.data_len() {
            return Err(TargetError::Overlap {
                hash_start: self.hash_start,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Algorithm;
    use alloc::vec;
    use alloc::vec::Vec;

    const ROOT: &str = "4392712ba01368efdf14b05c76f9e4df0d53664630b5d48632ed17a137f39076";

    fn params(salt: Vec<u8>) -> Params {
        Params::new(Algorithm::Sha256, 4096, 4096, 262_144, salt).unwrap()
    }

    fn target<'a>(params: &'a Params, root: &'a RootHash) -> Target<'a> {
        Target {
            data_device: "/dev/sda1",
            hash_device: "/dev/sda2",
            hash_start: 1,
            params,
            root,
            on_corruption: OnCorruption::Error,
            signature_key: None,
            check_at_most_once: false,
        }
    }

    /// The example of the kernel's document.
    #[test]
    fn the_kernels_example() {
        let mut salt = vec![0; 32];
        salt[..2].copy_from_slice(&[0x12, 0x34]);
        let (params, root) = (params(salt), RootHash::from_hex(ROOT).unwrap());
        let target = target(&params, &root);
        assert_eq!(target.sectors(), 2_097_152);
        assert_eq!(
            target.arguments().unwrap(),
            "1 /dev/sda1 /dev/sda2 4096 4096 262144 1 sha256 \
             4392712ba01368efdf14b05c76f9e4df0d53664630b5d48632ed17a137f39076 \
             1234000000000000000000000000000000000000000000000000000000000000"
        );
    }

    #[test]
    fn options_are_counted_in_words() {
        let (params, root) = (params(vec![]), RootHash::from_hex(ROOT).unwrap());
        let options = |on_corruption, signature_key, check_at_most_once| {
            let target = Target {
                on_corruption,
                signature_key,
                check_at_most_once,
                ..target(&params, &root)
            };
            let line = target.arguments().unwrap();
            line.split_once(" - ").unwrap().1.trim().into()
        };
        let all: String = options(OnCorruption::Panic, Some("initoverlayfs:root"), true);
        assert_eq!(
            all,
            "4 panic_on_corruption check_at_most_once root_hash_sig_key_desc initoverlayfs:root"
        );
        let one: String = options(OnCorruption::Restart, None, false);
        assert_eq!(one, "1 restart_on_corruption");
    }

    #[test]
    fn no_word_breaks_the_line() {
        let (params, root) = (params(vec![]), RootHash::from_hex(ROOT).unwrap());
        for word in ["", "a b", "a\\", "a\n", "\u{1}", "a\u{a0}b"] {
            for bad in [
                Target {
                    data_device: word,
                    ..target(&params, &root)
                },
                Target {
                    hash_device: word,
                    ..target(&params, &root)
                },
                Target {
                    signature_key: Some(word),
                    ..target(&params, &root)
                },
            ] {
                assert_eq!(bad.arguments(), Err(TargetError::Word(word)));
            }
        }
    }

    #[test]
    fn tree_and_root_hash_must_fit() {
        let (params, root) = (params(vec![]), RootHash::from_hex(ROOT).unwrap());
        let same = |hash_start| Target {
            hash_device: "/dev/sda1",
            hash_start,
            ..target(&params, &root)
        };
        assert!(same(262_144).arguments().is_ok());
        assert_eq!(
            same(262_143).arguments(),
            Err(TargetError::Overlap {
                hash_start: 262_143
            })
        );
        let wide = RootHash::from_bytes(&[7; 64]).unwrap();
        assert_eq!(
            target(&params, &wide).arguments(),
            Err(TargetError::RootHash { root: wide })
        );
    }
}
