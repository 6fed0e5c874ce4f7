//! The arguments of `build`, resolved.

use std::path::{Path, PathBuf};

use builder::{
    Appended, BuiltImage, Compression, Container, Direct, Generator, GeneratorRun, HostDisks,
    HotFiles, ImageCompression, ImageRequest, Kernel, MiniRequest, Modules, OnFailure,
    PersistentVar, Profile, Source, Stage, System,
};

use clap::ValueEnum;
use iofs_cmdline::Root;

use super::trust::TrustPlan;
use super::uki::UkiPlan;
use super::{IMAGE, MINI, PLAIN_IMAGE, programs};
use crate::cli::{
    AppendedArg, BuildArgs, CompressArg, FailureArg, GeneratorArg, ImageCompressArg, ModeArg,
    ModulesArg, RootFsArg, SourceArgs,
};
use crate::error::{CliError, Result};
use crate::extension::{ExtensionPlan, Member};
use crate::place::{PlaceArg, candidates};
use crate::ui;

/// What is to be built. Only what depends on the image's own content is left
/// open: the product, if it was not named, and with it the image's path.
#[derive(Debug)]
pub(crate) struct BuildPlan {
    pub(crate) output: PathBuf,
    pub(crate) kernel_image: PathBuf,
    pub(crate) image: ImageRequest,
    /// Without candidates, product and early segment.
    pub(crate) mini: MiniRequest,
    pub(crate) places: Vec<PlaceArg>,
    pub(crate) version: String,
    pub(crate) cmdline: Option<String>,
    /// Where a loader puts the image.
    pub(super) memory: Option<u64>,
    pub(super) trust: TrustPlan,
    pub(super) extensions: Vec<Member>,
    pub(super) uki: Option<UkiPlan>,
    /// Name of the image's file.
    pub(crate) image_name: &'static str,
    image_path: Option<String>,
}

impl BuildPlan {
    /// Resolves the arguments; reads, but writes nothing.
    pub(crate) fn resolve(args: BuildArgs) -> Result<Self> {
        let release = kernel_release(&args)?;
        let version = args.version.clone().unwrap_or_else(|| release.clone());
        check_part("--version", &version)?;
        if let Some(product) = &args.product {
            check_part("--product", product)?;
        }
        if let Some(path) = &args.image_path {
            check_image_path(path)?;
        }
        let trust = TrustPlan::resolve(&args.trust, &version)?;
        if args.image_on.contains(&PlaceArg::Partition(None)) && !trust.sealed() {
            return Err(CliError::usage(
                "--image-on partition needs a selector where the image is not sealed",
            )
            .hint("use partition:PARTLABEL=NAME, partition:PARTUUID=GUID or partition:TYPE=GUID"));
        }
        check_memory(&args, &trust)?;
        let extensions = ExtensionPlan::resolve(&args.extensions)?;
        let beside = |place: &PlaceArg| {
            !matches!(
                place,
                PlaceArg::Partition(_) | PlaceArg::Pmem { .. } | PlaceArg::Embedded
            )
        };
        if !extensions.members.is_empty() && !args.image_on.iter().any(beside) {
            return Err(CliError::usage(
                "--extension has no effect where the image is a partition: there is no folder \
                 beside it",
            )
            .hint(
                "use --extension-certificate, and put the extensions on the ESP for systemd-stub",
            ));
        }
        let image_name = match trust.container() {
            Container::None => PLAIN_IMAGE,
            Container::Ddi { .. } => IMAGE,
        };
        let kernel_image = match &args.kernel {
            Some(path) => path.clone(),
            None => builder::kernel_image(&args.sysroot, &release)?,
        };
        let storage_init = programs::find(
            "storage-init",
            "--storage-init",
            args.storage_init.as_deref(),
        )?;
        let kernel = Kernel {
            release: release.clone(),
            sysroot: args.sysroot.clone(),
            modules_dir: args.modules_dir.clone(),
        };
        Ok(Self {
            uki: UkiPlan::resolve(&args.uki, &args.sysroot, &kernel_image)?,
            image: ImageRequest {
                version: version.clone(),
                container: trust.container(),
                output: args.output.join(image_name),
                ..image_request(&args, &release)?
            },
            mini: MiniRequest {
                modules: modules(&args.modules)?,
                on_corruption: trust.on_corruption,
                kernel_mounts: args
                    .kernel_mount
                    .iter()
                    .map(|kind| kind.name().into())
                    .collect(),
                direct: direct(&args)?,
                stage: match args.mode {
                    ModeArg::Stay => Stage::System,
                    ModeArg::Initrd | ModeArg::Direct => Stage::Initrd,
                },
                inits: inits(args.mode),
                extensions: extensions.trust,
                appended: args.appended.map(|choice| match choice {
                    AppendedArg::Extra => Appended::Extra,
                    AppendedArg::All => Appended::All,
                }),
                device_timeout_ms: args.timeout.saturating_mul(1000),
                on_failure: on_failure(args.on_failure),
                compression: match args.compress {
                    CompressArg::Zstd => Compression::Zstd,
                    CompressArg::Lz4 => Compression::Lz4,
                    CompressArg::None => Compression::None,
                },
                ..MiniRequest::new(args.output.join(MINI), storage_init, kernel)
            },
            output: args.output,
            kernel_image,
            places: args.image_on,
            version,
            cmdline: args.cmdline,
            memory: args.memory,
            trust,
            extensions: extensions.members,
            image_name,
            image_path: args.image_path,
        })
    }

