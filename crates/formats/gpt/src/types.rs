//! Partition types, by name.
//!
//! From the Discoverable Partitions Specification
//! (<https://uapi-group.org/specifications/specs/discoverable_partitions_specification/>)
//! and, for what it does not cover (LUKS, LVM, RAID, BIOS boot), from the list
//! that util-linux and gdisk share.

use uuid::{Uuid, uuid};

macro_rules! types {
    ($($(#[doc = $doc:literal])+ $constant:ident = $guid:literal, $name:literal;)+) => {
        $($(#[doc = $doc])+ pub const $constant: Uuid = uuid!($guid);)+

        /// Every type that this module knows, with its name.
        pub const ALL: &[(Uuid, &str)] = &[$(($constant, $name)),+];
    };
}

types! {
    /// EFI system partition: FAT, what the firmware boots from.
    ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "esp";
    /// Extended boot loader partition: more room for kernels beside the ESP.
    XBOOTLDR = "bc13c2ff-59e6-4262-a352-b275fd6f7172", "xbootldr";
    /// Linux file system of no more particular kind.
    LINUX_GENERIC = "0fc63daf-8483-4772-8e79-3d69d8477de4", "linux-generic";
    /// Swap space.
    SWAP = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "swap";
    /// `/home`.
    HOME = "933ac7e1-2eb4-4f13-b844-0e14e2aef915", "home";
    /// `/srv`.
    SRV = "3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "srv";
    /// `/var`.
    VAR = "4d21b016-b534-45c2-a9fb-5c16e091fd2d", "var";
    /// `/var/tmp`.
    TMP = "7ec6f557-3bc5-4aca-b293-16ef5df639d1", "tmp";
    /// A user's home directory.
    USER_HOME = "773f91ef-66d4-49b5-bd83-d683bf40ad16", "user-home";
    /// LUKS volume.
    LUKS = "ca7d7ccb-63ed-4c53-861c-1742536059cc", "luks";
    /// LVM physical volume.
    LVM = "e6d6d379-f507-44c2-a23c-238f2a3df928", "lvm";
    /// Member of a Linux software RAID.
    RAID = "a19d880f-05fc-4d3b-a006-743f0f84911e", "raid";
    /// Where GRUB embeds itself on BIOS machines.
    BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649", "bios-boot";

    /// Root file system, x86-64.
    ROOT_X86_64 = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "root-x86-64";
    /// dm-verity hashes of the root file system, x86-64.
    ROOT_X86_64_VERITY = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5", "root-x86-64-verity";
    /// Signature of the root file system's root hash, x86-64.
    ROOT_X86_64_VERITY_SIG = "41092b05-9fc8-4523-994f-2def0408b176", "root-x86-64-verity-sig";
    /// `/usr`, x86-64.
    USR_X86_64 = "8484680c-9521-48c6-9c11-b0720656f69e", "usr-x86-64";
    /// dm-verity hashes of `/usr`, x86-64.
    USR_X86_64_VERITY = "77ff5f63-e7b6-4633-acf4-1565b864c0e6", "usr-x86-64-verity";
    /// Signature of `/usr`'s root hash, x86-64.
    USR_X86_64_VERITY_SIG = "e7bb33fb-06cf-4e81-8273-e543b413e2e2", "usr-x86-64-verity-sig";

    /// Root file system, 64-bit ARM.
    ROOT_ARM64 = "b921b045-1df0-41c3-af44-4c6f280d3fae", "root-arm64";
    /// dm-verity hashes of the root file system, 64-bit ARM.
    ROOT_ARM64_VERITY = "df3300ce-d69f-4c92-978c-9bfb0f38d820", "root-arm64-verity";
    /// Signature of the root file system's root hash, 64-bit ARM.
    ROOT_ARM64_VERITY_SIG = "6db69de6-29f4-4758-a7a5-962190f00ce3", "root-arm64-verity-sig";
    /// `/usr`, 64-bit ARM.
    USR_ARM64 = "b0e01050-ee5f-4390-949a-9101b17104e9", "usr-arm64";
    /// dm-verity hashes of `/usr`, 64-bit ARM.
    USR_ARM64_VERITY = "6e11a4e7-fbca-4ded-b9e9-e1a512bb664e", "usr-arm64-verity";
    /// Signature of `/usr`'s root hash, 64-bit ARM.
    USR_ARM64_VERITY_SIG = "c23ce4ff-44bd-4b00-b2d4-b41b3419e02a", "usr-arm64-verity-sig";
}

/// The name of a partition type, as `systemd-id128 show` and systemd-repart
/// write it; `None` for one that this module does not know.
#[must_use]
pub fn name(guid: Uuid) -> Option<&'static str> {
    ALL.iter()
        .find_map(|&(known, name)| (known == guid).then_some(name))
}

/// The partition type of that name.
#[must_use]
pub fn from_name(name: &str) -> Option<Uuid> {
    ALL.iter()
        .find_map(|&(guid, known)| (known == name).then_some(guid))
}
