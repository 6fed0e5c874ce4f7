//! The command line's one definition: parser, help, man pages and completions
//! all come from it.

use std::path::PathBuf;

use builder::KeySource;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};

use crate::extension::{BuildExtensionArgs, ExtensionArgs};
use crate::place::PlaceArg;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default())
    .error(AnsiColor::Red.on_default().bold());

const EXIT_CODES: &str = "\
Exit status:
  0  it worked
  1  it failed; standard error says on what, why, and what to do
  2  the command line cannot be used";

/// Early boot in two parts: a mini-initramfs that reaches the boot medium, and
/// an init image there of which only what is used is read.
#[derive(Debug, Parser)]
#[command(name = "initoverlayfs", version, styles = STYLES, after_help = EXIT_CODES)]
#[command(propagate_version = false, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build init image and mini-initramfs
    Build(Box<BuildArgs>),
    /// Make an extension image (sysext, confext)
    BuildExtension(Box<BuildExtensionArgs>),
    /// Make a key and a certificate to sign images with
    Keygen(KeygenArgs),
    /// Sign an image or a UKI
    Sign(SignArgs),
    /// Check an image as a boot would
    Verify(VerifyArgs),
    /// Say what a file is and what it contains
    Inspect(InspectArgs),
    /// Show why each kernel module is in a mini-initramfs, and what it costs
    Plan(PlanArgs),
    /// Put a built set where it boots from, with a boot entry
    Install(InstallArgs),
    /// Boot a built set in QEMU
    Run(RunArgs),
    /// Tell the next boot which drivers to try first
    Hint(HintArgs),
    /// Record what a boot reads of its image, for `build --profile`
    Profile(ProfileArgs),
    /// Show where the time of this boot went, and what would help
    Analyze(AnalyzeArgs),
    /// Print the completions for a shell
    Completions(CompletionsArgs),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(ManArgs),
}

/// Arguments of `build`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  initoverlayfs build --initrd /boot/initrd.img-6.12.0
  initoverlayfs build --generator dracut --modules host --uki --cmdline 'root=LABEL=root'
  initoverlayfs build --initrd initrd.img --key image.key --certificate image.crt
  initoverlayfs build --root tree --image-on partition")]
pub struct BuildArgs {
    /// The files of the image.
    #[command(flatten)]
    pub source: SourceArgs,

    /// Kernel image [default: that of the kernel release under --sysroot]
    #[arg(long, value_name = "VMLINUZ", value_hint = ValueHint::FilePath)]
    pub kernel: Option<PathBuf>,

    /// Kernel release [default: what --kernel or --modules-dir says, else the
    /// only one under --sysroot]
    #[arg(long, value_name = "RELEASE")]
    pub kernel_release: Option<String>,

    /// Folder of the kernel's modules [default: usr/lib/modules/RELEASE under
    /// --sysroot]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub modules_dir: Option<PathBuf>,

    /// Root of the system that has the kernel, its modules and the generator
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub sysroot: PathBuf,

    /// Storage drivers in the mini-initramfs: `generic` (every storage bus),
    /// `host` (this machine's boot disk), `builtin` (the kernel has them and all
    /// else that a boot needs built in, which is checked), `none` (no modules,
    /// unchecked), or names
    #[arg(long, value_name = "SET", default_value = "generic")]
    pub modules: ModulesArg,

