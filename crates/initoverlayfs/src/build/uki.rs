//! The UKI of a built set.

use std::fs;
use std::path::{Path, PathBuf};

use builder::{BuiltUki, PcrSigning, UkiRequest, UkiSigning};

use crate::cli::UkiArgs;
use crate::error::{CliError, Result};
use crate::ui;

/// The greatest size of an os-release file, in bytes.
const MAX_OS_RELEASE: u64 = 64 << 10;

/// What goes into it beside kernel, mini-initramfs and command line.
#[derive(Debug)]
pub(super) struct UkiPlan {
    stub: PathBuf,
    splash: Option<PathBuf>,
    os_release: Option<Vec<u8>>,
    signing: Option<UkiSigning>,
    pcr: Option<PcrSigning>,
}

impl UkiPlan {
    /// `None` if no UKI was asked for.
    pub(super) fn resolve(args: &UkiArgs, sysroot: &Path, kernel: &Path) -> Result<Option<Self>> {
        if !args.uki {
            return Ok(None);
        }
        let signing = match (&args.secure_boot_key, &args.secure_boot_certificate) {
            (Some(key), Some(certificate)) => Some(UkiSigning {
                key: key.clone(),
                certificate: certificate.clone(),
                tool: None,
            }),
            _ => None,
        };
        let pcr = match (&args.pcr_key, &args.pcr_public_key) {
            (Some(key), Some(public)) => Some(PcrSigning {
                certificate: args.pcr_certificate.clone(),
                ..PcrSigning::new(key.clone(), public.clone())
            }),
            _ => None,
        };
        Ok(Some(Self {
            stub: match &args.stub {
                Some(stub) => stub.clone(),
                None => builder::default_stub(sysroot, kernel)?,
            },
            splash: args.splash.clone(),
            os_release: os_release(args.os_release.as_deref(), sysroot)?,
            signing,
            pcr,
        }))
    }

    pub(super) fn signed(&self) -> bool {
        self.signing.is_some()
    }

    /// Builds it beside the other files of the set.
    pub(super) fn build(
        &self,
        files: [PathBuf; 3],
        product: &str,
        release: &str,
        cmdline: Option<&str>,
        bars: &ui::Bars,
    ) -> Result<BuiltUki> {
        let [output, kernel, initrd] = files;
        let request = UkiRequest {
            cmdline: cmdline.unwrap_or_default().to_owned(),
            os_release: match &self.os_release {
                Some(bytes) => bytes.clone(),
                None => format!("ID=\"{product}\"\nPRETTY_NAME=\"{product}\"\n").into_bytes(),
            },
            uname: release.to_owned(),
            splash: self.splash.clone(),
            signing: self.signing.clone(),
            pcr: self.pcr.clone(),
            ..UkiRequest::new(output, self.stub.clone(), kernel, initrd)
        };
        Ok(builder::build_uki(&request, bars)?)
    }
}

/// The file that boot loaders name the entry by: the user's, else the system's.
fn os_release(chosen: Option<&Path>, sysroot: &Path) -> Result<Option<Vec<u8>>> {
    let places = match chosen {
        Some(path) => vec![path.to_owned()],
        None => ["etc/os-release", "usr/lib/os-release"]
            .map(|place| sysroot.join(place))
            .to_vec(),
    };
    for path in &places {
        match fs::metadata(path) {
            Ok(found) if found.len() > MAX_OS_RELEASE => {
                return Err(CliError::usage(format!(
                    "{} is too large for an os-release file",
                    path.display()
                )));
            }
            Ok(_) => {
                return match fs::read(path) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(e) => Err(CliError::io("read", path, e)),
                };
            }
            Err(e) if chosen.is_some() => return Err(CliError::io("read", path, e)),
            Err(_) => {}
        }
    }
    Ok(None)
}
