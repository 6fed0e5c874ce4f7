//! Disks and file systems.

use std::collections::VecDeque;

use iofs_ext4::{EntryKind, Ext4, Ext4Error};
use iofs_fat::Fat;
use iofs_gpt::{Table, types};
use iofs_source::{Limited, Window};

use super::node::{Fact, Listed, Node};
use super::{Described, MAX_DEPTH, MAX_LISTED, View, erofs};

/// How much of a volume is read for a list, in bytes.
const MAX_READ: u64 = 4 << 30;

pub(super) fn gpt(view: &View<'_>) -> Described {
    let Some(block) = [512u32, 4096]
        .into_iter()
        .find(|&size| view.bytes(u64::from(size), 8).as_deref() == Some(b"EFI PART"))
    else {
        return Ok(None);
    };
    let table = Table::read(view.source, block).map_err(|e| e.to_string())?;
    let mut node = Node::new("gpt-disk")
        .fact("size", Fact::size(view.source.size()))
        .fact("block_size", Fact::size(table.block_size))
        .fact("disk_guid", table.disk_guid.to_string())
        .fact("table", format!("{:?}", table.copy).to_lowercase())
        .fact_if("primary_error", table.primary_error.map(|e| e.to_string()))
        .fact("mbr", format!("{:?}", table.mbr).to_lowercase());
    for partition in &table.partitions {
        let kind = match types::name(partition.type_guid) {
            Some(name) => format!("{} ({name})", partition.type_guid),
            None => partition.type_guid.to_string(),
        };
        let label = (!partition.name.is_empty()).then_some(partition.name.as_str());
        let mut part = Node::new("partition")
            .named(&partition.number.to_string())
            .fact_if("label", label)
            .fact("type", kind)
            .fact("partuuid", partition.part_guid.to_string())
            .fact("start", Fact::number(partition.start))
            .fact("size", Fact::size(partition.len));
        if partition.attributes != 0 {
            part = part.fact("attributes", format!("{:#x}", partition.attributes));
        }
        if view.depth < MAX_DEPTH {
            part = inner(view, part, partition.start, partition.len);
        }
        node = node.part(part);
    }
    Ok(Some(node))
}

/// Adds what a partition contains. Damage there does not hide the table.
fn inner(view: &View<'_>, part: Node, start: u64, len: u64) -> Node {
    let window = match Window::new(view.source, start, len) {
        Ok(window) => window,
        Err(error) => return part.fact("unreadable", error.to_string()),
    };
    let inner = View {
        source: &window,
        list: view.list,
        depth: view.depth + 1,
    };
    // Partitions hold file systems; a stray archive or text in an unformatted
    // one is not worth reading gigabytes for.
    for step in [erofs::describe, ext4, fat] {
        match step(&inner) {
            Ok(Some(node)) => return part.part(node),
            Ok(None) => {}
            Err(why) => return part.fact("unreadable", why),
        }
    }
    part
}

pub(super) fn ext4(view: &View<'_>) -> Described {
    let volume = match Ext4::open(Limited::new(view.source, MAX_READ)) {
        Ok(volume) => volume,
        Err(_) if view.bytes(1024, 1024).is_none() => return Ok(None),
        Err(error) => {
            let kind: &Ext4Error = &error;
            return match kind {
                Ext4Error::NoSuperblock { .. } => Ok(None),
                other => Err(other.to_string()),
            };
        }
    };
    let info = volume.info();
    let label = (!info.label.is_empty()).then_some(info.label.as_str());
    let node = Node::new("ext4")
        .fact("size", Fact::size(info.size))
        .fact("uuid", info.uuid.to_string())
        .fact_if("label", label)
        .fact("block_size", Fact::size(info.block_size))
        .fact("features", info.features.to_string())
        .fact("needs_recovery", info.needs_recovery);
    if !view.list {
        return Ok(Some(node));
    }
    let files = walk(|path| {
        let entries = volume.entries(path).map_err(|e| e.to_string())?;
        let listed = entries.into_iter().map(|entry| Listed {
            // Names that are not UTF-8 are shown, but cannot be entered.
            path: String::from_utf8_lossy(&entry.name).into_owned(),
            kind: match entry.kind {
                EntryKind::File => "file",
                EntryKind::Directory => "directory",
                EntryKind::Symlink => "symlink",
                EntryKind::Special => "special",
                EntryKind::Unknown => "unknown",
            },
            ..Listed::default()
        });
        Ok(listed.collect())
    })?;
    Ok(Some(node.files(files)))
}

pub(super) fn fat(view: &View<'_>) -> Described {
    // Only the signature says that damage is damage and not another format.
    if view.bytes(510, 2).as_deref() != Some(&[0x55, 0xaa]) {
        return Ok(None);
    }
    let jump = view.bytes(0, 1);
    let Ok(volume) = Fat::open(Limited::new(view.source, MAX_READ)) else {
        return Ok(None);
    };
    if !matches!(jump.as_deref(), Some([0xeb | 0xe9 | 0])) {
        return Ok(None);
    }
    let info = volume.info();
    let label = volume.label().map_err(|e| e.to_string())?;
    let id = info.volume_id;
    let node = Node::new("fat")
        .fact("variant", info.kind.to_string())
        .fact("size", Fact::size(info.volume_size))
        .fact("volume_id", format!("{:04X}-{:04X}", id >> 16, id & 0xffff))
        .fact_if("label", label)
        .fact("sector_size", Fact::size(info.sector_size))
        .fact("cluster_size", Fact::size(info.cluster_size))
        .fact("dirty", info.dirty);
    if !view.list {
        return Ok(Some(node));
    }
    let files = walk(|path| {
        let entries = volume.entries(path).map_err(|e| e.to_string())?;
        let listed = entries.into_iter().map(|entry| Listed {
            path: entry.name,
            kind: if entry.is_dir { "directory" } else { "file" },
            size: (!entry.is_dir).then_some(entry.size),
            ..Listed::default()
        });
        Ok(listed.collect())
    })?;
    Ok(Some(node.files(files)))
}

/// Every file below the root, folder by folder. `entries` lists a folder's
/// names; they come back as paths. Bounded in number and, by what is read, in
/// time; a folder that contains itself runs into these bounds.
fn walk(entries: impl Fn(&str) -> Result<Vec<Listed>, String>) -> Result<Vec<Listed>, String> {
    const MAX_PATH: usize = 4096;
    let mut found = Vec::new();
    let mut folders = VecDeque::from([String::new()]);
    while let Some(folder) = folders.pop_front() {
        let root = if folder.is_empty() { "/" } else { &folder };
        let mut listed = entries(root).map_err(|why| format!("the folder {root}: {why}"))?;
        listed.sort_by(|a, b| a.path.cmp(&b.path));
        for mut file in listed {
            let enter = file.kind == "directory" && !file.path.contains('\u{fffd}');
            file.path = format!("{folder}/{}", file.path);
            if enter && file.path.len() < MAX_PATH {
                folders.push_back(file.path.clone());
            }
            if found.len() == MAX_LISTED {
                return Err(format!("it holds more than {MAX_LISTED} files"));
            }
            found.push(file);
        }
    }
    Ok(found)
}