    /// Folder for what is built
    #[arg(long, short, value_name = "DIR", default_value = "initoverlayfs-build",
          value_hint = ValueHint::DirPath)]
    pub output: PathBuf,

    /// What the image is of, the first part of its path [default: ID and
    /// VERSION_ID of the os-release under --sysroot, or of --root]
    #[arg(long, value_name = "NAME")]
    pub product: Option<String>,

    /// Version of what is built, the second part of its path [default: the
    /// kernel release]
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,

    /// Where the boot looks for the image; may be repeated, the first that is
    /// there is taken
    ///
    /// `esp`, `xbootldr`: a file on the partition of that type. `boot`: a file
    /// below /boot on the root partition. `file:SELECTOR`: a file on another
    /// partition. `partition:SELECTOR`: the partition is the image; without a
    /// selector, that with the PARTUUID that a sealed image has by its root hash.
    /// SELECTOR is `PARTLABEL=NAME`, `PARTUUID=GUID` or `TYPE=GUID`.
    /// `embedded`: packed into the mini-initramfs. `pmem`: in memory that firmware or
    /// boot loader fill (see --memory); `pmem:dax` uses its pages where they lie, for
    /// images without compression. What is in memory is tried last.
    #[arg(long, value_name = "PLACE", default_value = "esp")]
    pub image_on: Vec<PlaceArg>,

    /// Path of the image on its partition [default:
    /// /PRODUCT/VERSION/image.raw, below /boot for `boot`]
    #[arg(long, value_name = "PATH")]
    pub image_path: Option<String>,

    /// Say what a loader needs that puts the image into memory, for `--image-on pmem`,
    /// at this ADDRESS [default: 0x100000000, 4 GiB]
    ///
    /// The address is a multiple of 2 MiB, of memory that neither firmware nor kernel
    /// use before the kernel reads its command line. That has to set it apart
    /// (`memmap=SIZE!ADDRESS`): a UKI and what --cmdline says get that argument here, an
    /// entry with another command line needs it too.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1,
          default_missing_value = "0x100000000",
          value_parser = crate::build::parse_address)]
    pub memory: Option<u64>,

    /// Compression of the mini-initramfs
    #[arg(long, value_name = "HOW", value_enum, default_value_t = CompressArg::Zstd)]
    pub compress: CompressArg,

    /// Compression of the image: `lz4`, `lz4:LEVEL` (1 to 12) or `none`
    #[arg(long, value_name = "HOW", default_value = "lz4")]
    pub image_compress: ImageCompressArg,

    /// Which files come first in the image and are read ahead at boot: `auto`,
    /// `none`, or the FILE of a recorded boot
    ///
    /// `auto` takes /var/lib/initoverlayfs/profile.json under --sysroot, where
    /// `profile collect` leaves it; without it, what the image's init and udev are
    /// linked with and read. A profile of another image is of use as far as its
    /// files are in this one.
    #[arg(long, value_name = "FILE", default_value = "auto",
          value_hint = ValueHint::FilePath)]
    pub profile: PathBuf,

    /// Let the kernel mount the image's partition, read-only, if it has this
    /// file system; may be repeated
    ///
    /// FAT and ext4 are read without the kernel, in code made for hostile media,
    /// and are never mounted. The kernel's code is not: whoever can write the
    /// partition can reach it before anything is proven.
    #[arg(long, value_name = "TYPE", value_enum)]
    pub kernel_mount: Vec<KernelMountArg>,

    /// How a boot goes on: `initrd`, through the image's init; `direct`, to the root file
    /// system itself, and through the image only where that fails; `stay`, with the image
    /// as the root
    ///
    /// `direct` is for a root on a plain partition, which the command line names (`root=`
    /// with UUID, LABEL, PARTUUID, PARTLABEL or /dev/NAME; `rootfstype`, `rootflags`, `ro`,
    /// `rw`, `init` and `rootdelay` mean what they always do). Whatever else is asked for
    /// there, and `initoverlayfs.mode=initrd`, brings the image up.
    ///
    /// `stay` makes the image of the tree of an operating system (--root). Its init is the
    /// only one; what is written is gone with the boot, but for what --persist-var names.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = ModeArg::Initrd)]
    pub mode: ModeArg,

    /// Which file systems the root may have, with `--mode direct` [default: what the
    /// sysroot's /etc/fstab says of /, else ext4]
    #[arg(long, value_name = "TYPE", value_enum, value_delimiter = ',')]
    pub root_fs: Vec<RootFsArg>,

    /// Which root is booted with `--mode direct` if the command line names none, as after
    /// `root=`
    #[arg(long, value_name = "ROOT")]
    pub direct_root: Option<String>,

    /// The partition that /var is on, with `--mode stay`: PARTLABEL=, PARTUUID=, LABEL= or
    /// UUID=; without it /var is transient, too
    ///
    /// It has a file system already. What the tree has in /var is not seen then; what
    /// services need there systemd-tmpfiles makes.
    #[arg(long, value_name = "PARTITION")]
    pub persist_var: Option<String>,

    /// The partition of --persist-var is a LUKS volume, which the TPM opens once it is
    /// enrolled there (systemd-cryptenroll), and a passphrase until then
    #[arg(long, requires = "persist_var")]
    pub persist_encrypted: bool,

    /// What of the initramfs archives that the boot loader appends goes into the
    /// image's root [default: extra; all with --auth none]
    #[arg(long, value_name = "WHAT", value_enum)]
    pub appended: Option<AppendedArg>,

    /// Seconds that the boot waits for the image's device
    #[arg(long, value_name = "SECONDS", default_value_t = 90,
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub timeout: u32,

    /// What the machine does when no image can be booted
    #[arg(long, value_name = "ACTION", value_enum, default_value_t = FailureArg::Reboot)]
    pub on_failure: FailureArg,

    /// The storage-init program [default: beside this program, then in
    /// ../lib/initoverlayfs, then in /usr/lib/initoverlayfs]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub storage_init: Option<PathBuf>,

    /// The run-init program that initramfs-tools' images need [default: looked
    /// for like storage-init]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub run_init: Option<PathBuf>,

    /// Kernel arguments for the boot entry, noted for `install` and `run`; a UKI
    /// holds them
    #[arg(long, value_name = "ARGUMENTS")]
    pub cmdline: Option<String>,

    /// How the image proves itself.
    #[command(flatten)]
    pub trust: TrustArgs,

    /// Extensions.
    #[command(flatten)]
    pub extensions: ExtensionArgs,

    /// The UKI.
    #[command(flatten)]
    pub uki: UkiArgs,

    /// Print what was built as JSON
    #[arg(long)]
    pub json: bool,
}

