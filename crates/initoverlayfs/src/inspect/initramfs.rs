//! Initramfs files: their segments, and what makes one a mini-initramfs.

use iofs_cpio::{Compression, CpioErrorKind, Entry, FileType, Reader, SegmentKind, next_segment};
use iofs_plan::{BootPlan, EMBEDDED, MODULES_DIR, PACKS_DIR, PATH};

use super::node::{Fact, Listed, Node};
use super::{Described, MAX_IN_MEMORY, MAX_LISTED, View, decode, plan};

/// The most segments that are looked at; real ones have two or three.
const MAX_SEGMENTS: usize = 256;

/// What an initramfs holds, over all of its segments.
#[derive(Default)]
struct Content {
    list: bool,
    files: Vec<Listed>,
    plan: Option<Node>,
    /// The plan itself, or why it cannot be read.
    decoded: Option<Result<BootPlan, String>>,
    modules: Vec<Listed>,
    packs: Vec<Listed>,
    storage_init: Option<u64>,
    /// The size of the image that is packed too.
    embedded: Option<u64>,
    /// Of the segment that holds the plan: its length, and what it unpacks to.
    base: (u64, u64),
}

/// What a mini-initramfs is made of. Sizes are bytes.
pub(crate) struct Mini {
    pub(crate) plan: BootPlan,
    /// Name and size of each module that is unpacked at every boot.
    pub(crate) modules: Vec<(String, u64)>,
    /// Name and size of each pack's file.
    pub(crate) packs: Vec<(String, u64)>,
    /// Of the segment that every boot unpacks: its length, and what it unpacks to.
    pub(crate) base: (u64, u64),
}

/// Counts of one segment.
#[derive(Default)]
struct Counts {
    files: u64,
    directories: u64,
    symlinks: u64,
    devices: u64,
    bytes: u64,
    early: bool,
}

pub(super) fn describe(view: &View<'_>) -> Described {
    let plain = view
        .bytes(0, 6)
        .is_some_and(|b| b == b"070701" || b == b"070702" || b == b"070707");
    if !plain && view.compression().is_none() {
        return Ok(None);
    }
    let bytes = view.whole("an initramfs")?;
    let mut content = Content {
        list: view.list,
        ..Content::default()
    };
    Ok(Some(match read(&bytes, &mut content)? {
        Walked::Segments(segments) => content.node(bytes.len(), segments),
        Walked::Other(node) => node,
    }))
}

/// The mini-initramfs that it is, as the kernel would leave it: of several plans
/// the last.
pub(super) fn mini(view: &View<'_>) -> Result<Option<Mini>, String> {
    let bytes = view.whole("an initramfs")?;
    let mut content = Content::default();
    read(&bytes, &mut content)?;
    let sizes = |files: Vec<Listed>| {
        let sized = files
            .into_iter()
            .map(|file| (file.path, file.size.unwrap_or(0)));
        sized.collect()
    };
    let Some(plan) = content.decoded.transpose()? else {
        return Ok(None);
    };
    Ok(Some(Mini {
        plan,
        modules: sizes(content.modules),
        packs: sizes(content.packs),
        base: content.base,
    }))
}

/// What a file with segments turned out to be.
enum Walked {
    Segments(Vec<Node>),
    /// A compressed file that is no initramfs.
    Other(Node),
}

