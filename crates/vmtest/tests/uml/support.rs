//! What the tests stand on: programs and images made once, and a boot to be
//! described and run.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use builder::{
    Auth, Candidate, Compression, Container, Expect, ImageRequest, Kernel, MiniRequest, Modules,
    OnFailure, RootHash, Selector, Silent, Source, Uuid,
};
use iofs_cpio::Reader;
use iofs_gpt::types;
use tempfile::TempDir;
use vmtest::disk::{self, Partition};
use vmtest::guest;
use vmtest::uml::{MODULES, Uml, UmlDisk, UmlExit, UmlOutcome};

/// The limit on a boot. Each takes a second or two, those that wait for a
/// storage-init's own limit some more.
const LIMIT: Duration = Duration::from_secs(40);

/// Where the image lies on a boot partition.
pub(crate) const FILE: &str = "/EFI/initoverlayfs/debian.img";

/// The same as mtools and mkfs take it.
pub(crate) const FILE_ON_VOLUME: &str = "EFI/initoverlayfs/debian.img";

/// The length of a header in a newc archive, in bytes; the name follows.
const NEWC_HEADER: usize = 110;

/// A file in the image that compresses to nothing less, and its length.
pub(crate) const DATA: &str = "/data";
const DATA_LEN: usize = 2 << 20;

/// GUIDs of partitions and disks.
pub(crate) const FIRST: Uuid = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_0001);
pub(crate) const SECOND: Uuid = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_0002);
pub(crate) const DISK: Uuid = Uuid::from_u128(0x1f0f_5a7e_0000_4000_8000_0000_0000_000d);

/// A type of partition that nothing else uses.
pub(crate) const TYPE: Uuid = Uuid::from_u128(0x1f0f_5a7e_1111_4111_8111_0000_0000_0001);

/// Modules in the image, in the order in which they load: ESPs can be mounted.
pub(crate) const FAT_MODULES: [&str; 4] = ["fat", "vfat", "nls_cp437", "nls_iso8859-1"];

/// A built image.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) path: PathBuf,
    pub(crate) expect: Expect,
    /// If it is a disk image.
    pub(crate) root_hash: Option<RootHash>,
}

impl Image {
    /// A plan that trusts this image alone.
    pub(crate) fn sealed(&self) -> Auth {
        Auth::Sealed(self.root_hash.unwrap())
    }
}

/// Programs and images, made when a test first asks for them.
#[derive(Debug)]
pub(crate) struct Ground {
    dir: TempDir,
    storage_init: PathBuf,
    run_init: PathBuf,
    testinit: PathBuf,
    image: OnceLock<Image>,
    proven: OnceLock<Image>,
}

impl Ground {
    /// Builds the programs, those of `IOFS_DIST` excepted: a folder with
    /// storage-init and run-init.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let (storage_init, run_init) = match std::env::var_os("IOFS_DIST") {
            Some(dist) => {
                let dist = guest::workspace().join(dist);
                (dist.join("storage-init"), dist.join("run-init"))
            }
            None => {
                let built = guest::build_freestanding("storage-init", &log).unwrap();
                let run_init = built.with_file_name("run-init");
                (built, run_init)
            }
        };
        let testinit = guest::build_freestanding("iofs-testinit", &log).unwrap();
        Self {
            dir,
            storage_init,
            run_init,
            testinit,
            image: OnceLock::new(),
            proven: OnceLock::new(),
        }
    }

    /// The image that most tests boot.
    pub(crate) fn image(&self) -> &Image {
        self.image
            .get_or_init(|| self.build_image("image", &|_| {}))
    }

    /// The same in a disk image that proves itself.
    pub(crate) fn proven(&self) -> &Image {
        self.proven.get_or_init(|| {
            self.build_image_in("proven", Container::default(), &|_| {}, |request| request)
        })
    }

    /// testinit as it is, for a root that is not an image.
    pub(crate) fn testinit(&self) -> &Path {
        &self.testinit
    }

    /// An image of another name, its tree changed by `change`.
    pub(crate) fn build_image(&self, name: &str, change: &dyn Fn(&Path)) -> Image {
        self.build_image_in(name, Container::None, change, |request| request)
    }

    /// The same in any container; `order` changes what is asked for.
    pub(crate) fn build_image_in(
        &self,
        name: &str,
        container: Container,
        change: &dyn Fn(&Path),
        order: impl FnOnce(ImageRequest) -> ImageRequest,
    ) -> Image {
        let tree = self.dir.path().join(format!("{name}.tree"));
        for folder in ["bin", "etc", "mnt", "modules", "sysroot"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        fs::write(tree.join("etc/os-release"), "ID=test\nVERSION_ID=1\n").unwrap();
        install(&self.testinit, &tree.join("init"));
        // The builder puts ours in its place.
        fs::write(tree.join("bin/run-init"), "klibc's").unwrap();
        fs::write(tree.join(DATA.trim_start_matches('/')), noise(DATA_LEN, 1)).unwrap();
        for module in FAT_MODULES {
            let from = find_module(module);
            fs::copy(from, tree.join(format!("modules/{module}.ko"))).unwrap();
        }
        change(&tree);
        let path = self.dir.path().join(name);
        let mut request = order(ImageRequest::new(Source::Root(tree), path.clone()));
        request.container = container;
        request.run_init = Some(self.run_init.clone());
        request.work_dir = Some(self.dir.path().to_owned());
        let built = builder::build_image(&request, &Silent).unwrap();
        Image {
            path,
            expect: built.expect,
            root_hash: built.root_hash,
        }
    }
}

