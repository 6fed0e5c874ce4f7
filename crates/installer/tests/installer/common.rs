//! A small built set, a fake root, and a file system whose power can be cut.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use installer::manifest::{Artefact, Manifest, Partition, Place};
use installer::vfs::{HostVfs, OutFile, Space, Vfs};
use installer::{BuiltSet, Change, ESP_TYPE, FileSource, Options, Slot, System};
use iofs_source::{ReadAt, ReadError, Window};

pub(crate) const IMAGE_PATH: &str = "/debian-13/1.0/image.erofs";

pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) set: BuiltSet,
    pub(crate) system: System,
}

impl Fixture {
    /// A set for the ESP, a root without anything, an ESP with another system on it.
    pub(crate) fn new() -> Self {
        Self::with_candidate("esp", Partition::TypeGuid(ESP_TYPE.to_string()), IMAGE_PATH)
    }

    pub(crate) fn with_candidate(name: &str, partition: Partition, file: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        // More than one chunk, so that a cut inside a file is among the cases.
        fs::write(out.join("image.erofs"), vec![7u8; (2 << 20) + 5]).unwrap();
        fs::write(out.join("mini-initramfs.img"), vec![8u8; 3000]).unwrap();
        fs::write(out.join("vmlinuz"), vec![9u8; 5000]).unwrap();
        let manifest = Manifest {
            version: installer::manifest::VERSION,
            product: "debian-13".into(),
            product_version: "1.0".into(),
            kernel_release: "6.12.1-amd64".into(),
            auth: "none".into(),
            root_hash: None,
            uki: None,
            uki_signed: false,
            candidates: vec![Place {
                name: name.into(),
                partition,
                file: Some(file.into()),
            }],
            image: Artefact::of(&out, "image.erofs").unwrap(),
            image_uuid: "00000000-0000-0000-0000-000000000000".into(),
            initrd: Artefact::of(&out, "mini-initramfs.img").unwrap(),
            extensions: Vec::new(),
            kernel: Artefact::of(&out, "vmlinuz").unwrap(),
            direct: Vec::new(),
            stage: "initrd".into(),
            cmdline: None,
        };
        let text = serde_json::to_vec_pretty(&manifest).unwrap();
        fs::write(out.join("build.json"), text).unwrap();
        let set = BuiltSet::open(&out).unwrap();

        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc/kernel")).unwrap();
        fs::write(root.join("etc/kernel/cmdline"), "root=/dev/vda2 quiet\n").unwrap();
        fs::write(
            root.join("etc/machine-id"),
            "0123456789abcdef0123456789abcdef\n",
        )
        .unwrap();
        fs::write(
            root.join("etc/os-release"),
            "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n",
        )
        .unwrap();
        let fixture = Self {
            system: System {
                proc: dir.path().join("proc"),
                sys: dir.path().join("sys"),
                dev: dir.path().join("dev"),
                run: dir.path().join("run"),
            },
            dir,
            set,
        };
        fixture.mountinfo(&[]);
        let esp = fixture.esp();
        fs::create_dir_all(esp.join("loader/entries")).unwrap();
        fs::create_dir_all(esp.join("EFI/Linux")).unwrap();
        for (path, text) in OTHERS {
            fs::write(esp.join(path), text).unwrap();
        }
        fixture
    }

    /// The same set, sealed and with a UKI.
    pub(crate) fn with_uki() -> Self {
        let mut fixture = Self::new();
        let out = fixture.set.dir.clone();
        fs::write(out.join("initoverlayfs.efi"), vec![6u8; (1 << 20) + 9]).unwrap();
        let manifest = &mut fixture.set.manifest;
        manifest.auth = "sealed".into();
        manifest.uki = Some(Artefact::of(&out, "initoverlayfs.efi").unwrap());
        manifest.cmdline = Some("root=LABEL=a quiet".into());
        fixture
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn esp(&self) -> PathBuf {
        self.dir.path().join("esp")
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            esp: Some(self.esp()),
            ..Options::default()
        }
    }

    pub(crate) fn entry(&self) -> PathBuf {
        self.esp().join("loader/entries/debian-13-1.0.conf")
    }

    /// Mounts, as the kernel would list them.
    pub(crate) fn mountinfo(&self, lines: &[(&str, &Path, &str)]) {
        let mut text = String::new();
        for (number, (device, point, fstype)) in lines.iter().enumerate() {
            text += &format!(
                "{number} 1 {device} / {} rw,relatime shared:1 - {fstype} /dev/x rw\n",
                point.display()
            );
        }
        fs::create_dir_all(self.system.proc.join("self")).unwrap();
        fs::write(self.system.proc.join("self/mountinfo"), text).unwrap();
    }
}