    /// The product, which becomes a folder's name.
    pub(crate) fn product(&self, image: &BuiltImage) -> Result<String> {
        let product = image.summary.product.clone();
        installer::check_name(&product).map_err(|why| {
            CliError::new(format!("the image's own name cannot be used: {why}"))
                .hint("name the product with --product")
        })?;
        Ok(product)
    }

    /// The mini-initramfs as far as it is known before the image.
    pub(crate) fn mini_outline(&self) -> MiniRequest {
        let path = self.image_path("product");
        MiniRequest {
            auth: self.trust.outline(),
            candidates: candidates(&self.places, &path, Some(builder::Uuid::nil())),
            ..self.mini.clone()
        }
    }

    /// The image's path on its partition.
    pub(crate) fn image_path(&self, product: &str) -> String {
        match &self.image_path {
            Some(path) => path.clone(),
            None => format!("/{product}/{}/{}", self.version, self.image_name),
        }
    }
}

/// What images in memory cannot be.
fn check_memory(args: &BuildArgs, trust: &TrustPlan) -> Result<()> {
    let places = &args.image_on;
    if places.contains(&PlaceArg::Pmem { dax: true })
        && args.image_compress != ImageCompressArg::None
    {
        return Err(CliError::usage(
            "--image-on pmem:dax is for an image without compression: only its pages can be used \
             where they lie",
        )
        .hint("add --image-compress none, or use --image-on pmem"));
    }
    if places.contains(&PlaceArg::Embedded) && trust.unsigned() {
        return Err(CliError::usage(
            "--image-on embedded needs an image that is signed now: what is in the \
             mini-initramfs cannot be signed later",
        )
        .hint("give --key and --certificate, or build without --auth signed"));
    }
    let pmem = |place: &PlaceArg| matches!(place, PlaceArg::Pmem { .. });
    if args.memory.is_some() && !places.iter().any(pmem) {
        return Err(
            CliError::usage("--memory is for an image that a loader puts into memory")
                .hint("add --image-on pmem"),
        );
    }
    Ok(())
}

fn check_part(option: &str, value: &str) -> Result<()> {
    installer::check_name(value)
        .map_err(|why| CliError::usage(format!("{option} becomes a folder's name: {why}")))
}