fn install(program: &Path, to: &Path) {
    fs::copy(program, to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The folder of the user-mode kernel's modules.
fn modules_dir() -> PathBuf {
    Path::new(MODULES).join(Uml::release().unwrap())
}

fn find_module(name: &str) -> PathBuf {
    let index = fs::read_to_string(modules_dir().join("modules.dep")).unwrap();
    let file = format!("/{name}.ko");
    let path = index
        .lines()
        .filter_map(|line| line.split(':').next())
        .find(|path| path.ends_with(&file));
    modules_dir().join(path.unwrap())
}

/// Bytes that do not compress; another `seed`, others.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[5]
        })
        .collect()
}

/// What `testinit.sum=` reports for these bytes.
pub(crate) fn sum(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{} bytes, {hash:016x}", bytes.len())
}

/// What `testinit.sum=/data` reports in an intact image.
pub(crate) fn data_sum() -> String {
    sum(&noise(DATA_LEN, 1))
}

/// The image in the usual file on the ESP.
pub(crate) fn on_esp() -> Candidate {
    file_on("esp", Selector::TypeGuid(types::ESP))
}

/// The image in the usual file on some partition.
pub(crate) fn file_on(name: &str, partition: Selector) -> Candidate {
    Candidate {
        file: Some(FILE.to_owned()),
        ..partition_at(name, partition)
    }
}

/// The image as a partition.
pub(crate) fn partition_at(name: &str, partition: Selector) -> Candidate {
    Candidate {
        name: name.to_owned(),
        partition,
        file: None,
        expect: Expect::default(),
    }
}

/// A boot: disks, plan, command line.
pub(crate) struct Boot<'g> {
    ground: &'g Ground,
    dir: TempDir,
    disks: Vec<PathBuf>,
    pub(crate) mini: MiniRequest,
    /// Goes on the kernel command line.
    pub(crate) words: String,
    /// What comes of the archive before it is booted.
    edits: Vec<Edit<'g>>,
}

type Edit<'g> = Box<dyn FnOnce(&mut Vec<u8>) + 'g>;

impl<'g> Boot<'g> {
    /// No disks yet; a plan that awaits the usual image at `candidates`.
    pub(crate) fn new(ground: &'g Ground, candidates: &[Candidate]) -> Self {
        let dir = tempfile::tempdir_in(ground.dir.path()).unwrap();
        let kernel = Kernel {
            release: Uml::release().unwrap(),
            // Without an etc/modprobe.d.
            sysroot: ground.dir.path().to_owned(),
            modules_dir: Some(modules_dir()),
        };
        let mut mini =
            MiniRequest::new(dir.path().join("mini"), ground.storage_init.clone(), kernel);
        // ubd and ext4 are built in.
        mini.modules = Modules::Drivers(Vec::new());
        mini.compression = Compression::None;
        mini.auth = Auth::None;
        mini.product = "test-1".to_owned();
        // A test that fails where it should not ends all the same.
        mini.on_failure = OnFailure::PowerOff;
        mini.failure_wait_ms = 0;
        mini.candidates = candidates.to_vec();
        for candidate in &mut mini.candidates {
            if candidate.expect == Expect::default() {
                candidate.expect = ground.image().expect;
            }
        }
        Self {
            ground,
            dir,
            disks: Vec::new(),
            mini,
            words: String::new(),
            edits: Vec::new(),
        }
    }