/// Walks through all segments.
fn read(bytes: &[u8], content: &mut Content) -> Result<Walked, String> {
    let mut segments = Vec::new();
    let mut at = 0;
    let mut unpacked = 0u64;
    while segments.len() < MAX_SEGMENTS {
        let segment = next_segment(bytes, at).map_err(|e| e.to_string())?;
        let had_plan = content.decoded.is_some();
        let (node, end, size) = match segment.kind {
            SegmentKind::End => break,
            SegmentKind::Cpio => {
                let mut counts = Counts::default();
                let end = archive(bytes, segment.start, &mut counts, content)?;
                let size = end.saturating_sub(segment.start);
                (counts.node("none"), end, size)
            }
            SegmentKind::Compressed(format) => {
                let rest = bytes.get(segment.start..).unwrap_or(&[]);
                let limit = MAX_IN_MEMORY.saturating_sub(unpacked);
                let member = decode::member(format, rest, limit)
                    .map_err(|why| format!("the segment at offset {}: {why}", segment.start))?;
                if segments.is_empty() && !is_archive(&member.data) {
                    return Ok(Walked::Other(compressed(format, bytes, &member)));
                }
                unpacked = unpacked.saturating_add(member.data.len() as u64);
                let mut counts = Counts::default();
                archives(&member.data, &mut counts, content).map_err(|why| {
                    format!("inside the segment at offset {}: {why}", segment.start)
                })?;
                let end = segment.start.saturating_add(member.consumed.max(1));
                (counts.node(format.name()), end, member.data.len())
            }
        };
        if content.decoded.is_some() && !had_plan {
            let length = end.saturating_sub(segment.start);
            content.base = (length as u64, size as u64);
        }
        segments.push(
            node.named(&(segments.len() + 1).to_string())
                .fact("unpacked", Fact::size(size))
                .fact("length", Fact::size(end.saturating_sub(segment.start)))
                .fact("offset", Fact::number(segment.start)),
        );
        at = end;
    }
    Ok(Walked::Segments(segments))
}

/// A compressed file that is no initramfs.
fn compressed(format: Compression, bytes: &[u8], member: &decode::Member) -> Node {
    Node::new("compressed-data")
        .fact("compression", format.name())
        .fact("size", Fact::size(bytes.len()))
        .fact("unpacked", Fact::size(member.data.len()))
        .fact(
            "followed_by",
            Fact::size(bytes.len().saturating_sub(member.consumed)),
        )
}

/// Whether it begins, past padding, with an entry of a cpio archive.
fn is_archive(data: &[u8]) -> bool {
    match next_segment(data, 0) {
        Ok(segment) => segment.kind == SegmentKind::Cpio,
        Err(error) => error.kind == CpioErrorKind::OldFormat,
    }
}

/// The archives of a decompressed segment.
fn archives(data: &[u8], counts: &mut Counts, content: &mut Content) -> Result<(), String> {
    let mut at = 0;
    loop {
        let segment = next_segment(data, at).map_err(|e| e.to_string())?;
        match segment.kind {
            SegmentKind::Cpio => at = archive(data, segment.start, counts, content)?,
            SegmentKind::End => return Ok(()),
            SegmentKind::Compressed(format) => {
                return Err(format!(
                    "{} data at offset {}, which the kernel does not unpack",
                    format.name(),
                    segment.start
                ));
            }
        }
    }
}

/// One archive; returns where it ends.
fn archive(
    data: &[u8],
    start: usize,
    counts: &mut Counts,
    content: &mut Content,
) -> Result<usize, String> {
    let mut reader = Reader::at(data, start);
    for entry in reader.by_ref() {
        let entry = entry.map_err(|e| e.to_string())?;
        counts.add(&entry);
        content.add(&entry);
    }
    Ok(reader.position().max(start.saturating_add(1)))
}

impl Counts {
    fn add(&mut self, entry: &Entry<'_>) {
        match entry.file_type() {
            FileType::Regular => self.files += 1,
            FileType::Directory => self.directories += 1,
            FileType::Symlink => self.symlinks += 1,
            FileType::BlockDevice | FileType::CharDevice => self.devices += 1,
            _ => {}
        }
        self.bytes = self.bytes.saturating_add(entry.data.len() as u64);
        let early: [&[u8]; 2] = [b"kernel/x86/microcode/", b"kernel/firmware/acpi/"];
        self.early |= early.iter().any(|folder| entry.name.starts_with(folder));
    }

