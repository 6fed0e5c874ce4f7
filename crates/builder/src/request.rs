//! What a caller asks for.

use crate::profile::HotFiles;
use crate::sign::Signer;
use iofs_plan::{
    Appended, Auth, Candidate, Direct, Extensions, OnCorruption, OnFailure, Stage, Uuid,
};
use std::path::PathBuf;

/// Where the init image's files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An existing initramfs file: cpio segments, each compressed or not.
    Initrd(PathBuf),
    /// A root tree; it is copied, never changed.
    Root(PathBuf),
    /// The initramfs that a generator makes.
    Generator(GeneratorRun),
}

/// A generator of initramfs files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    /// `dracut --no-hostonly`.
    Dracut,
    /// `mkinitramfs` of initramfs-tools.
    InitramfsTools,
    /// `mkosi-initrd`.
    Mkosi,
}

impl Generator {
    /// Every generator.
    pub const ALL: [Self; 3] = [Self::Dracut, Self::InitramfsTools, Self::Mkosi];

    /// The word for it on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dracut => "dracut",
            Self::InitramfsTools => "initramfs-tools",
            Self::Mkosi => "mkosi",
        }
    }
}

/// A run of a generator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratorRun {
    /// Which.
    pub generator: Generator,
    /// For which kernel; [`crate::kernel_release`] finds the only one.
    pub kernel_release: String,
    /// Run inside this root (chroot, with /dev, /proc and /sys bound) instead
    /// of on this machine.
    pub sysroot: Option<PathBuf>,
    /// Further arguments for the generator.
    pub extra_args: Vec<String>,
}

/// Bounds on what an input may make the builder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that all segments of an initramfs may decompress to.
    pub unpacked_bytes: u64,
    /// Entries of an initramfs or root tree.
    pub entries: u64,
    /// Bytes of one decompressed kernel module.
    pub module_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 8 << 30,
            entries: 4 << 20,
            module_bytes: 256 << 20,
        }
    }
}

/// How the files of the init image are compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageCompression {
    /// Not at all (memory mode with DAX, or a medium faster than lz4).
    None,
    /// lz4hc: the default, level 9 and physical clusters of 64 KiB.
    Lz4hc {
        /// 1 to 12.
        level: u8,
        /// Size of a physical cluster in bytes; a power of two from 4096 to 1 MiB.
        cluster: u32,
    },
}

impl Default for ImageCompression {
    fn default() -> Self {
        Self::Lz4hc {
            level: 9,
            cluster: 65_536,
        }
    }
}

/// What the file system is wrapped in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Container {
    /// In nothing: the file is the EROFS file system, and proves nothing.
    None,
    /// In a discoverable disk image: a GPT with the file system, its dm-verity
    /// tree and, with a signer, the signature of the root hash.
    Ddi {
        /// Who signs the root hash.
        signer: Option<Signer>,
    },
}

impl Default for Container {
    /// An image that can prove itself by its root hash.
    fn default() -> Self {
        Self::Ddi { signer: None }
    }
}

/// What of an image that is the operating system lasts. Everything else is gone with
/// the boot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct System {
    /// Where /var is, if it lasts.
    pub var: Option<PersistentVar>,
}

/// A partition with /var.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistentVar {
    /// The partition, as fstab(5) names one: `PARTLABEL=`, `PARTUUID=`, `LABEL=`,
    /// `UUID=`.
    pub source: String,
    /// Whether it is a LUKS volume, to be opened by the TPM.
    pub encrypted: bool,
}

/// The order for an init image.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    /// The files.
    pub source: Source,
    /// Where the image goes. It appears there whole or not at all.
    pub output: PathBuf,
    /// What the image is of: letters, digits and `._+~^-`; written into the
    /// image, where a boot with a signed image looks for it. If empty, what
    /// the input's os-release says.
    pub product: String,
    /// Its version, of the same characters; a boot plan may ask for a least
    /// one. Empty for none, which is below every other.
    pub version: String,
    /// What the file system is wrapped in.
    pub container: Container,
    /// Our stand-in for `run-init` (a static binary that is content with an
    /// overlay root). Needed for initrds of initramfs-tools: building one
    /// without it is an error.
    pub run_init: Option<PathBuf>,
    /// Where the stage is made; it needs room for all files. Default: the
    /// folder for temporary files.
    pub work_dir: Option<PathBuf>,
    /// UUID of the file system; by default one derived from the tree, so that
    /// other content has another UUID.
    pub uuid: Option<Uuid>,
    /// Time stamp of every file, in seconds since 1970.
    pub timestamp: u64,
    /// Compression.
    pub compression: ImageCompression,
    /// Which files come first, and are in the image's prefetch list.
    pub hot: HotFiles,
    /// The root tree is the operating system, and the image stays: it is checked and
    /// prepared for that. `None` for an initrd.
    pub system: Option<System>,
    /// Bounds.
    pub limits: Limits,
}

impl ImageRequest {
    /// An order with defaults for the rest: a disk image without a signature,
    /// time stamp 0, lz4hc.
    #[must_use]
    pub fn new(source: Source, output: PathBuf) -> Self {
        Self {
            source,
            output,
            product: String::new(),
            version: String::new(),
            container: Container::default(),
            run_init: None,
            work_dir: None,
            uuid: None,
            timestamp: 0,
            compression: ImageCompression::default(),
            hot: HotFiles::None,
            system: None,
            limits: Limits::default(),
        }
    }
}