    /// A plan that awaits `image` at `candidates` and trusts as `auth` says; what
    /// is sealed is expected by name, too, as the builder has it.
    pub(crate) fn trusting(
        ground: &'g Ground,
        image: &Image,
        auth: Auth,
        candidates: &[Candidate],
    ) -> Self {
        let mut boot = Self::new(ground, candidates);
        let expect = match auth {
            Auth::Sealed(_) => image.expect,
            Auth::Signed(_) | Auth::None => Expect::default(),
        };
        boot.mini.candidates = candidates.to_vec();
        for candidate in &mut boot.mini.candidates {
            candidate.expect = expect;
        }
        boot.mini.auth = auth;
        boot
    }

    /// The usual image.
    pub(crate) fn image(&self) -> &Path {
        &self.ground.image().path
    }

    /// A name for a file of this boot's.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Adds a disk with these partitions; returns the table's view of them.
    pub(crate) fn disk(&mut self, partitions: &[Partition]) -> Vec<iofs_gpt::Partition> {
        let path = self.path(&format!("disk{}", self.disks.len()));
        let placed = disk::make(&path, 512, DISK, partitions).unwrap();
        self.disks.push(path);
        placed
    }

    /// Adds a disk that is this file.
    pub(crate) fn disk_of(&mut self, path: PathBuf) {
        self.disks.push(path);
    }

    /// Adds a disk with the usual image on an ESP made by `make`.
    pub(crate) fn esp(&mut self, make: impl FnOnce(&Path, &Path)) -> Vec<iofs_gpt::Partition> {
        self.esp_with(&self.ground.image().path, make)
    }

    /// Adds a disk with an image on an ESP made by `make`.
    pub(crate) fn esp_with(
        &mut self,
        image: &Path,
        make: impl FnOnce(&Path, &Path),
    ) -> Vec<iofs_gpt::Partition> {
        let volume = self.path(&format!("volume{}", self.disks.len()));
        make(&volume, image);
        self.disk(&[Partition::esp(FIRST, &volume).unwrap()])
    }

    /// Adds a disk without partitions.
    pub(crate) fn raw_disk(&mut self, size: u64) -> PathBuf {
        let path = self.path(&format!("disk{}", self.disks.len()));
        let file = fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        self.disks.push(path.clone());
        path
    }

    /// Takes the last disk away again, and gives its file.
    pub(crate) fn unplug(&mut self) -> PathBuf {
        self.disks.pop().unwrap()
    }

    /// Overwrites bytes of disk `index`.
    pub(crate) fn damage(&self, index: usize, offset: u64, bytes: &[u8]) {
        let disk = fs::File::options()
            .write(true)
            .open(&self.disks[index])
            .unwrap();
        disk.write_all_at(bytes, offset).unwrap();
    }

    /// The length of disk `index` in bytes.
    pub(crate) fn disk_len(&self, index: usize) -> u64 {
        fs::metadata(&self.disks[index]).unwrap().len()
    }

    /// Puts words on the kernel command line.
    pub(crate) fn words(&mut self, words: &str) -> &mut Self {
        self.words.push(' ');
        self.words.push_str(words);
        self
    }

    /// Changes the archive before it is booted.
    pub(crate) fn edit(&mut self, edit: impl FnOnce(&mut Vec<u8>) + 'g) -> &mut Self {
        self.edits.push(Box::new(edit));
        self
    }

    /// Changes the data of a file in the archive; its length stays.
    pub(crate) fn edit_file(
        &mut self,
        name: &'static str,
        edit: impl FnOnce(&mut [u8]) + 'g,
    ) -> &mut Self {
        self.edit(move |archive| {
            let (_, data) = find_entry(archive, name);
            edit(&mut archive[data]);
        })
    }

    /// Takes a file out of the archive.
    pub(crate) fn remove_file(&mut self, name: &'static str) -> &mut Self {
        self.edit(move |archive| {
            // Another name: as good as gone, and nothing else moves.
            let (at, _) = find_entry(archive, name);
            archive[at + name.len() - 1] = b'~';
        })
    }

    /// The kernel with its disks and the mini-initramfs.
    pub(crate) fn prepare(&mut self) -> Uml {
        builder::build_mini(&self.mini, &Silent).unwrap();
        let mut archive = fs::read(&self.mini.output).unwrap();
        for edit in self.edits.drain(..) {
            edit(&mut archive);
        }
        let initrd = self.path("initrd");
        fs::write(&initrd, archive).unwrap();
        let mut uml = Uml::new(&initrd);
        uml.disks = self
            .disks
            .iter()
            .map(|path| UmlDisk {
                path: path.clone(),
                read_only: false,
            })
            .collect();
        uml.append = self.words.clone();
        uml
    }

