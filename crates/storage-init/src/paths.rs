//! Where the kernel shows itself.

use alloc::string::String;

/// The folders and files that a boot reads; tests put their own here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// sysfs.
    pub sys: String,
    /// devtmpfs.
    pub dev: String,
    /// The kernel command line.
    pub cmdline: String,
    /// The boot plan.
    pub plan: String,
    /// The folder of the modules.
    pub modules: String,
    /// The folder of the packs.
    pub packs: String,
    /// The image that is packed into the mini-initramfs.
    pub embedded: String,
    /// The drivers that this image does not have.
    pub absent: String,
    /// Where the loader's credentials and extensions are.
    pub extra: String,
}

impl Paths {
    /// Those of the running kernel.
    #[must_use]
    pub fn kernel() -> Self {
        Self {
            sys: "/sys".into(),
            dev: "/dev".into(),
            cmdline: "/proc/cmdline".into(),
            plan: iofs_plan::PATH.into(),
            modules: iofs_plan::MODULES_DIR.into(),
            packs: iofs_plan::PACKS_DIR.into(),
            embedded: iofs_plan::EMBEDDED.into(),
            absent: iofs_plan::ABSENT.into(),
            extra: "/.extra".into(),
        }
    }
}
