//! The disk that holds the image where the plan looks for it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use installer::BuiltSet;
use installer::manifest::{EXTENSIONS, Place};
use iofs_gpt::{Layout, NewPartition, Uuid, types};
use iofs_plan::Selector;

use crate::error::{CliError, Result};

const SECTOR: u32 = 512;

/// Room for FAT's tables and folders beside the files.
const FAT_SLACK: u64 = 8 << 20;

/// GUIDs of a disk that nobody keeps: the same on every run.
const DISK_GUID: Uuid = Uuid::from_u128(0x6f9b_53a8_7a3d_4cfb_9d5e_1b0a_4f3c_2d17);
const PART_GUID: Uuid = Uuid::from_u128(0x0d9a_8b1e_52c4_4e0f_8f6d_7c21_90ab_3e54);

/// Makes a GPT disk whose only partition is the one that `place` names, with
/// the image as a file on FAT or as its whole content.
pub(super) fn for_image(path: &Path, set: &BuiltSet, place: &Place) -> Result<()> {
    let image = set.path(&set.manifest.image);
    let selector = place.selector()?;
    match &place.file {
        Some(file) => {
            let extensions = &set.manifest.extensions;
            let size = extensions
                .iter()
                .map(|extension| extension.size)
                .fold(set.manifest.image.size, u64::saturating_add);
            let disk = PartitionedDisk::create(path, &selector, size.saturating_add(FAT_SLACK))?;
            disk.make_fat()?;
            disk.put(&image, file)?;
            let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
            let extensions: Vec<_> = extensions.iter().map(|e| set.path(e)).collect();
            disk.put_extensions(&extensions, &format!("{folder}/{EXTENSIONS}"))
        }
        None => {
            let disk = PartitionedDisk::create(path, &selector, set.manifest.image.size)?;
            disk.fill(&image)
        }
    }
}

/// A disk image with one partition.
pub(super) struct PartitionedDisk<'a> {
    path: &'a Path,
    start: u64,
    len: u64,
}

impl<'a> PartitionedDisk<'a> {
    /// Makes the image, sparse, with a partition of at least `size` bytes that
    /// `selector` finds.
    pub(super) fn create(path: &'a Path, selector: &Selector, size: u64) -> Result<Self> {
        let (type_guid, part_guid, name) = match selector {
            Selector::TypeGuid(guid) => (*guid, PART_GUID, "initoverlayfs"),
            Selector::PartUuid(guid) => (types::LINUX_GENERIC, *guid, "initoverlayfs"),
            Selector::PartLabel(label) => (types::LINUX_GENERIC, PART_GUID, label.as_str()),
            Selector::Pmem { .. } | Selector::Embedded => {
                return Err(CliError::new(format!(
                    "an image in {selector} is on no disk"
                )));
            }
        };
        let layout_failed = |e: iofs_gpt::LayoutError| {
            CliError::new(format!("cannot partition {}", path.display())).source(e)
        };
        let disk_size = Layout::disk_size_for([size], SECTOR);
        let mut layout = Layout::new(disk_size, SECTOR, DISK_GUID).map_err(layout_failed)?;
        let partition = layout
            .add(&NewPartition {
                type_guid,
                part_guid,
                name,
                size,
                attributes: 0,
            })
            .map_err(layout_failed)?;
        let (start, len) = (partition.start, partition.len);
        let write = || -> io::Result<()> {
            let mut file = File::create(path)?;
            file.set_len(disk_size)?;
            for (offset, bytes) in layout.runs() {
                file.seek(SeekFrom::Start(offset))?;
                file.write_all(&bytes)?;
            }
            Ok(())
        };
        write().map_err(|e| CliError::io("write", path, e))?;
        Ok(Self { path, start, len })
    }

    /// Makes an empty FAT file system in the partition.
    pub(super) fn make_fat(&self) -> Result<()> {
        let mut command = Command::new("mkfs.vfat");
        command
            .args(["-n", "INITOVERLAY", "--offset"])
            .arg((self.start / u64::from(SECTOR)).to_string())
            .arg(self.path)
            // In blocks of 1 KiB, whatever the sector size.
            .arg((self.len / 1024).to_string());
        tool(command, "dosfstools")
    }

