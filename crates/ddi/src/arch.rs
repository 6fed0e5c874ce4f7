//! Partition types by architecture and role.

use core::fmt;

use iofs_gpt::types;
use uuid::Uuid;

/// An architecture with partition types of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Arm64,
}

impl Arch {
    /// The architecture that this program runs on.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub const NATIVE: Self = if cfg!(target_arch = "x86_64") {
        Self::X86_64
    } else {
        Self::Arm64
    };

    /// The name in partition labels, as systemd-repart writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64",
            Self::Arm64 => "arm64",
        }
    }

    /// The partition type for a role.
    #[must_use]
    pub fn type_guid(self, role: Role) -> Uuid {
        match (self, role) {
            (Self::X86_64, Role::Root) => types::ROOT_X86_64,
            (Self::X86_64, Role::Verity) => types::ROOT_X86_64_VERITY,
            (Self::X86_64, Role::Signature) => types::ROOT_X86_64_VERITY_SIG,
            (Self::Arm64, Role::Root) => types::ROOT_ARM64,
            (Self::Arm64, Role::Verity) => types::ROOT_ARM64_VERITY,
            (Self::Arm64, Role::Signature) => types::ROOT_ARM64_VERITY_SIG,
        }
    }
}

/// What a partition of an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The root file system.
    Root,
    /// Its dm-verity superblock and tree.
    Verity,
    /// The root hash's signature.
    Signature,
}

impl Role {
    /// The roles in the order in which images are written.
    pub const ALL: [Self; 3] = [Self::Root, Self::Verity, Self::Signature];

    /// What the role adds to a partition's label.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Verity => "-verity",
            Self::Signature => "-verity-sig",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "root{}", self.suffix())
    }
}
