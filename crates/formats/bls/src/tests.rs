use super::*;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;
use proptest::prelude::*;

const FEDORA: &str = "\
# /boot/loader/entries/6a9857a393724b7a981ebb5b8495b9ea-3.8.0-2.fc19.x86_64.conf
title        Fedora 19 (Rawhide)
sort-key     fedora
machine-id   6a9857a393724b7a981ebb5b8495b9ea
version      3.8.0-2.fc19.x86_64
options      root=UUID=6d3376e4-fc93-4509-95ec-a21d68011da2 quiet
architecture x64
linux        /6a9857a393724b7a981ebb5b8495b9ea/3.8.0-2.fc19.x86_64/linux
initrd       /6a9857a393724b7a981ebb5b8495b9ea/3.8.0-2.fc19.x86_64/initrd
extra        /6a9857a393724b7a981ebb5b8495b9ea/3.8.0-2.fc19.x86_64/somedata.cred
extra        /6a9857a393724b7a981ebb5b8495b9ea/3.8.0-2.fc19.x86_64/somethingelse.cred
";

#[test]
fn the_example_of_the_specification_is_read() {
    let dir = "/6a9857a393724b7a981ebb5b8495b9ea/3.8.0-2.fc19.x86_64";
    let entry = Entry::parse(FEDORA.as_bytes()).unwrap();
    let expected = Entry {
        title: Some("Fedora 19 (Rawhide)".into()),
        version: Some("3.8.0-2.fc19.x86_64".into()),
        machine_id: Some("6a9857a393724b7a981ebb5b8495b9ea".into()),
        sort_key: Some("fedora".into()),
        architecture: Some("x64".into()),
        linux: Some([dir, "/linux"].concat()),
        initrd: vec![[dir, "/initrd"].concat()],
        options: vec!["root=UUID=6d3376e4-fc93-4509-95ec-a21d68011da2 quiet".into()],
        other: vec![
            ("extra".into(), [dir, "/somedata.cred"].concat()),
            ("extra".into(), [dir, "/somethingelse.cred"].concat()),
        ],
        ..Entry::default()
    };
    assert_eq!(entry, expected);
    let crlf = FEDORA.replace('\n', "\r\n");
    assert_eq!(Entry::parse(crlf.as_bytes()), Ok(expected));
}

#[test]
fn an_entry_has_this_very_text() {
    let entry = Entry {
        title: Some("Debian".into()),
        version: Some("6.12".into()),
        sort_key: Some("debian".into()),
        linux: Some("/debian/6.12/linux".into()),
        initrd: vec!["/debian/ucode".into(), "/debian/6.12/initrd".into()],
        options: vec!["root=/dev/vda2".into(), "quiet".into()],
        other: vec![("extra".into(), "/debian/x.cred".into())],
        ..Entry::default()
    };
    assert_eq!(
        entry.write().unwrap(),
        "title Debian\nversion 6.12\nsort-key debian\nlinux /debian/6.12/linux\n\
         initrd /debian/ucode\ninitrd /debian/6.12/initrd\noptions root=/dev/vda2\n\
         options quiet\nextra /debian/x.cred\n"
    );
    assert_eq!(entry.command_line(), "root=/dev/vda2 quiet");
}

#[test]
fn oddities_are_read_as_boot_loaders_read_them() {
    let entry = Entry::parse(
        b"\t linux \t vmlinuz\ntitle first\ntitle second\ninitrd\n\n \n#x y\noptions a  b \n",
    )
    .unwrap();
    assert_eq!(entry.linux.as_deref(), Some("/vmlinuz"));
    assert_eq!(entry.title.as_deref(), Some("second"));
    assert!(entry.initrd.is_empty());
    assert_eq!(entry.options, ["a  b"]);
    assert!(Entry::parse(b"uki-url http://example.com/a.efi").is_ok());
}

