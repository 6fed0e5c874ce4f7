//! Which image it is, by its own word, which its signature covers: product and
//! version, in the format of os-release(5).
//!
//! A signature says that an image is its maker's, not that it is this machine's
//! or that it is not an old one with a known hole. Both are said in the image,
//! and compared with the plan once the image is mounted through dm-verity.

use alloc::format;
use alloc::string::String;
use core::cmp::Ordering;

use iofs_bls::compare_versions;
use iofs_extension::field;
use iofs_plan::{Auth, BootPlan};
use kernel_abi::file;

use crate::report::Failure;

/// Where an image says what it is; the first of these counts. The first is
/// written by our builder, the others by distributions.
const PLACES: [&str; 4] = [
    "usr/lib/initoverlayfs/image-release",
    "etc/initrd-release",
    "etc/os-release",
    "usr/lib/os-release",
];

/// The greatest length of such a file, in bytes.
pub(crate) const MAX_LEN: usize = 64 << 10;

/// Product and version of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Release {
    /// `IMAGE_ID`, else `ID` and, with a dash, `VERSION_ID`.
    pub product: String,
    /// `IMAGE_VERSION`; empty if it has none.
    pub version: String,
}

impl Release {
    /// Reads what the image mounted at `root` says.
    ///
    /// # Errors
    /// The kernel's: EIO for a block that is not the one that was signed.
    pub fn read(root: &str) -> kernel_abi::Result<Self> {
        for place in PLACES {
            if let Some(bytes) = file::read_inside(root, place, MAX_LEN)? {
                return Ok(Self::parse(&String::from_utf8_lossy(&bytes)));
            }
        }
        Ok(Self::default())
    }

    fn parse(text: &str) -> Self {
        let field = |name: &str| field(text, name);
        let product = match (field("IMAGE_ID"), field("ID"), field("VERSION_ID")) {
            ("", id, "") => id.into(),
            ("", id, version) => format!("{id}-{version}"),
            (image, ..) => image.into(),
        };
        Self {
            product,
            version: field("IMAGE_VERSION").into(),
        }
    }

    /// Whether the plan allows this image; only a signed one needs to be asked.
    ///
    /// # Errors
    /// That it is of another product, or older than the plan allows.
    pub fn check(&self, plan: &BootPlan) -> Result<(), Failure> {
        let Auth::Signed(signed) = &plan.auth else {
            return Ok(());
        };
        if self.product != plan.product {
            return Err(Failure::new(format_args!(
                "the image is of product \"{}\", and the boot plan is for \"{}\"",
                self.product, plan.product
            ))
            .advise("install an image of this product"));
        }
        let old = compare_versions(&self.version, &signed.min_version) == Ordering::Less;
        if old && !signed.min_version.is_empty() {
            return Err(Failure::new(format_args!(
                "the image has version \"{}\", and the boot plan allows none below \"{}\"",
                self.version, signed.min_version
            ))
            .advise("install a newer image: this one was withdrawn"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iofs_plan::Signed;
    use std::vec;

    fn release(product: &str, version: &str) -> Release {
        Release {
            product: product.into(),
            version: version.into(),
        }
    }

    #[test]
    fn product_and_version_are_read() {
        for (text, expected) in [
            (
                "ID=debian\nVERSION_ID=\"13\"\nIMAGE_ID=car\nIMAGE_VERSION='7.1'\n",
                release("car", "7.1"),
            ),
            ("ID=debian\nVERSION_ID=\"13\"\n", release("debian-13", "")),
            ("ID=arch\n", release("arch", "")),
            ("IMAGE_ID=a\nIMAGE_ID=b\n", release("b", "")),
            ("#IMAGE_ID=a\nXIMAGE_ID=b\n", release("", "")),
            ("", release("", "")),
        ] {
            assert_eq!(Release::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn the_first_place_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        assert_eq!(Release::read(root).unwrap(), Release::default());
        for (place, id) in PLACES.iter().zip(["a", "b", "c", "d"]).rev() {
            let path = dir.path().join(place);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("ID={id}\n")).unwrap();
            assert_eq!(Release::read(root).unwrap().product, id);
        }
    }

    #[test]
    fn another_product_and_an_old_version_are_refused() {
        let plan = |auth| BootPlan {
            product: "car".into(),
            auth,
            ..BootPlan::default()
        };
        let signed = |min: &str| {
            plan(Auth::Signed(Signed {
                certificates: vec![],
                min_version: min.into(),
                ..Signed::default()
            }))
        };
        assert!(release("car", "2.0").check(&signed("2.0")).is_ok());
        assert!(release("car", "10").check(&signed("9")).is_ok());
        assert!(release("car", "").check(&signed("")).is_ok());
        assert!(release("car", "2.0~rc1").check(&signed("2.0")).is_err());
        assert!(release("car", "").check(&signed("1")).is_err());
        assert!(release("bus", "3").check(&signed("")).is_err());
        // A sealed image is the one that is meant, whatever it says.
        let root = iofs_plan::RootHash::from_bytes(&[1; 32]).unwrap();
        assert!(release("bus", "").check(&plan(Auth::Sealed(root))).is_ok());
    }
}