    fn node(&self, compression: &'static str) -> Node {
        // The kernel looks for microcode only in uncompressed archives.
        let early = self.early && compression == "none";
        Node::new(if early { "early-segment" } else { "segment" })
            .fact("compression", compression)
            .fact("files", Fact::number(self.files))
            .fact("directories", Fact::number(self.directories))
            .fact("symlinks", Fact::number(self.symlinks))
            .fact("devices", Fact::number(self.devices))
            .fact("content", Fact::size(self.bytes))
    }
}

impl Content {
    fn add(&mut self, entry: &Entry<'_>) {
        let Ok(path) = entry.path() else { return };
        let path = format!("/{}", String::from_utf8_lossy(&path));
        let regular = entry.file_type() == FileType::Regular;
        if path == PATH && regular {
            let decoded = BootPlan::decode(entry.data).map_err(|error| error.to_string());
            self.plan = Some(match &decoded {
                Ok(decoded) => plan::node(decoded, entry.data.len(), self.list),
                Err(why) => Node::new("boot-plan").fact("damaged", why.as_str()),
            });
            self.decoded = Some(decoded);
        }
        if path == "/init" && regular {
            self.storage_init = Some(entry.data.len() as u64);
        }
        if path == EMBEDDED && regular {
            self.embedded = Some(entry.data.len() as u64);
        }
        for (folder, files) in [
            (MODULES_DIR, &mut self.modules),
            (PACKS_DIR, &mut self.packs),
        ] {
            if let Some(name) = path.strip_prefix(folder).filter(|_| regular) {
                files.push(Listed {
                    path: name.trim_start_matches('/').into(),
                    kind: "file",
                    size: Some(entry.data.len() as u64),
                    ..Listed::default()
                });
            }
        }
        if self.list && self.files.len() < MAX_LISTED {
            self.files.push(listed(path, entry));
        }
    }

    fn node(self, size: usize, segments: Vec<Node>) -> Node {
        let mut node = match &self.plan {
            Some(_) => Node::new("mini-initramfs"),
            None => Node::new("initramfs"),
        };
        node = node.fact("size", Fact::size(size));
        if let Some(plan) = self.plan {
            let total = |files: &[Listed]| files.iter().filter_map(|m| m.size).sum::<u64>();
            node = node
                .fact_if("storage_init", self.storage_init.map(Fact::Size))
                .fact_if("embedded_image", self.embedded.map(Fact::Size))
                .fact("modules", Fact::number(self.modules.len()))
                .fact("modules_size", Fact::size(total(&self.modules)))
                .fact("packs", Fact::number(self.packs.len()))
                .fact("packs_size", Fact::size(total(&self.packs)))
                .part(plan);
            for (kind, files) in [("modules", self.modules), ("packs", self.packs)] {
                if !self.list && !files.is_empty() {
                    node = node.part(Node::new(kind).files(files));
                }
            }
        }
        node = segments.into_iter().fold(node, Node::part);
        node.files(self.files)
    }
}

fn listed(path: String, entry: &Entry<'_>) -> Listed {
    let (kind, target) = match entry.file_type() {
        FileType::Regular => ("file", None),
        FileType::Directory => ("directory", None),
        FileType::Symlink => (
            "symlink",
            Some(String::from_utf8_lossy(entry.data).into_owned()),
        ),
        FileType::BlockDevice => ("block-device", Some(device(entry))),
        FileType::CharDevice => ("char-device", Some(device(entry))),
        FileType::Fifo => ("fifo", None),
        FileType::Socket => ("socket", None),
        FileType::Unknown => ("unknown", None),
    };
    Listed {
        path,
        kind,
        mode: Some(entry.mode & 0o7777),
        size: (kind == "file").then_some(entry.data.len() as u64),
        target,
    }
}

fn device(entry: &Entry<'_>) -> String {
    format!("{}:{}", entry.rdev.0, entry.rdev.1)
}