#[test]
fn what_cannot_be_read_is_named() {
    let error = |bytes: &[u8]| Entry::parse(bytes).unwrap_err();
    assert_eq!(error(b"title nothing\n"), EntryError::NothingToBoot);
    assert_eq!(error(b"linux /\xff"), EntryError::NotUtf8 { offset: 7 });
    let long = vec![b'#'; MAX_LEN + 1];
    assert_eq!(error(&long), EntryError::TooLong { len: MAX_LEN + 1 });
    for path in ["/../x", "..", "a/../b", "/EFI\\..\\x"] {
        let text = ["linux /k\ninitrd ", path].concat();
        assert_eq!(
            error(text.as_bytes()),
            EntryError::BadPath {
                key: "initrd",
                path: path.into()
            }
        );
    }
}

#[test]
fn what_would_not_be_read_back_is_not_written() {
    let good = Entry {
        linux: Some("/k".into()),
        ..Entry::default()
    };
    let refused = |change: &dyn Fn(&mut Entry)| {
        let mut entry = good.clone();
        change(&mut entry);
        entry.write().unwrap_err()
    };
    for value in ["", " a", "a ", "a\nlinux /evil", "a\rb", "a\0"] {
        let error = refused(&|entry| entry.title = Some(value.into()));
        assert!(matches!(error, EntryError::BadValue { .. }), "{value:?}");
    }
    for path in ["", "k", "/", "//k", "/./k", "/a/../k", "/a/", "/a\\b"] {
        let error = refused(&|entry| entry.linux = Some(path.into()));
        assert!(matches!(error, EntryError::BadPath { .. }), "{path:?}");
    }
    for key in ["", "a b", "#a", "options", "linux"] {
        let error = refused(&|entry| entry.other = vec![(key.into(), "v".into())]);
        assert!(matches!(error, EntryError::BadKey { .. }), "{key:?}");
    }
    for id in ["6A9857A393724B7A981EBB5B8495B9EA", "6a98"] {
        let error = refused(&|entry| entry.machine_id = Some(id.into()));
        assert!(matches!(error, EntryError::BadMachineId { .. }));
    }
    assert_eq!(
        refused(&|entry| entry.linux = None),
        EntryError::NothingToBoot
    );
}

#[test]
fn counters_are_read_and_written() {
    let cases = [
        ("a.conf", "a", None),
        ("a+3.conf", "a", Some((3, 0, false))),
        ("a+3-1.conf", "a", Some((3, 1, false))),
        ("a+0-3.conf", "a", Some((0, 3, true))),
        ("a+010-00.conf", "a", Some((10, 0, false))),
        ("a+b+3-0.conf", "a+b", Some((3, 0, false))),
        ("6.1+deb13-amd64.conf", "6.1+deb13-amd64", None),
        ("a+.conf", "a+", None),
        ("a+3-.conf", "a+3-", None),
        ("a+3-1-2.conf", "a+3-1-2", None),
        ("a+-1.conf", "a+-1", None),
        ("a+9999999999.conf", "a+9999999999", None),
    ];
    for (file, id, counter) in cases {
        let name = EntryName::parse(file).unwrap();
        assert_eq!(name.id(), id, "{file}");
        let got = name.counter().map(|c| (c.left(), c.done(), c.is_bad()));
        assert_eq!(got, counter, "{file}");
        assert_eq!(name.to_string(), file);
    }
    assert_eq!(
        EntryName::parse("A+1.CONF").unwrap().to_string(),
        "A+1.conf"
    );
}

#[test]
fn tries_are_counted_without_changing_the_length() {
    let counter = Counter::new(10);
    assert_eq!(counter.to_string(), "+10-00");
    assert_eq!(counter.after_try().to_string(), "+09-01");
    let mut name = EntryName::new("a", Some(Counter::new(3))).unwrap();
    let mut seen = vec![];
    for _ in 0..11 {
        seen.push(name.to_string());
        name = name.with_counter(name.counter().map(Counter::after_try));
    }
    assert_eq!(
        seen[..4],
        ["a+3-0.conf", "a+2-1.conf", "a+1-2.conf", "a+0-3.conf"]
    );
    assert_eq!(seen[10], "a+0-9.conf");
    assert_eq!(name.to_string(), "a+0-9.conf");
    assert_eq!(name.with_counter(None).to_string(), "a.conf");
    let short = EntryName::parse("a+2.conf").unwrap().counter().unwrap();
    assert_eq!(short.after_try().to_string(), "+1-1");
}