/// Where the image's files come from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct SourceArgs {
    /// Take the files of an initramfs
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub initrd: Option<PathBuf>,

    /// Take a root tree; it is copied, never changed
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub root: Option<PathBuf>,

    /// Run a generator and take the initramfs that it makes
    #[arg(long, value_name = "NAME", value_enum)]
    pub generator: Option<GeneratorArg>,
}

/// What makes an image authentic.
#[derive(Debug, Args)]
#[command(next_help_heading = "Authenticity")]
pub struct TrustArgs {
    /// How the image proves to the boot that it is authentic [default: sealed,
    /// with --key signed]
    ///
    /// `sealed`: the mini-initramfs takes only the very image that was built
    /// with it. `signed`: any image that is signed by a trusted certificate, of
    /// the same product, and not below --min-version. `none`: every image;
    /// whoever can write to the boot partition can then replace it.
    #[arg(long, value_name = "HOW", value_enum)]
    pub auth: Option<AuthArg>,

    /// Private key that signs the image: a PEM file or a `pkcs11:` URI
    #[arg(long, value_name = "KEY", requires = "certificate",
          value_parser = crate::build::parse_key, value_hint = ValueHint::FilePath)]
    pub key: Option<KeySource>,

    /// The key's certificate, which the boot trusts; PEM or DER
    #[arg(long, value_name = "FILE", requires = "key", value_hint = ValueHint::FilePath)]
    pub certificate: Option<PathBuf>,

    /// A further certificate that the boot trusts; may be repeated
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub trust: Vec<PathBuf>,

    /// The least version that a signed image may have
    #[arg(long, value_name = "VERSION")]
    pub min_version: Option<String>,

    /// What the kernel does at a block of the image that was changed [default:
    /// error]
    #[arg(long, value_name = "ACTION", value_enum)]
    pub on_corruption: Option<CorruptionArg>,

    /// TPM register that a signed image's root hash is measured into [default: 13]
    #[arg(long, value_name = "PCR", value_parser = clap::value_parser!(u8).range(0..=23))]
    pub measure_pcr: Option<u8>,

    /// Do not boot where the measurement cannot be made
    #[arg(long)]
    pub measure_required: bool,
}

/// What makes a UKI.
#[derive(Debug, Args)]
#[command(next_help_heading = "Unified Kernel Image")]
pub struct UkiArgs {
    /// Make a UKI of kernel, mini-initramfs and kernel arguments too
    #[arg(long)]
    pub uki: bool,

    /// systemd's stub [default: that under --sysroot]
    #[arg(long, value_name = "FILE", requires = "uki", value_hint = ValueHint::FilePath)]
    pub stub: Option<PathBuf>,

