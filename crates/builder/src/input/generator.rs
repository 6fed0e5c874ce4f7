//! Runs a distribution's generator of initramfs files.

use crate::error::{Error, ErrorKind, Result};
use crate::process;
use crate::progress::Progress;
use crate::request::{Generator, GeneratorRun};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the file that the generator makes.
const OUTPUT: &str = "initramfs";

/// Enters the root `$1`, with the work folder `$2` as its /tmp, and runs the
/// rest. In a mount namespace of its own, so that nothing stays mounted however
/// it ends, and without unsafe code between fork and exec.
const CHROOT: &str = r#"set -e
root=$1 work=$2
shift 2
for dir in dev proc sys; do mount --rbind "/$dir" "$root/$dir"; done
mount --bind "$work" "$root/tmp"
exec chroot "$root" "$@""#;

/// Runs the generator; returns the initramfs file, which lies in `work`.
pub(crate) fn run(request: &GeneratorRun, work: &Path, progress: &dyn Progress) -> Result<PathBuf> {
    check_release(&request.kernel_release)?;
    let output = work.join(OUTPUT);
    let package = match request.generator {
        Generator::Dracut => "dracut",
        Generator::InitramfsTools => "initramfs-tools",
        Generator::Mkosi => "mkosi",
    };
    let mut command = match &request.sysroot {
        None => {
            let mut line = command_line(request, work).into_iter();
            let mut command = Command::new(line.next().unwrap_or_default());
            command.args(line);
            command
        }
        Some(root) => {
            if !root.is_dir() {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("the sysroot {} is no folder", root.display()),
                ));
            }
            let mut command = Command::new("unshare");
            command
                .args([
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-c",
                    CHROOT,
                    "sh",
                ])
                .args([root, work])
                .args(command_line(request, Path::new("/tmp")));
            command
        }
    };
    process::run(command.env("LC_ALL", "C.UTF-8"), package, progress)?;
    if output.is_file() {
        return Ok(output);
    }
    Err(Error::new(
        ErrorKind::Tool,
        format!("{} made no initramfs", request.generator.name()),
    ))
}

/// The generator's command line, for an output in the folder `to`.
fn command_line(request: &GeneratorRun, to: &Path) -> Vec<OsString> {
    let release = request.kernel_release.as_str();
    let output = to.join(OUTPUT);
    let extra = request.extra_args.iter().map(OsString::from);
    let mut line: Vec<OsString> = match request.generator {
        // Not host-only: the image's drivers are its purpose. Uncompressed,
        // since it is unpacked at once.
        Generator::Dracut => vec![
            "dracut".into(),
            "--no-hostonly".into(),
            "--no-compress".into(),
            "--force".into(),
            "--kver".into(),
            release.into(),
        ],
        Generator::InitramfsTools => vec!["mkinitramfs".into(), "-o".into(), output.clone().into()],
        Generator::Mkosi => vec![
            "mkosi-initrd".into(),
            "--kernel-version".into(),
            release.into(),
            "--output".into(),
            OUTPUT.into(),
            "--output-dir".into(),
            to.into(),
        ],
    };
    line.extend(extra);
    match request.generator {
        Generator::Dracut => line.push(output.into()),
        Generator::InitramfsTools => line.push(release.into()),
        Generator::Mkosi => {}
    }
    line
}

/// Refuses what cannot be the name of a folder of modules: it ends up in paths
/// and on command lines.
pub(crate) fn check_release(release: &str) -> Result<()> {
    let good = !release.is_empty()
        && !release.starts_with(['.', '-'])
        && release
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._+-~".contains(&byte));
    if good {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!("{release:?} is no kernel release (uname -r prints one)"),
    ))
}