/// A path that FAT, ext4 and boot entries can all hold.
fn check_image_path(path: &str) -> Result<()> {
    let bad = |why: &str| Err(CliError::usage(format!("--image-path {path:?} {why}")));
    let Some(relative) = path.strip_prefix('/') else {
        return bad("does not begin with a slash");
    };
    for part in relative.split('/') {
        if let Err(why) = installer::check_name(part) {
            return bad(&format!("has a part that cannot be used: {why}"));
        }
    }
    Ok(())
}

/// The release that the kernel and its modules have in common.
fn kernel_release(args: &BuildArgs) -> Result<String> {
    let of_image = args
        .kernel
        .as_deref()
        .map(builder::kernel_release_of_image)
        .transpose()?;
    if let (Some(chosen), Some(of_image)) = (&args.kernel_release, &of_image) {
        if chosen != of_image {
            return Err(CliError::usage(format!(
                "--kernel-release is {chosen}, but the kernel says that it is {of_image}"
            ))
            .hint("modules of another release cannot be loaded; leave --kernel-release out"));
        }
    }
    let of_modules = args
        .modules_dir
        .as_deref()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .map(str::to_owned);
    match args.kernel_release.clone().or(of_image).or(of_modules) {
        Some(release) => Ok(release),
        None => Ok(builder::kernel_release(&args.sysroot)?),
    }
}

fn image_request(args: &BuildArgs, release: &str) -> Result<ImageRequest> {
    let source = source(&args.source, &args.sysroot, release)?;
    // Needed only by some images, which the builder knows when it sees them.
    let run_init = match &args.run_init {
        Some(path) => Some(programs::find("run-init", "--run-init", Some(path))?),
        None => programs::find("run-init", "--run-init", None).ok(),
    };
    Ok(ImageRequest {
        run_init,
        compression: match args.image_compress {
            ImageCompressArg::None => ImageCompression::None,
            ImageCompressArg::Lz4(None) => ImageCompression::default(),
            ImageCompressArg::Lz4(Some(level)) => ImageCompression::Lz4hc {
                level,
                cluster: 65_536,
            },
        },
        system: system(args)?,
        product: product(args, &source),
        hot: hot(&args.profile, &args.sysroot)?,
        ..ImageRequest::new(source, PathBuf::new())
    })
}

/// The hot files. A profile that was named has to be one; one that is only found
/// and cannot be used is passed over, as a kernel update is not to fail for it.
fn hot(arg: &Path, sysroot: &Path) -> Result<HotFiles> {
    match arg.to_str() {
        Some("none") => Ok(HotFiles::None),
        Some("auto") => {
            let path = sysroot.join("var/lib/initoverlayfs/profile.json");
            if !path.exists() {
                return Ok(HotFiles::Generic);
            }
            match Profile::read(&path) {
                Ok(profile) => Ok(HotFiles::Recorded(profile)),
                Err(error) => {
                    ui::warn(&format!("the boot profile is not used: {error}"));
                    Ok(HotFiles::Generic)
                }
            }
        }
        _ => Ok(HotFiles::Recorded(Profile::read(arg)?)),
    }
}

/// The product: the user's, else that of the system that the image is for. An
/// initramfs says of itself what made it, not what it boots: dracut's has an
/// os-release of dracut, initramfs-tools' has none. Empty for the image's own.
fn product(args: &BuildArgs, source: &Source) -> String {
    let known = match (&args.product, source) {
        (Some(product), _) => Some(product.clone()),
        (None, Source::Root(_)) => None,
        (None, _) => builder::product_of(&args.sysroot),
    };
    known.unwrap_or_default()
}