    /// Picture (BMP) to show meanwhile
    #[arg(long, value_name = "FILE", requires = "uki", value_hint = ValueHint::FilePath)]
    pub splash: Option<PathBuf>,

    /// os-release file by which boot loaders name the UKI [default: that under
    /// --sysroot]
    #[arg(long, value_name = "FILE", requires = "uki", value_hint = ValueHint::FilePath)]
    pub os_release: Option<PathBuf>,

    /// Private key that signs the UKI for Secure Boot: a PEM file or a `pkcs11:`
    /// URI
    #[arg(long, value_name = "KEY", requires_all = ["uki", "secure_boot_certificate"],
          value_parser = crate::build::parse_key, value_hint = ValueHint::FilePath)]
    pub secure_boot_key: Option<KeySource>,

    /// Its certificate, PEM
    #[arg(long, value_name = "FILE", requires = "secure_boot_key",
          value_hint = ValueHint::FilePath)]
    pub secure_boot_certificate: Option<PathBuf>,

    /// Private key (RSA) that signs the PCR values that booting the UKI gives
    #[arg(long, value_name = "KEY", requires_all = ["uki", "pcr_public_key"],
          value_parser = crate::build::parse_key, value_hint = ValueHint::FilePath)]
    pub pcr_key: Option<KeySource>,

    /// Its public key, PEM
    #[arg(long, value_name = "FILE", requires = "pcr_key", value_hint = ValueHint::FilePath)]
    pub pcr_public_key: Option<PathBuf>,

    /// A certificate of it, PEM; needed for a key on a token
    #[arg(long, value_name = "FILE", requires = "pcr_key", value_hint = ValueHint::FilePath)]
    pub pcr_certificate: Option<PathBuf>,
}

/// Arguments of `keygen`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Makes NAME.key (mode 0600), NAME.crt (PEM) and NAME.der, which openssl writes. \
Keep the key away from the machines that boot what it signs.")]
pub struct KeygenArgs {
    /// First part of the files' names, with the folder
    #[arg(value_name = "NAME", default_value = "initoverlayfs", value_hint = ValueHint::AnyPath)]
    pub name: PathBuf,

    /// Kind of key
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value_t = KeyTypeArg::Rsa4096)]
    pub key_type: KeyTypeArg,

    /// Name in the certificate [default: initoverlayfs image signing, and the
    /// last part of NAME]
    #[arg(long, value_name = "NAME")]
    pub common_name: Option<String>,

    /// Replace files that are there
    #[arg(long)]
    pub force: bool,

    /// Print what was made as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `hint`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The hint is the file loader/credentials/initoverlayfs.hint.cred on the ESP. \
systemd-stub passes it to the boot (and measures it into PCR 12); without a UKI, \
initoverlayfs.hint=MODULE,... on the kernel command line does the same. A boot \
whose hint is wrong takes longer and nothing else.")]
pub struct HintArgs {
    /// What to do with it
    #[arg(value_name = "ACTION", value_enum)]
    pub action: HintAction,

    /// Folder of the ESP [default: /efi, /boot/efi or /boot]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub esp: Option<PathBuf>,

    /// The record of this boot
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/run/initoverlayfs/boot.json",
        hide = true
    )]
    pub record: PathBuf,

    /// Where sysfs is
    #[arg(long, value_name = "DIR", default_value = "/sys", hide = true)]
    pub sysfs: PathBuf,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// What to do about the boot profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProfileAction {
    /// Have the next boot note what it reads; it has to come within an hour
    Record,
    /// Make a profile of what this boot noted
    Collect,
    /// Print the profile
    Show,
    /// Remove the profile, and have no boot note anything
    Clear,
}

/// Arguments of `profile`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
A boot that notes what it reads has no read-ahead from its image, so it takes longer; no other \
boot is changed.

Examples:
  initoverlayfs profile record
  systemctl reboot
  initoverlayfs profile collect
  initoverlayfs build --generator dracut")]
pub struct ProfileArgs {
    /// What to do
    #[arg(value_name = "ACTION", value_enum)]
    pub action: ProfileAction,

