//! How a build tells what it is doing.

use serde::Serialize;

/// A step of a build, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Step {
    /// Running dracut, mkinitramfs or mkosi-initrd.
    Generate,
    /// Unpacking the initramfs or copying the root tree; total in bytes of input.
    Stage,
    /// Decompressing kernel modules in the stage; total in modules.
    StageModules,
    /// Looking for files that do not compress, and hashing the tree; total in files.
    Scan,
    /// Running the image writer; no total.
    WriteImage,
    /// Reading the image back.
    VerifyImage,
    /// Making the hash tree; total in blocks of 4096 bytes.
    HashImage,
    /// Having the root hash signed.
    SignImage,
    /// Writing the disk image.
    WrapImage,
    /// Proving the disk image that was written; total in blocks of 4096 bytes.
    ProveImage,
    /// Reading the kernel's module metadata.
    ReadIndex,
    /// Choosing the mini-initramfs's modules and compiling the plan.
    SelectModules,
    /// Reading and decompressing those modules; total in modules.
    ReadModules,
    /// Compressing the packs of modules.
    PackModules,
    /// Packing and compressing the mini-initramfs.
    WriteMini,
}

impl Step {
    /// What to show beside a bar.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Generate => "running the initramfs generator",
            Self::Stage => "staging",
            Self::StageModules => "decompressing modules",
            Self::Scan => "scanning",
            Self::WriteImage => "writing the init image",
            Self::VerifyImage => "checking the init image",
            Self::HashImage => "hashing the init image",
            Self::SignImage => "signing the root hash",
            Self::WrapImage => "writing the disk image",
            Self::ProveImage => "proving the disk image",
            Self::ReadIndex => "reading module metadata",
            Self::SelectModules => "choosing modules",
            Self::ReadModules => "reading modules",
            Self::PackModules => "packing modules",
            Self::WriteMini => "writing the mini-initramfs",
        }
    }
}

/// Is told how a build goes. Steps do not nest; calls may come from any thread.
pub trait Progress: Sync {
    /// A step begins; `total` is how much it will advance in all, if known.
    fn begin(&self, step: Step, total: Option<u64>) {
        let _ = (step, total);
    }

    /// The current step went `by` further.
    fn advance(&self, by: u64) {
        let _ = by;
    }

    /// The step is done.
    fn end(&self, step: Step) {
        let _ = step;
    }

    /// Something that the user should know and that does not stop the build; it
    /// is in the summary too.
    fn warn(&self, message: &str) {
        let _ = message;
    }

    /// A line that an external program printed.
    fn tool_output(&self, line: &str) {
        let _ = line;
    }
}

/// Ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}