/// The order for an extension image.
#[derive(Debug, Clone)]
pub struct ExtensionRequest {
    /// The tree; it is copied, never changed.
    pub root: PathBuf,
    /// What it extends.
    pub kind: iofs_extension::Kind,
    /// Its name, by which systemd knows it.
    pub name: String,
    /// Where it goes. It appears there whole or not at all.
    pub output: PathBuf,
    /// The text of its extension-release (os-release(5)), which says what it is for.
    /// If empty, the tree has to have one.
    pub release: String,
    /// Who signs the root hash.
    pub signer: Option<Signer>,
    /// Where the stage is made. Default: the folder for temporary files.
    pub work_dir: Option<PathBuf>,
    /// Compression.
    pub compression: ImageCompression,
    /// Bounds.
    pub limits: Limits,
}

/// How the mini-initramfs is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd with the level that suits the size: the default.
    Zstd,
    /// zstd with a level from 1 to 19.
    ZstdLevel(i32),
    /// lz4, in the legacy format that kernels read.
    Lz4,
    /// None.
    None,
}

/// Which storage drivers the mini-initramfs holds. EROFS, overlay and, where a
/// candidate is a file, loop and dm-mod come with each but [`Modules::Builtin`]
/// and [`Modules::None`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Modules {
    /// These, by name.
    Drivers(Vec<String>),
    /// Those of the disks that this machine boots from.
    Host(HostDisks),
    /// Every storage bus.
    Generic,
    /// No modules, since the kernel has everything built in; one that does not
    /// is refused.
    Builtin,
    /// No modules, whatever the kernel has.
    None,
}

/// The disks of this machine whose drivers are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDisks {
    /// The sysfs to read: `/sys`.
    pub sysfs: PathBuf,
    /// Kernel names of disks or partitions: `vda1`, `nvme0n1`. See
    /// [`crate::boot_disks`].
    pub devices: Vec<String>,
}

/// The kernel that the mini-initramfs is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// The root under which `usr/lib/modules/RELEASE` or `lib/modules/RELEASE`
    /// lies, and etc/modprobe.d.
    pub sysroot: PathBuf,
    /// The folder of the modules itself, where it is not at its usual place.
    pub modules_dir: Option<PathBuf>,
}

/// The order for a mini-initramfs.
#[derive(Debug, Clone)]
pub struct MiniRequest {
    /// Where it goes. It appears there whole or not at all.
    pub output: PathBuf,
    /// The storage-init binary: PID 1.
    pub storage_init: PathBuf,
    /// The kernel.
    pub kernel: Kernel,
    /// Its storage drivers.
    pub modules: Modules,
    /// Where to look for the image. [`crate::build`] fills each `expect` that
    /// is the default, unless any signed image will do; [`crate::build_mini`]
    /// takes them as they are.
    pub candidates: Vec<Candidate>,
    /// How the image proves itself. [`crate::build`] seals the image's root
    /// hash in where this is the default, by which no image is authentic.
    pub auth: Auth,
    /// What the kernel does about a block that is not the one that was proven.
    pub on_corruption: OnCorruption,
    /// The file systems that the kernel may mount to reach an image that is a
    /// file: of [`Self::KERNEL_MOUNTS`].
    pub kernel_mounts: Vec<String>,
    /// Whether a root so simple that nothing of the image is needed to reach it is
    /// booted without the image, and which file systems it may have.
    pub direct: Option<Direct>,
    /// What the image is.
    pub stage: Stage,
    /// Which extension images are merged over it.
    pub extensions: Option<Extensions>,
    /// What of the boot loader's archives goes into the image's root; `None` is
    /// all where nothing is authenticated, else what systemd-stub passes.
    pub appended: Option<Appended>,
    /// What the image is of; if empty, [`crate::build`] takes the image's.
    pub product: String,
    /// The init to execute in the image; the first that exists.
    pub inits: Vec<String>,
    /// How long to wait for the image's device, in milliseconds.
    pub device_timeout_ms: u32,
    /// What to do when no candidate can be booted.
    pub on_failure: OnFailure,
    /// How long the report stays on the screen, in milliseconds.
    pub failure_wait_ms: u32,
    /// Compression.
    pub compression: Compression,
    /// The image to pack, where a candidate is [`iofs_plan::Selector::Embedded`];
    /// [`crate::build`] takes the one that it has built.
    pub embed: Option<PathBuf>,
    /// Early segment (microcode) to put in front, as it was kept apart from the
    /// input; [`crate::build`] fills it if it is empty.
    pub early: Vec<u8>,
}

impl MiniRequest {
    /// What is tried as init in the image, in order: systemd's initrds and
    /// initramfs-tools' have /init; a root tree has /sbin/init.
    pub const INITS: [&'static str; 3] = ["/init", "/sbin/init", "/usr/lib/systemd/systemd"];

    /// The same in an image that is the operating system.
    pub const SYSTEM_INITS: [&'static str; 3] = [
        "/sbin/init",
        "/usr/lib/systemd/systemd",
        "/lib/systemd/systemd",
    ];

    /// The file systems that storage-init has the kernel read if it may.
    pub const KERNEL_MOUNTS: [&'static str; 2] = ["xfs", "btrfs"];

    /// An order with defaults for the rest: every storage bus, zstd, a limit of
    /// 90 seconds, and a restart 10 seconds after a failure.
    #[must_use]
    pub fn new(output: PathBuf, storage_init: PathBuf, kernel: Kernel) -> Self {
        Self {
            output,
            storage_init,
            kernel,
            modules: Modules::Generic,
            candidates: Vec::new(),
            auth: Auth::default(),
            on_corruption: OnCorruption::default(),
            kernel_mounts: Vec::new(),
            direct: None,
            stage: Stage::default(),
            extensions: None,
            appended: None,
            product: String::new(),
            inits: Self::INITS.map(String::from).to_vec(),
            device_timeout_ms: 90_000,
            on_failure: OnFailure::Reboot,
            failure_wait_ms: 30_000,
            compression: Compression::Zstd,
            embed: None,
            early: Vec::new(),
        }
    }
}