    /// The profile
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath,
          default_value = "/var/lib/initoverlayfs/profile.json")]
    pub output: PathBuf,

    /// The image that was booted [default: where this boot found it]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Option<PathBuf>,

    /// Folder of the ESP [default: /efi, /boot/efi or /boot]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub esp: Option<PathBuf>,

    /// What this boot says of its record; boot.json lies beside it
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/run/initoverlayfs/record.json",
        hide = true
    )]
    pub record: PathBuf,

    /// Where sysfs is
    #[arg(long, value_name = "DIR", default_value = "/sys", hide = true)]
    pub sysfs: PathBuf,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `analyze`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Times count from the kernel's start; firmware and boot loader are before it. A stage's row is \
the time from the stage before to the one of that name. A saving is the time in which nothing \
else was at work: what loads at the same time shares CPUs, so it may be more.

Firmware and loader are known where systemd-boot or the firmware (ACPI FPDT) left their times, \
what comes after storage-init where systemd runs. With --boot-json neither is asked: the \
record may be another machine's.

Examples:
  initoverlayfs analyze
  initoverlayfs analyze --svg boot.svg
  initoverlayfs analyze --boot-json boot.json --json")]
pub struct AnalyzeArgs {
    /// The record of a boot [default: this one's, /run/initoverlayfs/boot.json]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub boot_json: Option<PathBuf>,

    /// List every module, and not only the slowest
    #[arg(long)]
    pub all: bool,

    /// Draw the chart into this file too
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub svg: Option<PathBuf>,

    /// Where sysfs is
    #[arg(long, value_name = "DIR", hide = true)]
    pub sysfs: Option<PathBuf>,

    /// Folder of the ESP, where the UKI is looked for
    #[arg(long, value_name = "DIR", hide = true)]
    pub esp: Option<PathBuf>,

    /// What `systemctl show` said, instead of asking it
    #[arg(long, value_name = "FILE", hide = true)]
    pub systemd_times: Option<PathBuf>,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `hint` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HintAction {
    /// Write the drivers of the disk that this boot's image is on
    Record,
    /// Print it
    Show,
    /// Remove it
    Clear,
}

/// Arguments of `sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// An image (image.raw), whose signature is added or replaced, or a UKI
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Private key: a PEM file or a `pkcs11:` URI
    #[arg(long, value_name = "KEY", value_parser = crate::build::parse_key,
          value_hint = ValueHint::FilePath)]
    pub key: KeySource,

    /// The key's certificate; PEM or, for an image, DER
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub certificate: PathBuf,

    /// Print what was done as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Every block that a boot could read is proven, and the first range that is not what it \
should be is named. Of a UKI itself nothing is checked here: use sbverify.")]
pub struct VerifyArgs {
    /// The image [default: that of the set in --from]
    #[arg(value_name = "FILE", required_unless_present = "from", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,

    /// What it is checked against.
    #[command(flatten)]
    pub against: AgainstArgs,

    /// Print what was checked as JSON
    #[arg(long)]
    pub json: bool,
}

/// What an image is checked against.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct AgainstArgs {
    /// This root hash
    #[arg(long, value_name = "HEX")]
    pub root_hash: Option<String>,

    /// A signature by this certificate, PEM or DER; may be repeated
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub certificate: Vec<PathBuf>,

    /// A boot plan, or the mini-initramfs or UKI that holds one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub plan: Option<PathBuf>,

    /// The boot plan of the built set in this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub from: Option<PathBuf>,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A mini-initramfs, initramfs, boot plan, image, disk, kernel, UKI, boot
    /// entry or certificate
    #[arg(value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub file: PathBuf,

    /// List the files inside too
    #[arg(long, short)]
    pub list: bool,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The time to load is an estimate: what the check of a module's signature costs, 45 million \
instructions, whatever its size, for the module and for what it needs besides what every boot \
loads. The size in the archive is a module's share of what it is compressed with.

Examples:
  initoverlayfs plan
  initoverlayfs plan --root /mnt --modules nvme
  initoverlayfs plan initoverlayfs-build")]
pub struct PlanArgs {
    /// A built mini-initramfs, a UKI or the folder of a built set [default: what
    /// a build would make]
    #[arg(value_name = "FILE", value_hint = ValueHint::AnyPath,
          conflicts_with_all = ["root", "kernel", "modules"])]
    pub file: Option<PathBuf>,

    /// Root of the system that has the kernel's modules
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub root: PathBuf,

    /// Kernel release [default: the only one under --root]
    #[arg(long, value_name = "RELEASE")]
    pub kernel: Option<String>,

    /// Storage drivers, as for `build`
    #[arg(long, value_name = "SET", default_value = "generic")]
    pub modules: ModulesArg,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `install`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  initoverlayfs install --root /
  initoverlayfs install --root / --image-partitions /dev/vda5,/dev/vda6 --dry-run")]