fn source(args: &SourceArgs, sysroot: &Path, release: &str) -> Result<Source> {
    match (&args.initrd, &args.root, args.generator) {
        (Some(file), None, None) => Ok(Source::Initrd(file.clone())),
        (None, Some(dir), None) => Ok(Source::Root(dir.clone())),
        (None, None, Some(generator)) => Ok(Source::Generator(GeneratorRun {
            generator: match generator {
                GeneratorArg::Dracut => Generator::Dracut,
                GeneratorArg::InitramfsTools => Generator::InitramfsTools,
                GeneratorArg::Mkosi => Generator::Mkosi,
            },
            kernel_release: release.into(),
            sysroot: (sysroot != Path::new("/")).then(|| sysroot.to_owned()),
            extra_args: Vec::new(),
        })),
        // The parser's group sees to it; said again for callers of the library.
        _ => Err(CliError::usage(
            "one of --initrd, --root and --generator is needed",
        )),
    }
}

pub(crate) fn modules(arg: &ModulesArg) -> Result<Modules> {
    Ok(match arg {
        ModulesArg::Generic => Modules::Generic,
        ModulesArg::Builtin => Modules::Builtin,
        ModulesArg::None => Modules::None,
        ModulesArg::Names(names) => Modules::Drivers(names.clone()),
        ModulesArg::Host => {
            let sysfs = PathBuf::from("/sys");
            Modules::Host(HostDisks {
                devices: builder::boot_disks(&sysfs)?,
                sysfs,
            })
        }
    })
}

fn on_failure(arg: FailureArg) -> OnFailure {
    match arg {
        FailureArg::Reboot => OnFailure::Reboot,
        FailureArg::Poweroff => OnFailure::PowerOff,
        FailureArg::Halt => OnFailure::Halt,
    }
}

/// What the image is tried for as init.
fn inits(mode: ModeArg) -> Vec<String> {
    let inits = match mode {
        ModeArg::Stay => MiniRequest::SYSTEM_INITS,
        ModeArg::Initrd | ModeArg::Direct => MiniRequest::INITS,
    };
    inits.map(String::from).to_vec()
}

/// What of the image lasts, if it is the operating system.
fn system(args: &BuildArgs) -> Result<Option<System>> {
    if args.mode != ModeArg::Stay {
        return match args.persist_var {
            Some(_) => Err(CliError::usage("--persist-var is for --mode stay")
                .hint("add --mode stay, or leave it out")),
            None => Ok(None),
        };
    }
    if args.source.root.is_none() {
        return Err(CliError::usage(
            "--mode stay takes the tree of a system (--root), and no initramfs",
        )
        .hint("give --root DIR, or leave --mode stay out"));
    }
    Ok(Some(System {
        var: args.persist_var.clone().map(|source| PersistentVar {
            source,
            encrypted: args.persist_encrypted,
        }),
    }))
}

/// What may be booted without the image, if that was asked for.
fn direct(args: &BuildArgs) -> Result<Option<Direct>> {
    if args.mode != ModeArg::Direct {
        if args.direct_root.is_some() || !args.root_fs.is_empty() {
            return Err(
                CliError::new("--direct-root and --root-fs are for --mode direct")
                    .hint("add --mode direct, or leave them out"),
            );
        }
        return Ok(None);
    }
    if let Some(root) = args
        .direct_root
        .as_deref()
        .filter(|root| Root::parse(root).is_none())
    {
        return Err(CliError::new(format!(
            "--direct-root {root} names no root that is found without user space"
        ))
        .hint("name it by UUID=, LABEL=, PARTUUID=, PARTLABEL= or /dev/NAME"));
    }
    let (kind, flags) = of_fstab(&args.sysroot);
    let kinds = match args.root_fs.as_slice() {
        [] => vec![kind.unwrap_or(RootFsArg::Ext4)],
        kinds => kinds.to_vec(),
    };
    Ok(Some(Direct {
        root: args.direct_root.clone().unwrap_or_default(),
        kinds: kinds.iter().map(|kind| kind.name().to_owned()).collect(),
        flags,
    }))
}

