//! What makes an image authentic, as `build` was asked for it.

use std::cmp::Ordering;

use builder::{
    Auth, BuiltImage, Container, KeySource, Measure, OnCorruption, Signed, Signer,
    TrustedCertificate,
};

use crate::cli::{AuthArg, CorruptionArg, TrustArgs};
use crate::error::{CliError, Result};

/// The arguments, resolved.
#[derive(Debug)]
pub(super) struct TrustPlan {
    how: AuthArg,
    signer: Option<Signer>,
    certificates: Vec<TrustedCertificate>,
    min_version: String,
    measure: Measure,
    pub(super) on_corruption: OnCorruption,
}

impl TrustPlan {
    pub(super) fn resolve(args: &TrustArgs, version: &str) -> Result<Self> {
        let how = match (args.auth, &args.key) {
            (Some(how), _) => how,
            (None, Some(_)) => AuthArg::Signed,
            (None, None) => AuthArg::Sealed,
        };
        refuse_unused(args, how)?;
        let signer = match (&args.key, &args.certificate) {
            (Some(key), Some(certificate)) => Some(Signer::new(key.clone(), certificate)?),
            (None, None) => None,
            _ => return Err(CliError::usage("--key and --certificate go together")),
        };
        let mut certificates: Vec<_> = signer.iter().map(|s| s.certificate().clone()).collect();
        for path in &args.trust {
            let certificate = TrustedCertificate::read(path)?;
            if !certificates.contains(&certificate) {
                certificates.push(certificate);
            }
        }
        if how == AuthArg::Signed && certificates.is_empty() {
            return Err(
                CliError::usage("--auth signed needs somebody whose signature is trusted").hint(
                    "give --key and --certificate, which sign the image (make them with \
                     `initoverlayfs keygen`), or --trust CERT for an image that is signed later",
                ),
            );
        }
        let min_version = args.min_version.clone().unwrap_or_default();
        check_floor(&min_version, version)?;
        if iofs_bls::compare_versions(version, &min_version) == Ordering::Less {
            return Err(CliError::usage(format!(
                "--min-version {min_version} is above the version of this very image, {version}"
            ))
            .hint("no boot would take the image"));
        }
        let default = Measure::default();
        Ok(Self {
            how,
            signer,
            certificates,
            min_version,
            measure: Measure {
                pcr: args.measure_pcr.unwrap_or(default.pcr),
                required: args.measure_required,
            },
            on_corruption: match args.on_corruption {
                None | Some(CorruptionArg::Error) => OnCorruption::Error,
                Some(CorruptionArg::Restart) => OnCorruption::Restart,
                Some(CorruptionArg::Panic) => OnCorruption::Panic,
            },
        })
    }

    pub(super) fn sealed(&self) -> bool {
        self.how == AuthArg::Sealed
    }

    /// Whether the image has to be signed before a boot takes it.
    pub(super) fn unsigned(&self) -> bool {
        self.how == AuthArg::Signed && self.signer.is_none()
    }

    pub(super) fn container(&self) -> Container {
        match self.how {
            AuthArg::None => Container::None,
            _ => Container::Ddi {
                signer: self.signer.clone(),
            },
        }
    }

    /// [`Self::auth`], as far as it is known before the image.
    pub(super) fn outline(&self) -> Auth {
        match self.how {
            AuthArg::None => Auth::None,
            AuthArg::Sealed | AuthArg::Signed => Auth::default(),
        }
    }

    /// What the plan of that image says.
    pub(super) fn auth(&self, image: &BuiltImage) -> Result<Auth> {
        Ok(match (self.how, image.root_hash) {
            (AuthArg::None, _) => Auth::None,
            (AuthArg::Sealed, Some(root)) => Auth::Sealed(root),
            (AuthArg::Sealed, None) => return Err(CliError::new("the image has no root hash")),
            (AuthArg::Signed, _) => Auth::Signed(Signed {
                certificates: self.certificates.iter().map(|c| c.der().to_vec()).collect(),
                min_version: self.min_version.clone(),
                measure: self.measure,
            }),
        })
    }
}

/// An option that would have no effect is a misunderstanding.
fn refuse_unused(args: &TrustArgs, how: AuthArg) -> Result<()> {
    let signed_only = [
        ("--trust", !args.trust.is_empty()),
        ("--min-version", args.min_version.is_some()),
        ("--measure-pcr", args.measure_pcr.is_some()),
        ("--measure-required", args.measure_required),
    ];
    let any = [
        ("--key", args.key.is_some()),
        ("--on-corruption", args.on_corruption.is_some()),
    ];
    let (unused, why) = match how {
        AuthArg::Signed => return Ok(()),
        AuthArg::Sealed => (
            signed_only.to_vec(),
            "the root hash in the plan already says which image it is; use --auth signed",
        ),
        AuthArg::None => (
            signed_only.into_iter().chain(any).collect(),
            "nothing of the image is checked; leave --auth none out",
        ),
    };
    match unused.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(CliError::usage(format!(
            "{option} has no effect with --auth {}",
            how.name()
        ))
        .hint(why)),
    }
}

impl AuthArg {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sealed => "sealed",
            Self::Signed => "signed",
        }
    }
}

/// For clap: a file or a PKCS#11 URI.
pub(crate) fn parse_key(text: &str) -> std::result::Result<KeySource, String> {
    text.parse()
}

/// Refuses a least version below which nothing is: digits are above letters in
/// UAPI.10's order, so that `1.0` passes a floor of `v2`.
fn check_floor(min_version: &str, version: &str) -> Result<()> {
    let numbered = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    if min_version.is_empty() || (numbered(min_version) && numbered(version)) {
        return Ok(());
    }
    Err(CliError::usage(format!(
        "--min-version {min_version} needs two versions that can be compared, and the image's is \
         \"{version}\""
    ))
    .hint("begin both with a digit: a version such as v2 is below every number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_must_be_one() {
        for (min, version) in [("", "v1"), ("1", "2"), ("6.12.1", "6.12.117+deb13")] {
            assert!(check_floor(min, version).is_ok(), "{min} {version}");
        }
        for (min, version) in [("v2", "3"), ("_", "1"), ("2", "v3"), ("1", "")] {
            assert!(check_floor(min, version).is_err(), "{min} {version}");
        }
    }
}