pub struct InstallArgs {
    /// Root of the system that the entry is for
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub root: PathBuf,

    /// Folder of a built set
    #[arg(long, value_name = "DIR", default_value = "initoverlayfs-build",
          value_hint = ValueHint::DirPath)]
    pub from: PathBuf,

    /// Say what would be written, and write nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,

    /// Folder where the EFI system partition is mounted [default: the vfat
    /// among /efi, /boot/efi and /boot]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub esp: Option<PathBuf>,

    /// Folder of the extended boot loader partition or of /boot
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub boot: Option<PathBuf>,

    /// Spare partitions of one disk that the image is written to, for an image
    /// built with `--image-on partition`
    ///
    /// One each for the file system, its hash tree and, if the image is signed,
    /// the signature; or a single one for the whole image, where the plan names
    /// it by label, PARTUUID or type. Each is a device node (/dev/vda3),
    /// `PARTLABEL=NAME` or `PARTUUID=GUID`. What they hold is lost. They are
    /// written, read back and proven, and then sfdisk gives them the PARTUUIDs
    /// by which a boot finds them. Refused are partitions that are mounted, in
    /// use, too small, of a type for something else, or that this system booted
    /// from.
    #[arg(long, value_name = "DATA,HASHES[,SIGNATURE]", value_delimiter = ',',
          value_hint = ValueHint::AnyPath)]
    pub image_partitions: Vec<installer::PartitionName>,

    /// First part of the entry's name: `auto`, `machine-id`, `product` or
    /// `literal:TOKEN`
    #[arg(long, value_name = "TOKEN", default_value = "auto")]
    pub entry_token: installer::EntryToken,

    /// Kernel arguments of the entry [default: those given to `build`, else
    /// /etc/kernel/cmdline, else this boot's]; a UKI carries its own
    #[arg(long, value_name = "ARGUMENTS")]
    pub cmdline: Option<String>,

    /// Whether the entry becomes the default; this version leaves it as it is
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = SetDefaultArg::No)]
    pub set_default: SetDefaultArg,

    /// Print what was done as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Folder of a built set [default: initoverlayfs-build, unless --disk is
    /// booted by firmware alone]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub from: Option<PathBuf>,

    /// Raw image of the disk with the root file system; what the guest writes
    /// to it is thrown away
    #[arg(long, value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub disk: Option<PathBuf>,

    /// Keep what the guest writes to --disk
    #[arg(long, requires = "disk")]
    pub keep_writes: bool,

    /// `none` hands the kernel to QEMU; `ovmf` boots from the disk
    #[arg(long, value_enum, default_value_t = FirmwareArg::None)]
    pub firmware: FirmwareArg,

    /// Memory of the machine in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048,
          value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    pub memory: u32,

    /// Kernel arguments, after those given to `build`
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// Seconds after which the machine is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub timeout: u64,

    /// Stop the machine, and succeed, at a console line that contains this
    #[arg(long, value_name = "TEXT")]
    pub until: Option<String>,

    /// What runs the guest's instructions; `auto` is KVM where it works
    #[arg(long, value_enum, default_value_t = AccelArg::Auto)]
    pub accel: AccelArg,

    /// Print the stages as JSON on standard output, the console on standard error
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder
    pub dir: PathBuf,
}

/// How an image proves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuthArg {
    /// By the root hash in the plan
    Sealed,
    /// By a signature
    Signed,
    /// Not at all
    None,
}

/// A file system that only the kernel reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KernelMountArg {
    /// XFS
    Xfs,
    /// Btrfs
    Btrfs,
}

impl KernelMountArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

/// How a boot goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// Through the image's init
    Initrd,
    /// To the root file system itself, through the image only where that fails
    Direct,
    /// Nowhere else: the image is the operating system
    Stay,
}

/// A file system that a root can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RootFsArg {
    /// ext4, ext3, ext2
    Ext4,
    /// XFS
    Xfs,
    /// Btrfs
    Btrfs,
    /// EROFS
    Erofs,
}

