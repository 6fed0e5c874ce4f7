//! The command line's one definition: parser, help, man pages and completions
//! all come from it.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};

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
    /// Say what a file is and what it contains
    Inspect(InspectArgs),
    /// Put a built set on the ESP, XBOOTLDR or /boot, with a boot entry
    Install(InstallArgs),
    /// Boot a built set in QEMU
    Run(RunArgs),
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
  initoverlayfs build --initrd /boot/initrd.img-6.12.0 --auth none
  initoverlayfs build --generator dracut --modules host --auth none
  initoverlayfs build --root tree --image-on partition:PARTLABEL=init --auth none")]
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
    /// `host` (this machine's boot disk), `none` (all are built in), or names
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
    /// partition. `partition:SELECTOR`: the partition is the image. SELECTOR is
    /// `PARTLABEL=NAME`, `PARTUUID=GUID` or `TYPE=GUID`.
    #[arg(long, value_name = "PLACE", default_value = "esp")]
    pub image_on: Vec<PlaceArg>,

    /// Path of the image on its partition [default:
    /// /PRODUCT/VERSION/image.erofs, below /boot for `boot`]
    #[arg(long, value_name = "PATH")]
    pub image_path: Option<String>,

    /// Compression of the mini-initramfs
    #[arg(long, value_name = "HOW", value_enum, default_value_t = CompressArg::Zstd)]
    pub compress: CompressArg,

    /// Compression of the image: `lz4`, `lz4:LEVEL` (1 to 12) or `none`
    #[arg(long, value_name = "HOW", default_value = "lz4")]
    pub image_compress: ImageCompressArg,

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

    /// Kernel arguments for the boot entry, noted for `install` and `run`
    #[arg(long, value_name = "ARGUMENTS")]
    pub cmdline: Option<String>,

    /// How the boot checks that the image is authentic
    ///
    /// This version knows only `none`, which must be said: whoever can write
    /// to the boot partition can then replace the image.
    #[arg(long, value_name = "HOW", value_enum)]
    pub auth: Option<AuthArg>,

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

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A mini-initramfs, initramfs, boot plan, image, disk, kernel or boot entry
    #[arg(value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub file: PathBuf,

    /// List the files inside too
    #[arg(long, short)]
    pub list: bool,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `install`.
#[derive(Debug, Args)]
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

    /// First part of the entry's name: `auto`, `machine-id`, `product` or
    /// `literal:TOKEN`
    #[arg(long, value_name = "TOKEN", default_value = "auto")]
    pub entry_token: installer::EntryToken,

    /// Kernel arguments of the entry [default: those given to `build`, else
    /// /etc/kernel/cmdline, else this boot's]
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

/// Authenticity, as this version knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuthArg {
    /// None
    None,
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
                "{bad:?} is no module name; use generic, host, none or NAME,NAME"
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