#[test]
fn bad_names_are_refused() {
    assert_eq!(EntryName::parse("a.efi"), Err(NameError::NoSuffix));
    assert_eq!(EntryName::parse("conf"), Err(NameError::NoSuffix));
    assert_eq!(EntryName::parse("\u{e4}conf"), Err(NameError::NoSuffix));
    assert_eq!(EntryName::parse(".conf"), Err(NameError::Empty));
    assert_eq!(EntryName::parse("+3.conf"), Err(NameError::Empty));
    assert!(EntryName::parse("a/b.conf").is_err());
    assert!(EntryName::parse("caf\u{e9} x.conf").is_ok());
    assert!(matches!(
        EntryName::new("caf\u{e9}", None),
        Err(NameError::BadCharacter {
            character: '\u{e9}'
        })
    ));
    assert_eq!(EntryName::new("a+3", None), Err(NameError::LooksCounted));
    assert!(EntryName::new(&"x".repeat(250), None).is_ok());
    assert_eq!(
        EntryName::new(&"x".repeat(250), Some(Counter::new(1))),
        Err(NameError::TooLong { len: 259 })
    );
}

#[test]
fn a_menu_is_in_the_order_of_the_specification() {
    // (file name, sort key, machine ID, version), as the menu shows them.
    let menu = [
        ("x.conf", Some("arch"), None, Some("1")),
        ("y.conf", Some("debian"), None, Some("6.12-2")),
        ("z.conf", Some("debian"), Some("a"), Some("6.12-10")),
        ("w+2-1.conf", Some("debian"), Some("a"), Some("6.12-2")),
        ("v.conf", Some("debian"), Some("a"), None),
        ("u.conf", Some("debian"), Some("b"), Some("7")),
        ("old-10.conf", None, None, Some("1")),
        ("old-9.conf", None, Some("a"), Some("9")),
        ("old-9+3-0.conf", None, None, None),
        ("old-9+2-1.conf", None, None, None),
        ("a+0-1.conf", Some("debian"), None, None),
        ("b+0-2.conf", None, None, None),
        ("b+0-3.conf", None, None, None),
    ];
    let expected: Vec<_> = menu.iter().map(|(name, ..)| *name).collect();
    let mut entries: Vec<_> = menu
        .iter()
        .map(|(name, sort_key, machine_id, version)| {
            let entry = Entry {
                sort_key: sort_key.map(String::from),
                machine_id: machine_id.map(String::from),
                version: version.map(String::from),
                ..Entry::default()
            };
            (EntryName::parse(name).unwrap(), entry)
        })
        .collect();
    // Whatever order they come in.
    for turn in 0..entries.len() {
        entries.rotate_left(turn);
        entries.sort_by(|a, b| compare_entries((&a.0, &a.1), (&b.0, &b.1)));
        let names: Vec<_> = entries.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, expected);
    }
}

/// The specification's examples, and pairs whose order `systemd-analyze
/// compare-versions` of systemd 257 gave.
const VERSIONS: &[(&str, Ordering, &str)] = &[
    ("11", Ordering::Equal, "11"),
    ("systemd-123", Ordering::Equal, "systemd-123"),
    ("bar-123", Ordering::Less, "foo-123"),
    ("123a", Ordering::Greater, "123"),
    ("123.a", Ordering::Greater, "123"),
    ("123.a", Ordering::Less, "123.b"),
    ("123a", Ordering::Greater, "123.a"),
    ("11\u{3b1}", Ordering::Equal, "11\u{3b2}"),
    ("B", Ordering::Less, "a"),
    ("", Ordering::Less, "0"),
    ("0.", Ordering::Greater, "0"),
    ("0.0", Ordering::Greater, "0"),
    ("0", Ordering::Greater, "~"),
    ("", Ordering::Greater, "~"),
    ("1_", Ordering::Equal, "1"),
    ("_1", Ordering::Equal, "1"),
    ("1_", Ordering::Less, "1.2"),
    ("1_2_3", Ordering::Greater, "1.3.3"),
    ("1+", Ordering::Equal, "1"),
    ("+1", Ordering::Equal, "1"),
    ("1+", Ordering::Less, "1.2"),
    ("1+2+3", Ordering::Greater, "1.3.3"),
    // Not as the specification says: a missing number is below 0.
    ("a", Ordering::Less, "0"),
    ("1a", Ordering::Less, "1+0a"),
    ("_^00+", Ordering::Greater, "_^"),
    ("z-~", Ordering::Less, "0BB--a10a0"),
    ("3^a2+0^.-B", Ordering::Greater, "3^a2+a+."),
    // Leading zeroes, and more digits than a number has room for.
    ("1.007", Ordering::Equal, "1.7"),
    (
        "99999999999999999999999",
        Ordering::Less,
        "100000000000000000000000",
    ),
    ("6.12.9+deb13-amd64", Ordering::Less, "6.12.10+deb13-amd64"),
    ("6.1.0-9-amd64", Ordering::Less, "6.1.0-10-amd64"),
    ("6.13-rc1", Ordering::Greater, "6.13"),
    ("6.13~rc1", Ordering::Less, "6.13"),
];