impl RootFsArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Erofs => "erofs",
        }
    }
}

/// What of the boot loader's archives is carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AppendedArg {
    /// /.extra, which systemd-stub fills
    Extra,
    /// Everything, over the image's own files: who can write boot entries then
    /// decides what runs
    All,
}

/// What the kernel does at a block that was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CorruptionArg {
    /// The read fails
    Error,
    /// The machine restarts
    Restart,
    /// The kernel panics
    Panic,
}

/// A kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyTypeArg {
    /// RSA, 2048 bits
    Rsa2048,
    /// RSA, 3072 bits
    Rsa3072,
    /// RSA, 4096 bits
    Rsa4096,
    /// ECDSA on P-256
    P256,
    /// ECDSA on P-384
    P384,
}

/// Compression of the mini-initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompressArg {
    /// zstd, the smallest
    Zstd,
    /// lz4, the fastest to unpack
    Lz4,
    /// None
    None,
}

/// What the machine does after a failed boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailureArg {
    /// Restart, so that the boot loader can choose another entry
    Reboot,
    /// Turn off
    Poweroff,
    /// Stop with the report on the screen
    Halt,
}

/// A generator of initramfs files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GeneratorArg {
    /// dracut
    Dracut,
    /// mkinitramfs of initramfs-tools
    InitramfsTools,
    /// mkosi-initrd
    Mkosi,
}

/// Whether the new entry becomes the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SetDefaultArg {
    /// It does not
    No,
}

/// How the machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FirmwareArg {
    /// UEFI
    Ovmf,
    /// None: QEMU loads the kernel
    None,
}

/// What runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccelArg {
    /// KVM where it works, else TCG
    Auto,
    /// The kernel's virtualisation
    Kvm,
    /// QEMU's translator
    Tcg,
}

/// Which drivers the mini-initramfs holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModulesArg {
    /// Those of this machine's boot disk.
    Host,
    /// Every storage bus.
    Generic,
    /// None, and the kernel must have everything built in.
    Builtin,
    /// None.
    None,
    /// These.
    Names(Vec<String>),
}

impl std::str::FromStr for ModulesArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "host" => return Ok(Self::Host),
            "generic" => return Ok(Self::Generic),
            "builtin" => return Ok(Self::Builtin),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().into()).collect();
        let good = |name: &String| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            !name.is_empty() && name.bytes().all(allowed)
        };
        match names.iter().find(|name| !good(name)) {
            Some(bad) => Err(format!(
                "{bad:?} is no module name; use generic, host, builtin, none or NAME,NAME"
            )),
            None => Ok(Self::Names(names)),
        }
    }
}

/// Compression of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageCompressArg {
    /// lz4hc with the default level, or this one.
    Lz4(Option<u8>),
    /// None.
    None,
}

impl std::str::FromStr for ImageCompressArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "lz4" => Ok(Self::Lz4(None)),
            None if text == "none" => Ok(Self::None),
            Some(("lz4", level)) => match level.parse() {
                Ok(level @ 1..=12) => Ok(Self::Lz4(Some(level))),
                _ => Err(format!("{level:?} is no level from 1 to 12")),
            },
            _ => Err("use lz4, lz4:LEVEL or none".into()),
        }
    }
}

/// The definition, for help, man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn module_sets() {
        assert_eq!("host".parse(), Ok(ModulesArg::Host));
        assert_eq!("builtin".parse(), Ok(ModulesArg::Builtin));
        assert_eq!(
            "nvme,virtio-blk".parse(),
            Ok(ModulesArg::Names(vec!["nvme".into(), "virtio-blk".into()]))
        );
        for bad in ["", "a,,b", "../x", "a b"] {
            assert!(bad.parse::<ModulesArg>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn image_compressions() {
        assert_eq!("lz4".parse(), Ok(ImageCompressArg::Lz4(None)));
        assert_eq!("lz4:12".parse(), Ok(ImageCompressArg::Lz4(Some(12))));
        for bad in ["lz4:0", "lz4:13", "lz4:", "zstd", "none:1"] {
            assert!(bad.parse::<ImageCompressArg>().is_err(), "{bad:?}");
        }
    }
}
