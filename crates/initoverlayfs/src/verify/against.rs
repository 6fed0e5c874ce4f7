//! What an image is checked against.

use std::path::{Path, PathBuf};

use builder::{BootPlan, RootHash, TrustedCertificate};

use crate::cli::AgainstArgs;
use crate::error::{CliError, Result};
use crate::inspect;

/// Where trust comes from.
#[derive(Debug)]
pub(super) enum Against {
    Root(RootHash),
    Certificates(Vec<TrustedCertificate>),
    Plan {
        plan: Box<BootPlan>,
        /// The set's image, if the plan is that of a built set.
        image: Option<PathBuf>,
        /// The set's extensions.
        extensions: Vec<PathBuf>,
    },
}

impl Against {
    pub(super) fn resolve(args: &AgainstArgs) -> Result<Self> {
        if let Some(hex) = &args.root_hash {
            let root = RootHash::from_hex(hex.trim())
                .map_err(|e| CliError::usage(format!("--root-hash: {e}")))?;
            return Ok(Self::Root(root));
        }
        if let Some(dir) = &args.from {
            let (image, initrd, extensions) = super::files_of_set(dir)?;
            return Ok(Self::Plan {
                plan: plan(&initrd)?,
                image: Some(image),
                extensions,
            });
        }
        if let Some(path) = &args.plan {
            return Ok(Self::Plan {
                plan: plan(path)?,
                image: None,
                extensions: Vec::new(),
            });
        }
        let certificates = args.certificate.iter();
        let certificates: std::result::Result<Vec<_>, _> = certificates
            .map(|path| TrustedCertificate::read(path))
            .collect();
        Ok(Self::Certificates(certificates?))
    }

    pub(super) fn plan(&self) -> Option<&BootPlan> {
        match self {
            Self::Plan { plan, .. } => Some(plan),
            _ => None,
        }
    }

    pub(super) fn extensions(&self) -> &[PathBuf] {
        match self {
            Self::Plan { extensions, .. } => extensions,
            _ => &[],
        }
    }

    pub(super) fn image(&self) -> Option<PathBuf> {
        match self {
            Self::Plan { image, .. } => image.clone(),
            _ => None,
        }
    }
}

fn plan(path: &Path) -> Result<Box<BootPlan>> {
    let plan = inspect::plan_in(path)?;
    plan.map(Box::new).ok_or_else(|| {
        CliError::new(format!("{} holds no boot plan", path.display()))
            .hint("name a boot plan, a mini-initramfs or a UKI with one")
    })
}