/// What the sysroot's fstab(5) says of its root: the file system, if it is one that
/// can be booted directly, and the subvolume, without which btrfs shows another
/// tree. All other options are the booted system's to set.
fn of_fstab(sysroot: &Path) -> (Option<RootFsArg>, String) {
    let text = std::fs::read_to_string(sysroot.join("etc/fstab")).unwrap_or_default();
    let root = text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields.as_slice() {
            [device, "/", kind, options, ..] if !device.starts_with('#') => Some((*kind, *options)),
            _ => None,
        }
    });
    let Some((kind, options)) = root else {
        return (None, String::new());
    };
    let kind = match kind {
        "ext2" | "ext3" => Some(RootFsArg::Ext4),
        kind => RootFsArg::from_str(kind, false).ok(),
    };
    let subvolume = options
        .split(',')
        .filter(|option| option.starts_with("subvol"));
    (kind, subvolume.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> BuildArgs {
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            build: BuildArgs,
        }
        let words = ["build", "--initrd", "x", "--output", "y"]
            .iter()
            .chain(words);
        <Program as clap::Parser>::try_parse_from(words)
            .unwrap()
            .build
    }

    #[test]
    fn fstab_says_what_the_root_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let fstab = |text: &str| {
            std::fs::write(dir.path().join("etc/fstab"), text).unwrap();
            direct(&args(&["--mode", "direct", "--sysroot", root]))
                .unwrap()
                .unwrap()
        };
        let found =
            fstab("#UUID=1 / xfs\nUUID=1 / btrfs noatime,subvol=@,ro 0 1\nUUID=2 /usr xfs x\n");
        assert_eq!(
            (found.kinds, &*found.flags),
            (vec!["btrfs".to_owned()], "subvol=@")
        );
        assert_eq!(fstab("UUID=1 / ext3 errors=remount-ro 0 1").kinds, ["ext4"]);
        // Nothing that could be booted directly: the default, and the image.
        assert_eq!(fstab("pool / zfs defaults 0 0").kinds, ["ext4"]);
        assert_eq!(fstab("").flags, "");
    }

    #[test]
    fn a_direct_boot_has_to_be_asked_for() {
        assert_eq!(direct(&args(&[])).unwrap(), None);
        assert!(direct(&args(&["--root-fs", "xfs"])).is_err());
        assert!(
            direct(&args(&[
                "--mode",
                "direct",
                "--direct-root",
                "/dev/mapper/x"
            ]))
            .is_err()
        );
        let words = [
            "--mode",
            "direct",
            "--direct-root",
            "LABEL=x",
            "--root-fs",
            "xfs,erofs",
        ];
        let chosen = direct(&args(&words)).unwrap().unwrap();
        assert_eq!(
            (&*chosen.root, chosen.kinds),
            ("LABEL=x", vec!["xfs".into(), "erofs".into()])
        );
    }

    #[test]
    fn only_a_tree_can_stay() {
        assert_eq!(system(&args(&[])).unwrap(), None);
        assert!(system(&args(&["--persist-var", "LABEL=var"])).is_err());
        assert!(system(&args(&["--mode", "stay"])).is_err());
        assert!(direct(&args(&["--mode", "stay", "--root-fs", "xfs"])).is_err());
        let mut tree = args(&["--mode", "stay", "--persist-var", "LABEL=var"]);
        tree.source.initrd = None;
        tree.source.root = Some("tree".into());
        let var = system(&tree).unwrap().unwrap().var.unwrap();
        assert_eq!((&*var.source, var.encrypted), ("LABEL=var", false));
        assert_eq!(direct(&tree).unwrap(), None);
    }

    #[test]
    fn image_paths() {
        check_image_path("/debian-13/6.12.1+deb13/image.erofs").unwrap();
        for bad in ["", "a/b", "/", "//a", "/a/../b", "/a b", "/a/"] {
            let error = check_image_path(bad).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad:?}");
        }
    }
}
