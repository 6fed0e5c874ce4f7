//! mkfs.erofs as the image writer.

use super::{ImageJob, ImageWriter};
use crate::error::{Error, ErrorKind, Result};
use crate::process;
use crate::progress::Progress;
use crate::request::ImageCompression;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

/// The first version that reads `--compress-hints` with clusters of 0 bytes.
const HINTS_SINCE: (u32, u32) = (1, 4);

/// mkfs.erofs of erofs-utils, as it is installed.
#[derive(Debug, Clone)]
pub struct MkfsErofs {
    version: (u32, u32),
    version_text: String,
    compression: ImageCompression,
}

impl MkfsErofs {
    /// Looks for mkfs.erofs and asks what it can.
    ///
    /// # Errors
    /// [`ErrorKind::MissingTool`] if it is not installed,
    /// [`ErrorKind::Tool`] if it cannot be understood,
    /// [`ErrorKind::Unsupported`] if it lacks the compression,
    /// [`ErrorKind::Usage`] if the compression cannot be.
    pub fn probe(compression: ImageCompression) -> Result<Self> {
        check(&compression)?;
        // Version 1.5 has no -V, but says its version first whatever it is
        // asked; later ones do both.
        let output = Command::new("mkfs.erofs")
            .arg("--help")
            .output()
            .map_err(|source| process::not_run("mkfs.erofs", "erofs-utils", source))?;
        let mut help = String::from_utf8_lossy(&output.stdout).into_owned();
        help.push_str(&String::from_utf8_lossy(&output.stderr));
        let version_text = match find_version(&help) {
            Some(version) => version.to_owned(),
            None => {
                let output = Command::new("mkfs.erofs").arg("-V").output().ok();
                let said = output.map_or_else(String::new, |output| {
                    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
                    text.push_str(&String::from_utf8_lossy(&output.stderr));
                    text
                });
                find_version(&said).map(str::to_owned).ok_or_else(|| {
                    Error::new(ErrorKind::Tool, "mkfs.erofs does not say its version")
                })?
            }
        };
        let mut numbers = version_text
            .split(['.', '-'])
            .map(|part| part.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if compression != ImageCompression::None && !help.contains("lz4hc") {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("mkfs.erofs {version_text} was built without lz4hc"),
            )
            .hint("Choose no compression, or another build of erofs-utils."));
        }
        Ok(Self {
            version,
            version_text,
            compression,
        })
    }

    fn hints(&self, job: &ImageJob<'_>, command: &mut Command) -> Result<()> {
        if job.plain.is_empty() || !self.wants_plain() {
            return Ok(());
        }
        let mut text = String::new();
        for path in job.plain {
            // 0: not compressed at all.
            let _ = writeln!(text, "0 {}", pattern(path));
        }
        let file = job.work.join("compress-hints");
        std::fs::write(&file, text).map_err(Error::io("writing", &file))?;
        command.arg(format!("--compress-hints={}", file.display()));
        Ok(())
    }
}

/// What stands after `mkfs.erofs` in the first line: `mkfs.erofs 1.5`,
/// `mkfs.erofs (erofs-utils) 1.8.6`.
fn find_version(said: &str) -> Option<&str> {
    said.lines()
        .filter(|line| line.starts_with("mkfs.erofs"))
        .flat_map(str::split_whitespace)
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
}

fn check(compression: &ImageCompression) -> Result<()> {
    let ImageCompression::Lz4hc { level, cluster } = compression else {
        return Ok(());
    };
    if !(1..=12).contains(level) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("lz4hc has levels from 1 to 12, not {level}"),
        ));
    }
    if !cluster.is_power_of_two() || !(4096..=1 << 20).contains(cluster) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "a physical cluster has a power of two from 4096 to 1048576 bytes, not {cluster}"
            ),
        ));
    }
    Ok(())
}

/// The extended regular expression that matches one path (relative to the tree,
/// as mkfs.erofs sees it) and as good as no other. Bytes that mean something to
/// the expression, to the line it stands on or to the locale become `.`.
fn pattern(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let mut pattern = String::with_capacity(bytes.len() + 2);
    pattern.push('^');
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"/_-,:@%=~".contains(&byte) {
            pattern.push(char::from(byte));
        } else if byte == b'.' {
            pattern.push_str("\\.");
        } else {
            pattern.push('.');
        }
    }
    pattern.push('$');
    pattern
}

impl ImageWriter for MkfsErofs {
    fn name(&self) -> String {
        format!("mkfs.erofs {}", self.version_text)
    }

    fn compression(&self) -> String {
        match self.compression {
            ImageCompression::None => String::new(),
            ImageCompression::Lz4hc { level, cluster } => format!("lz4hc,{level} -C{cluster}"),
        }
    }

    fn wants_plain(&self) -> bool {
        self.compression != ImageCompression::None && self.version >= HINTS_SINCE
    }

    fn write(&self, job: &ImageJob<'_>, progress: &dyn Progress) -> Result<()> {
        let mut command = Command::new("mkfs.erofs");
        // The C locale: hints match bytes.
        command.env("LC_ALL", "C");
        if let ImageCompression::Lz4hc { level, cluster } = self.compression {
            command.arg(format!("-zlz4hc,{level}"));
            command.arg(format!("-C{cluster}"));
        }
        command.arg(format!("-T{}", job.timestamp));
        command.arg(format!("-U{}", job.uuid.hyphenated()));
        self.hints(job, &mut command)?;
        command.arg(job.output).arg(job.stage);
        process::run(&mut command, "erofs-utils", progress)
    }
}

/// Has fsck.erofs check `image`; false if it is not installed.
///
/// # Errors
/// [`ErrorKind::Verify`] if it finds a fault.
pub(crate) fn fsck(image: &Path, progress: &dyn Progress) -> Result<bool> {
    let mut command = Command::new("fsck.erofs");
    match process::run(command.arg(image), "erofs-utils", progress) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::MissingTool => Ok(false),
        Err(error) => Err(Error::new(
            ErrorKind::Verify,
            format!("the image that was written is faulty: {error}"),
        )),
    }
}