    /// Boots to the end.
    pub(crate) fn run(&mut self) -> Seen {
        let outcome = self.prepare().run(LIMIT).unwrap();
        let seen = Seen { outcome };
        seen.rejects("Kernel panic");
        seen.rejects("internal error");
        seen.rejects("TESTINIT panicked");
        seen
    }

    /// Boots, and expects testinit to have come to its end.
    pub(crate) fn succeeds(&mut self) -> Seen {
        let seen = self.run();
        seen.expects("TESTINIT end");
        seen.rejects("TESTINIT failed");
        seen.rejects("BOOT FAILED");
        seen
    }

    /// Boots, and expects a report that says `what` and holds all of `parts`
    /// and an advice, and the end that was asked for.
    pub(crate) fn fails(&mut self, what: &str, parts: &[&str]) -> Seen {
        let seen = self.run();
        seen.rejects("TESTINIT");
        let report = seen.report();
        let missing = |text: &str| seen.lacks(&format!("{text:?} in the report"));
        if !report.first().is_some_and(|line| line.contains(what)) {
            missing(what);
        }
        for part in parts
            .iter()
            .chain(&["  what to do: ", "  last stage", "  now: poweroff"])
        {
            if !report.iter().any(|line| line.contains(part)) {
                missing(part);
            }
        }
        // Off, as this kernel says it.
        seen.expects("reboot: System halted");
        seen
    }
}

/// Offsets of an entry's name and data in a newc archive.
fn find_entry(archive: &[u8], name: &str) -> (usize, std::ops::Range<usize>) {
    let entry = Reader::new(archive)
        .map(Result::unwrap)
        .find(|entry| entry.name == name.as_bytes())
        .unwrap_or_else(|| panic!("{name} is not in the mini-initramfs"));
    let data = entry.data_offset..entry.data_offset + entry.data.len();
    (entry.offset + NEWC_HEADER, data)
}

/// What a boot printed.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) outcome: UmlOutcome,
}

impl Seen {
    /// Fails the test.
    pub(crate) fn lacks(&self, what: &str) -> ! {
        panic!("{what} is missing:\n{}", self.outcome.text())
    }

    /// The guest's time of the first line with `text`, in seconds.
    pub(crate) fn expects(&self, text: &str) -> f64 {
        match self.outcome.find(text) {
            Some(line) => line.kernel.as_ref().map_or(0.0, |(at, _)| at.as_secs_f64()),
            None => self.lacks(&format!("{text:?}")),
        }
    }

    /// No line has `text`.
    pub(crate) fn rejects(&self, text: &str) {
        if let Some(line) = self.outcome.find(text) {
            panic!("{:?}:\n{}", line.text, self.outcome.text());
        }
    }

    /// Each of `texts` stands in a line behind that of the one before.
    pub(crate) fn expects_in_order(&self, texts: &[&str]) {
        let mut lines = self.outcome.lines.iter();
        for text in texts {
            if !lines.any(|line| line.text.contains(text)) {
                self.lacks(&format!("{text:?} in its place"));
            }
        }
    }

    /// All that testinit reports under `name`.
    pub(crate) fn facts(&self, name: &str) -> Vec<String> {
        let prefix = format!("TESTINIT {name}: ");
        self.outcome
            .lines
            .iter()
            .filter_map(|line| line.message().strip_prefix(&prefix))
            .map(str::to_owned)
            .collect()
    }

    /// The only line under `name`.
    pub(crate) fn fact(&self, name: &str) -> String {
        match self.facts(name).as_slice() {
            [fact] => fact.clone(),
            facts => panic!("{name}: {facts:?}:\n{}", self.outcome.text()),
        }
    }

    /// `testinit.sum=/data` was right.
    pub(crate) fn data_is_intact(&self) {
        assert_eq!(self.fact(DATA), data_sum(), "\n{}", self.outcome.text());
    }

    /// The failure report's lines.
    pub(crate) fn report(&self) -> Vec<&str> {
        let report: Vec<&str> = self
            .outcome
            .lines
            .iter()
            .filter_map(|line| line.message().strip_prefix("storage-init: "))
            .skip_while(|line| !line.starts_with("BOOT FAILED: "))
            .collect();
        if report.is_empty() {
            self.lacks("the report of a failed boot");
        }
        assert_eq!(self.outcome.exit, UmlExit::Off, "{}", self.outcome.text());
        report
    }
}