const ASCENDING: [&str; 12] = [
    "122.1",
    "123~rc1-1",
    "123",
    "123-a",
    "123-a.1",
    "123-1",
    "123-1.1",
    "123^post1",
    "123.a-1",
    "123.1-1",
    "123a-1",
    "124-1",
];

#[test]
fn versions_compare_as_specified() {
    for &(a, order, b) in VERSIONS {
        assert_eq!(compare_versions(a, b), order, "{a:?} {b:?}");
        assert_eq!(compare_versions(b, a), order.reverse(), "{b:?} {a:?}");
    }
    for (i, a) in ASCENDING.iter().enumerate() {
        for (j, b) in ASCENDING.iter().enumerate() {
            assert_eq!(compare_versions(a, b), i.cmp(&j), "{a} {b}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        title in "[a-z(][a-z (]{0,10}[a-z]", version in prop::option::of("[0-9.~^-]{1,9}"),
        initrd in prop::collection::vec("(/[a-z.]{3,6}){1,3}", 0..4),
        options in prop::collection::vec("[a-z=/\"][a-z =\"]{0,9}[a-z]", 0..4),
        other in prop::collection::vec(("x-[a-z]{1,6}", "[a-z\u{e4}]{1,6}"), 0..4),
    ) {
        let normal = |path: &String| path.split('/').skip(1).all(|c| c != "..");
        prop_assume!(initrd.iter().all(normal));
        let entry = Entry {
            title: Some(title), version, initrd, options, other, linux: Some("/k".into()),
            ..Entry::default()
        };
        let text = entry.write().unwrap();
        prop_assert_eq!(Entry::parse(text.as_bytes()), Ok(entry));
    }

    #[test]
    fn any_bytes_are_an_entry_or_an_error(
        patches in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = FEDORA.as_bytes().to_vec();
        for (at, byte) in patches {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(entry) = Entry::parse(&bytes) {
            for path in entry.linux.iter().chain(&entry.initrd).chain(&entry.efi) {
                prop_assert!(path.starts_with('/') && !path.contains("/../"));
            }
            if let Ok(text) = entry.write() {
                prop_assert_eq!(Entry::parse(text.as_bytes()), Ok(entry));
            }
        }
    }

    #[test]
    fn any_name_is_read_or_refused(name in "[a+0-9.\u{e4}-]{0,12}(\\.conf)?") {
        if let Ok(parsed) = EntryName::parse(&name) {
            prop_assert_eq!(parsed.to_string(), name);
            let _ = parsed.counter().map(Counter::after_try);
        }
    }

    /// Without this, sorting could go wrong or panic.
    #[test]
    fn versions_are_ordered(v in prop::array::uniform3("[aB01.~^_-]{0,5}")) {
        let [a, b, c] = &v;
        prop_assert_eq!(compare_versions(a, b), compare_versions(b, a).reverse());
        if compare_versions(a, b).is_le() && compare_versions(b, c).is_le() {
            prop_assert!(compare_versions(a, c).is_le(), "{} {} {}", a, b, c);
        }
    }
}