/// What was on the ESP before, which nothing may touch.
pub(crate) const OTHERS: [(&str, &str); 3] = [
    ("loader/entries/other.conf", "title Other\nlinux /other\n"),
    ("loader/loader.conf", "default other\n"),
    ("EFI/Linux/other.efi", "MZ"),
];

/// Every file under `dir` with its content.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(
                    path.strip_prefix(dir).unwrap().to_owned(),
                    fs::read(&path).unwrap(),
                );
            }
        }
    }
    found
}

/// What the medium has lost after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing: all that was done had reached it.
    Nothing,
    /// All that was not synced: file content and folder entries.
    Unsynced,
    /// As `Unsynced`, but the folder of the entries had been written back.
    UnsyncedButEntries,
    /// Only content: entries reached the medium first, as journals do.
    Content,
}

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// That one and all later ones fail: the power is gone.
    PowerCut,
    /// That one fails, later ones work: the medium is full.
    Once,
    /// Read back gives another byte; nothing fails by itself.
    WrongReadBack,
}

#[derive(Debug, Clone)]
enum Pending {
    Created(PathBuf),
    Renamed { from: PathBuf, to: PathBuf },
    Folder(PathBuf),
}

#[derive(Default)]
struct State {
    count: Cell<usize>,
    cut: Cell<bool>,
    unsynced_content: RefCell<Vec<PathBuf>>,
    /// What unsynced writes to partitions replaced: disk, offset, bytes.
    overwritten: RefCell<Vec<(PathBuf, u64, Vec<u8>)>>,
    pending: RefCell<Vec<Pending>>,
}

/// The host's file system, with a fault at operation `at` (from 0).
pub(crate) struct Faulty {
    at: usize,
    fault: Fault,
    pub(crate) space: Space,
    /// Partitions that another has.
    pub(crate) busy: Vec<PathBuf>,
    state: Rc<State>,
}

impl Faulty {
    pub(crate) fn new(at: usize, fault: Fault) -> Self {
        Self {
            at,
            fault,
            space: Space {
                available: 1 << 40,
                block: 4096,
            },
            busy: Vec::new(),
            state: Rc::default(),
        }
    }

    /// How many operations there were.
    pub(crate) fn operations(&self) -> usize {
        self.state.count.get()
    }

    /// Makes the medium look as it would after the cut.
    pub(crate) fn lose(&self, loss: Loss) {
        if loss == Loss::Nothing {
            return;
        }
        for path in self.state.unsynced_content.borrow().iter() {
            // Later renames are known by their last name.
            if path.exists() {
                let len = fs::metadata(path).unwrap().len();
                fs::write(path, vec![0u8; usize::try_from(len / 2).unwrap()]).unwrap();
            }
        }
        for (disk, offset, bytes) in self.state.overwritten.borrow().iter().rev() {
            let file = fs::File::options().write(true).open(disk).unwrap();
            file.write_all_at(bytes, *offset).unwrap();
        }
        if loss == Loss::Content {
            return;
        }
        for pending in self.state.pending.borrow().iter().rev() {
            let kept = loss == Loss::UnsyncedButEntries;
            match pending {
                Pending::Created(path) | Pending::Renamed { to: path, .. }
                    if kept
                        && ["loader/entries", "EFI/Linux"]
                            .iter()
                            .any(|folder| path.to_string_lossy().contains(folder)) => {}
                Pending::Created(path) => {
                    let _ = fs::remove_file(path);
                }
                Pending::Renamed { from, to } => {
                    if to.exists() {
                        fs::rename(to, from).unwrap();
                    }
                }
                Pending::Folder(path) => {
                    let _ = fs::remove_dir_all(path);
                }
            }
        }
    }

    fn step(&self) -> io::Result<()> {
        self.state.step(self.at, self.fault)
    }
}