    /// Puts a file or the content of a folder at `to` on the FAT file system.
    pub(super) fn put(&self, from: &Path, to: &str) -> Result<()> {
        let folders: Vec<&str> = to.split('/').filter(|part| !part.is_empty()).collect();
        let mut made = String::new();
        for folder in folders.iter().take(folders.len().saturating_sub(1)) {
            made = format!("{made}/{folder}");
            let mut command = self.mtools("mmd");
            command.arg(format!("::{made}"));
            tool(command, "mtools")?;
        }
        let mut command = self.mtools("mcopy");
        command.arg(from).arg(format!("::{to}"));
        tool(command, "mtools")
    }

    /// Puts these into the folder `to`, which is made if there are any.
    fn put_extensions(&self, extensions: &[PathBuf], to: &str) -> Result<()> {
        if extensions.is_empty() {
            return Ok(());
        }
        let mut command = self.mtools("mmd");
        command.arg(format!("::{to}"));
        tool(command, "mtools")?;
        let mut command = self.mtools("mcopy");
        command.args(extensions).arg(format!("::{to}"));
        tool(command, "mtools")
    }

    /// Puts what is in a folder at the root of the FAT file system.
    pub(super) fn put_tree(&self, from: &Path) -> Result<()> {
        let entries = from
            .read_dir()
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(|e| CliError::io("read", from, e))?;
        let mut command = self.mtools("mcopy");
        command
            .arg("-s")
            .args(entries.iter().map(|e| e.path()))
            .arg("::/");
        tool(command, "mtools")
    }

    /// Writes a file over the partition.
    fn fill(&self, from: &Path) -> Result<()> {
        let copy = || -> io::Result<u64> {
            let mut disk = File::options().write(true).open(self.path)?;
            disk.seek(SeekFrom::Start(self.start))?;
            io::copy(&mut File::open(from)?, &mut disk)
        };
        copy().map_err(|e| CliError::io("copy the image to", self.path, e))?;
        Ok(())
    }

    fn mtools(&self, program: &str) -> Command {
        let mut image = self.path.as_os_str().to_owned();
        image.push(format!("@@{}", self.start));
        let mut command = Command::new(program);
        command.arg("-i").arg(image);
        command
    }
}

/// Runs a tool of that Debian package to its end.
fn tool(mut command: Command, package: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| {
        CliError::new(format!("cannot run {name}"))
            .source(e)
            .hint(format!("install it; on Debian: apt-get install {package}"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(CliError::new(format!(
        "{name} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use iofs_fat::Fat;
    use iofs_gpt::Table;
    use iofs_source::{Mapped, ReadAt, Window};

    /// The disk's only partition, as its content.
    fn partition(disk: &[u8]) -> (iofs_gpt::Partition, Window<&[u8]>) {
        let table = Table::read(disk, SECTOR).unwrap();
        assert_eq!(table.partitions.len(), 1);
        let part = table.partitions[0].clone();
        let window = Window::new(disk, part.start, part.len).unwrap();
        (part, window)
    }

    #[test]
    fn a_file_lies_where_the_boot_looks_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (image, path) = (dir.path().join("image"), dir.path().join("disk"));
        let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&image, &content).unwrap();
        let selector = Selector::TypeGuid(types::ESP);
        let disk =
            PartitionedDisk::create(&path, &selector, content.len() as u64 + FAT_SLACK).unwrap();
        disk.make_fat().unwrap();
        disk.put(&image, "/a-product/1.0+x/image.erofs").unwrap();

        let bytes = std::fs::read(&path).unwrap();
        let (part, window) = partition(&bytes);
        assert_eq!(part.type_guid, types::ESP);
        let fat = Fat::open(&window).unwrap();
        let map = fat.locate("/a-product/1.0+x/image.erofs").unwrap();
        let mut found = vec![0; content.len()];
        Mapped::new(&window, &map).read_at(0, &mut found).unwrap();
        assert!(found == content);
    }

    #[test]
    fn a_partition_can_be_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let (image, path) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::write(&image, vec![7; 8192]).unwrap();
        let selector = Selector::PartLabel("init".into());
        let disk = PartitionedDisk::create(&path, &selector, 8192).unwrap();
        disk.fill(&image).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (part, window) = partition(&bytes);
        assert_eq!((part.name.as_str(), part.len), ("init", 8192));
        let mut found = vec![0; 8192];
        window.read_at(0, &mut found).unwrap();
        assert_eq!(found, vec![7; 8192]);
    }
}
