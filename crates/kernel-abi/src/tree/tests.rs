use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::string::String;
use std::time::{Duration, SystemTime};
use std::vec;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::{Copied, Copier, Source};

/// A folder `from`, and a root `to` beside which nothing must change.
struct Place {
    _dir: tempfile::TempDir,
    base: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_path_buf();
        for folder in ["from/top", "to"] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        Self { _dir: dir, base }
    }

    fn from(&self, path: &str) -> PathBuf {
        self.base.join("from/top").join(path)
    }

    fn to(&self, path: &str) -> PathBuf {
        self.base.join("to").join(path)
    }

    fn put(&self, path: &str, text: &str) -> PathBuf {
        let to = self.from(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(&to, text).unwrap();
        to
    }

    fn copy(&self, name: &str, source: Source) -> crate::Result<Copied> {
        let text = |path: &str| String::from(self.base.join(path).to_str().unwrap());
        Copier::new(&text("from"), &text("to"), source)?.copy(name)
    }

    fn copies(&self, entries: usize, replaced: usize) {
        let copied = self.copy("top", Source::Kept).unwrap();
        assert_eq!(copied, Copied { entries, replaced });
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// All that stat(2) has and a copy must keep.
fn seen(path: &Path) -> (u32, u32, u32, u64, i64, i64, i64, i64) {
    let stat = fs::symlink_metadata(path).unwrap();
    (
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.rdev(),
        stat.mtime(),
        stat.mtime_nsec(),
        stat.atime(),
        stat.atime_nsec(),
    )
}

#[test]
fn everything_arrives_as_it_was() {
    let place = Place::new();
    place.put("a/file", "text");
    fs::create_dir(place.from("empty")).unwrap();
    symlink("a/no such\u{e9}", place.from("link")).unwrap();
    for (name, kind) in [("fifo", FileType::Fifo), ("socket", FileType::Socket)] {
        rustix::fs::mknodat(CWD, place.from(name), kind, Mode::from_raw_mode(0o640), 0).unwrap();
    }
    let modes = [("a", 0o3751), ("a/file", 0o4710), ("empty", 0o555)];
    for (name, mode) in modes {
        fs::set_permissions(place.from(name), Permissions::from_mode(mode)).unwrap();
    }
    let names = ["a/file", "a", "empty", "link", "fifo", "socket"];
    for (index, name) in (1..).zip(names) {
        let time = |offset| Timespec {
            tv_sec: 1_000_000 * index + offset,
            tv_nsec: 123_456_789 + index,
        };
        let times = Timestamps {
            last_access: time(7),
            last_modification: time(0),
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(CWD, place.from(name), &times, flags).unwrap();
    }
    let before = names.map(|name| seen(&place.from(name)));
    place.copies(7, 0);
    for (name, before) in names.iter().zip(before) {
        assert_eq!(
            seen(&place.to("top").join(name)),
            before,
            "{name} has changed"
        );
    }
    assert_eq!(read(place.to("top/a/file")), "text");
    let target = fs::read_link(place.to("top/link")).unwrap();
    assert_eq!(target, Path::new("a/no such\u{e9}"));
    let fifo = fs::symlink_metadata(place.to("top/fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());
}

#[test]
fn attributes_arrive() {
    let place = Place::new();
    let file = place.put("folder/file", "text");
    let folder = place.from("folder");
    let large = vec![0xa5; 2000];
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    set(&file, "user.first", b"one");
    set(&file, "user.empty", b"");
    set(&file, "user.large", &large);
    set(&folder, "user.folder", b"\0\xff");
    place.copies(3, 0);
    let get = |path: &str, name: &str| {
        let mut value = vec![0; 4000];
        let len = rustix::fs::getxattr(place.to(path), name, &mut *value).unwrap();
        value.truncate(len);
        value
    };
    assert_eq!(get("top/folder/file", "user.first"), b"one");
    assert_eq!(get("top/folder/file", "user.empty"), b"");
    assert_eq!(get("top/folder/file", "user.large"), large);
    assert_eq!(get("top/folder", "user.folder"), b"\0\xff");
}

#[test]
fn names_need_not_be_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let name = OsStr::from_bytes(b"\xff\xfe");
    fs::write(place.from("").join(name), "text").unwrap();
    place.copies(2, 0);
    assert_eq!(read(place.to("top").join(name)), "text");
}

#[test]
fn hard_links_stay_linked() {
    let place = Place::new();
    let first = place.put("a", "text");
    fs::create_dir(place.from("b")).unwrap();
    fs::hard_link(&first, place.from("b/second")).unwrap();
    fs::hard_link(&first, place.from("third")).unwrap();
    // One has gone by the time that the next is looked at.
    let copied = place.copy("top", Source::Freed).unwrap();
    assert_eq!(copied.entries, 5);
    let inode = |path: &str| fs::metadata(place.to(path)).unwrap().ino();
    assert_eq!(inode("top/b/second"), inode("top/a"));
    assert_eq!(inode("top/third"), inode("top/a"));
    assert_eq!(read(place.to("top/third")), "text");
}

#[test]
fn hard_links_between_two_copies() {
    let place = Place::new();
    let first = place.put("f", "text");
    fs::hard_link(first, place.base.join("from/second")).unwrap();
    let text = |path: &str| String::from(place.base.join(path).to_str().unwrap());
    let mut copier = Copier::new(&text("from"), &text("to"), Source::Kept).unwrap();
    let copied = copier.copy("top").unwrap();
    assert_eq!((copied.entries, copied.replaced), (2, 0));
    let copied = copier.copy("second").unwrap();
    assert_eq!((copied.entries, copied.replaced), (1, 0));
    let inode = |path: &str| fs::metadata(place.to(path)).unwrap().ino();
    assert_eq!(inode("top/f"), inode("second"));
}

#[test]
fn what_was_copied_is_freed_if_asked_for() {
    let place = Place::new();
    let file = place.put("a/file", "text");
    symlink("file", place.from("a/link")).unwrap();
    place.copies(4, 0);
    assert!(file.exists());
    let copied = place.copy("top", Source::Freed).unwrap();
    assert_eq!(copied.replaced, 2);
    assert_eq!(fs::read_dir(place.from("a")).unwrap().count(), 0);
    assert_eq!(read(place.to("top/a/link")), "text");
}

#[test]
fn folders_of_the_target_stay_and_files_are_replaced() {
    let place = Place::new();
    place.put("etc/release", "appended");
    place.put("etc/was-link", "appended");
    let etc = place.to("top/etc");
    fs::create_dir_all(&etc).unwrap();
    fs::set_permissions(&etc, Permissions::from_mode(0o700)).unwrap();
    fs::write(etc.join("release"), "image's").unwrap();
    fs::write(etc.join("other"), "image's").unwrap();
    symlink("other", etc.join("was-link")).unwrap();
    place.copies(4, 2);
    assert_eq!(read(etc.join("release")), "appended");
    // The link was replaced, not followed.
    assert_eq!(read(etc.join("was-link")), "appended");
    assert_eq!(read(etc.join("other")), "image's");
    assert_eq!(fs::metadata(&etc).unwrap().mode() & 0o777, 0o700);
}

/// What stands beside the new root is the old root's.
#[test]
fn linked_folders_lead_where_they_lead_in_the_new_root() {
    for target in ["usr/lib", "/usr/lib", "../../../usr/lib"] {
        let place = Place::new();
        place.put("lib/firmware/x", "firmware");
        fs::create_dir_all(place.to("top")).unwrap();
        fs::create_dir_all(place.to("top/usr/lib")).unwrap();
        fs::create_dir_all(place.to("usr/lib")).unwrap();
        fs::create_dir_all(place.base.join("usr/lib")).unwrap();
        symlink(target, place.to("top/lib")).unwrap();
        place.copies(4, 0);
        let inside = match target {
            "usr/lib" => "top/usr/lib/firmware/x",
            _ => "usr/lib/firmware/x",
        };
        assert_eq!(read(place.to(inside)), "firmware", "{target}");
        let link = fs::read_link(place.to("top/lib")).unwrap();
        assert_eq!(link, Path::new(target), "the link stays");
        let outside = fs::read_dir(place.base.join("usr/lib")).unwrap();
        assert_eq!(outside.count(), 0, "{target} led out of the root");
    }
}

/// As the kernel does where archives overlap.
#[test]
fn folders_take_the_place_of_what_is_none() {
    let place = Place::new();
    for name in ["dangling/f", "looping/f", "file/f"] {
        place.put(name, "appended");
    }
    fs::create_dir_all(place.to("top")).unwrap();
    symlink("/no/such", place.to("top/dangling")).unwrap();
    symlink("looping", place.to("top/looping")).unwrap();
    fs::write(place.to("top/file"), "image's").unwrap();
    place.copies(7, 3);
    for name in ["dangling/f", "looping/f", "file/f"] {
        assert_eq!(read(place.to("top").join(name)), "appended", "{name}");
    }
}

#[test]
fn a_folder_with_something_in_it_does_not_make_way() {
    let place = Place::new();
    place.put("name", "appended");
    fs::create_dir_all(place.to("top/name")).unwrap();
    // Empty, it does.
    place.copies(2, 1);
    fs::remove_file(place.to("top/name")).unwrap();
    fs::create_dir_all(place.to("top/name/below")).unwrap();
    let error = place.copy("top", Source::Kept).unwrap_err();
    assert_eq!(error.errno(), Errno::NOTEMPTY);
    assert_eq!(error.on(), "/top/name");
    assert!(place.to("top/name/below").is_dir());
}

/// Both names are one in the new root: the first is gone when the second comes.
#[test]
fn hard_links_that_fall_together() {
    let place = Place::new();
    let first = place.put("usr/lib/x", "text");
    fs::create_dir(place.from("lib")).unwrap();
    fs::hard_link(first, place.from("lib/x")).unwrap();
    fs::create_dir_all(place.to("top/usr/lib")).unwrap();
    symlink("usr/lib", place.to("top/lib")).unwrap();
    place.copies(6, 1);
    assert_eq!(read(place.to("top/usr/lib/x")), "text");
}

#[test]
fn trees_without_end_are_refused() {
    let place = Place::new();
    let deep = "d/".repeat(70);
    fs::create_dir_all(place.from(&deep)).unwrap();
    let error = place.copy("top", Source::Kept).unwrap_err();
    assert_eq!(error.errno(), Errno::LOOP);
    let error = place.copy("none", Source::Kept).unwrap_err();
    assert_eq!(error.errno(), Errno::NOENT);
}

#[test]
fn an_old_time_is_no_wonder() {
    let place = Place::new();
    let file = place.put("f", "text");
    let then = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
    let file = fs::File::options().write(true).open(file).unwrap();
    file.set_modified(then).unwrap();
    place.copies(2, 0);
    let stat = fs::metadata(place.to("top/f")).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (-2, 500_000_000));
}
