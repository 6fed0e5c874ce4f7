//! `inspect`: what a file is and what it contains.
//!
//! A file becomes a [`Node`]: a kind, facts, listed files and parts that are
//! nodes themselves. People see it as an indented outline, programs as JSON.
//! Every byte is hostile: reading is bounded in memory and number, text is
//! printed without its control characters.

mod decode;
mod entry;
mod erofs;
mod initramfs;
mod kernel;
mod node;
mod plan;
mod trust;
mod volumes;

use std::io;
use std::path::Path;

use installer::FileSource;
use iofs_cpio::Compression;
use iofs_plan::BootPlan;
use iofs_source::{ReadAt, Window};

use crate::cli::InspectArgs;
use crate::error::{CliError, Result};
use crate::ui;
pub(crate) use initramfs::Mini;
use node::Node;

/// The most of a file that is held in memory, in bytes: an initramfs is read
/// whole, as the kernel does.
const MAX_IN_MEMORY: u64 = 1 << 30;

/// The most files that are listed of an archive or a file system.
const MAX_LISTED: usize = 1_000_000;

/// How deep partitions and archives are looked into.
const MAX_DEPTH: u32 = 3;

pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let path = &args.file;
    let source = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => FileSource::open(path),
        Err(e) => Err(e),
    };
    let source = source.map_err(|e| CliError::io("inspect", path, e))?;
    let view = View {
        source: &source,
        list: args.list,
        depth: 0,
    };
    let node = view.describe().map_err(|why| {
        CliError::new(format!("{} cannot be described", path.display())).source(why)
    })?;
    let node = node.ok_or_else(|| {
        CliError::new(format!(
            "{} is nothing that this program knows",
            path.display()
        ))
        .hint(
            "known are initramfs files, boot plans, EROFS, FAT and ext4 file systems, \
             disk images, GPT disks, Linux kernels, UKIs, boot entries, certificates \
             and compressed files",
        )
    })?;
    let node = node.named(&path.display().to_string());
    if args.json {
        return ui::print_json(&node);
    }
    node.print();
    Ok(())
}

/// The boot plan in a file: the file itself, or what a mini-initramfs or a UKI
/// holds.
pub(crate) fn plan_in(path: &Path) -> Result<Option<BootPlan>> {
    Ok(mini_in(path)?.map(|mini| mini.plan))
}

/// The mini-initramfs that a file is, or that a UKI holds; of a boot plan alone
/// there is nothing else to tell.
pub(crate) fn mini_in(path: &Path) -> Result<Option<Mini>> {
    let source = FileSource::open(path).map_err(|e| CliError::io("open", path, e))?;
    let view = View {
        source: &source,
        list: false,
        depth: 0,
    };
    let found = mini_in_view(&view);
    found.map_err(|why| {
        CliError::new(format!(
            "{} has no boot plan that can be read",
            path.display()
        ))
        .source(why)
    })
}

fn mini_in_view(view: &View<'_>) -> std::result::Result<Option<Mini>, String> {
    if view.bytes(0, 8).as_deref() == Some(b"IOFSPLAN") {
        return Ok(Some(Mini {
            plan: plan::read(view)?,
            modules: Vec::new(),
            packs: Vec::new(),
            base: (0, 0),
        }));
    }
    if view.bytes(0, 2).as_deref() == Some(b"MZ") && view.depth == 0 {
        let image = iofs_pe::Image::read(view.source).map_err(|e| e.to_string())?;
        let Some(section) = image.section(".initrd") else {
            return Ok(None);
        };
        let data = section.data();
        let window = Window::new(view.source, data.start, data.end.saturating_sub(data.start))
            .map_err(|e| e.to_string())?;
        return mini_in_view(&View {
            source: &window,
            list: false,
            depth: 1,
        });
    }
    initramfs::mini(view)
}

/// A source that is looked into.
#[derive(Clone, Copy)]
struct View<'a> {
    source: &'a dyn ReadAt,
    /// Whether the files inside are listed.
    list: bool,
    depth: u32,
}

/// Why something that was recognised cannot be described.
type Described = std::result::Result<Option<Node>, String>;

impl View<'_> {
    /// Describes the source; `None` if it is nothing known.
    fn describe(&self) -> Described {
        if self.source.size() == 0 {
            return Ok(Some(Node::new("empty")));
        }
        // In the order of how much each proves: magic numbers first.
        let steps: [fn(&View<'_>) -> Described; 11] = [
            plan::describe,
            kernel::describe,
            trust::program,
            trust::certificate,
            erofs::describe,
            trust::disk_image,
            volumes::gpt,
            volumes::ext4,
            initramfs::describe,
            volumes::fat,
            entry::describe,
        ];
        for step in steps {
            if let Some(node) = step(self)? {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// `len` bytes at `offset`, if the source has them.
    fn bytes(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.source.read_at(offset, &mut bytes).ok()?;
        Some(bytes)
    }

    /// The compression that the source begins with.
    fn compression(&self) -> Option<Compression> {
        let len = self.source.size().min(16);
        let head = self.bytes(0, usize::try_from(len).ok()?)?;
        Compression::detect(&head)
    }

    /// All of the source.
    fn whole(&self, what: &str) -> std::result::Result<Vec<u8>, String> {
        let size = self.source.size();
        if size > MAX_IN_MEMORY {
            return Err(format!(
                "{what} of {size} bytes is more than the {MAX_IN_MEMORY} that are looked into"
            ));
        }
        let len = usize::try_from(size).map_err(|e| e.to_string())?;
        let mut bytes = vec![0; len];
        self.source
            .read_at(0, &mut bytes)
            .map_err(|e| e.to_string())?;
        Ok(bytes)
    }
}