impl State {
    fn step(&self, at: usize, fault: Fault) -> io::Result<()> {
        let now = self.count.get();
        self.count.set(now + 1);
        match fault {
            Fault::PowerCut if self.cut.get() || now == at => {
                self.cut.set(true);
                Err(io::Error::other("power cut"))
            }
            Fault::Once if now == at => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

struct FaultyFile {
    inner: Box<dyn OutFile>,
    path: PathBuf,
    at: usize,
    fault: Fault,
    state: Rc<State>,
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.state.step(self.at, self.fault)?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl OutFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        self.state.step(self.at, self.fault)?;
        self.state
            .unsynced_content
            .borrow_mut()
            .retain(|path| *path != self.path);
        Ok(())
    }
}

/// A partition of a disk that is a file.
struct FaultyPartition {
    disk: fs::File,
    slot: Slot,
    at: usize,
    fault: Fault,
    state: Rc<State>,
}

impl Write for FaultyPartition {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.state.step(self.at, self.fault)?;
        // Small enough for cuts inside of a partition.
        let bytes = &bytes[..bytes.len().min(256 << 10)];
        let place = self.disk.stream_position()?;
        let end = self.slot.start + self.slot.len;
        if place + bytes.len() as u64 > end {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut before = vec![0; bytes.len()];
        self.disk.read_exact_at(&mut before, place)?;
        let disk = self.slot.disk.clone();
        self.state
            .overwritten
            .borrow_mut()
            .push((disk, place, before));
        self.disk.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OutFile for FaultyPartition {
    fn sync(&mut self) -> io::Result<()> {
        self.state.step(self.at, self.fault)?;
        self.state.overwritten.borrow_mut().clear();
        Ok(())
    }
}

struct Flipped<T>(T);

impl<T: ReadAt> ReadAt for Flipped<T> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_at(offset, buffer)?;
        if let Some(byte) = buffer.first_mut() {
            *byte ^= 1;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.0.size()
    }
}

impl Read for Flipped<Box<dyn Read>> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        if let Some(byte) = buffer[..count].first_mut() {
            *byte ^= 1;
        }
        Ok(count)
    }
}

impl Vfs for Faulty {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        HostVfs.create_dir(path)?;
        self.state
            .pending
            .borrow_mut()
            .push(Pending::Folder(path.into()));
        Ok(())
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn OutFile>> {
        self.step()?;
        let inner = HostVfs.create(path, mode)?;
        self.state
            .unsynced_content
            .borrow_mut()
            .push(path.to_owned());
        self.state
            .pending
            .borrow_mut()
            .push(Pending::Created(path.into()));
        Ok(Box::new(FaultyFile {
            inner,
            path: path.into(),
            at: self.at,
            fault: self.fault,
            state: Rc::clone(&self.state),
        }))
    }

    fn read_back(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        let source = HostVfs.read_back(path)?;
        Ok(match self.fault {
            Fault::WrongReadBack => Box::new(Flipped(source)),
            _ => source,
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        HostVfs.rename(from, to)?;
        for path in self.state.unsynced_content.borrow_mut().iter_mut() {
            if path == from {
                *path = to.into();
            }
        }
        self.state.pending.borrow_mut().push(Pending::Renamed {
            from: from.into(),
            to: to.into(),
        });
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.state.pending.borrow_mut().retain(|pending| {
            let of = match pending {
                Pending::Created(of) | Pending::Folder(of) | Pending::Renamed { to: of, .. } => of,
            };
            of.parent() != Some(path)
        });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        HostVfs.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        HostVfs.remove_dir(path)
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        Ok(self.space)
    }

    fn claim(&self, slot: &Slot) -> io::Result<Box<dyn OutFile>> {
        if self.busy.contains(&slot.node) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let mut disk = fs::File::options()
            .read(true)
            .write(true)
            .open(&slot.disk)?;
        disk.seek(SeekFrom::Start(slot.start))?;
        Ok(Box::new(FaultyPartition {
            disk,
            slot: slot.clone(),
            at: self.at,
            fault: self.fault,
            state: Rc::clone(&self.state),
        }))
    }

    fn partition(&self, slot: &Slot) -> io::Result<Box<dyn ReadAt>> {
        let disk = FileSource::open(&slot.disk)?;
        let window = Window::new(disk, slot.start, slot.len);
        let window = window.map_err(|e| io::Error::other(e.to_string()))?;
        Ok(match self.fault {
            Fault::WrongReadBack => Box::new(Flipped(window)),
            _ => Box::new(window),
        })
    }

    fn can_rename_partitions(&self) -> io::Result<()> {
        HostVfs.can_rename_partitions()
    }

    fn rename_partition(&self, slot: &Slot, change: Change) -> io::Result<()> {
        self.step()?;
        HostVfs.rename_partition(slot, change)
    }
}
