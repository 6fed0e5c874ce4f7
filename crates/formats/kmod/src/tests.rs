use super::*;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;
use std::boxed::Box;

const DEP: &str = "\
kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/mbcache.ko.xz kernel/fs/jbd2/jbd2.ko.xz
kernel/fs/jbd2/jbd2.ko.xz:
kernel/fs/mbcache.ko.xz:
kernel/lib/crc16.ko.xz:
kernel/crypto/crc32c_generic.ko.xz:
kernel/arch/x86/crypto/crc32c-intel.ko.xz:
kernel/drivers/block/virtio_blk.ko.xz:
kernel/drivers/char/ipmi/ipmi_msghandler.ko.xz:
kernel/drivers/char/ipmi/ipmi_devintf.ko.xz: kernel/drivers/char/ipmi/ipmi_msghandler.ko.xz
";

const ALIAS: &str = "\
# Aliases extracted from modules themselves.
alias virtio:d00000002v* virtio_blk
alias crypto-crc32c-intel crc32c_intel
alias crypto-crc32c crc32c_intel
alias crypto-crc32c crc32c_generic
alias pci:v00008086d[0-9]*sv* crc16
";

const SOFTDEP: &str = "\
softdep ext4 pre: crypto-crc32c
softdep ext4 pre: virtio-blk
softdep jbd2 pre: crypto-crc32c nothing
softdep ipmi_msghandler post: ipmi_devintf
softdep crc16 mbcache
";

fn texts() -> Texts<'static> {
    Texts {
        dep: DEP,
        alias: ALIAS,
        softdep: SOFTDEP,
        weakdep: "weakdep ext4 virtio-blk crypto-crc32c\n",
        builtin: "kernel/fs/exportfs/exportfs.ko\nkernel/mm/zsmalloc.ko\n",
        builtin_modinfo: "zsmalloc.license=GPL\0zsmalloc.alias=zpool-zsmalloc\0exportfs.file=x\0",
        ..Texts::default()
    }
}

fn configured(config: &'static [(&'static str, &'static str)]) -> Index {
    let config = config
        .iter()
        .map(|&(name, text)| ConfigFile { name, text })
        .collect();
    Index::new(&Texts { config, ..texts() })
}

fn order(index: &Index, names: &[&str]) -> Vec<String> {
    let modules = index.load_order(names).unwrap();
    modules.iter().map(|module| module.name.clone()).collect()
}

fn resolve(index: &Index, name: &str) -> Vec<String> {
    index
        .resolve(name)
        .into_iter()
        .map(|resolved| match resolved {
            Resolved::Module(module) => module.name.clone(),
            Resolved::Builtin(name) => format!("builtin {name}"),
        })
        .collect()
}

#[test]
fn names_are_normalised() {
    assert_eq!(module_name("kernel/a/virtio-blk.ko.xz"), "virtio_blk");
    assert_eq!(module_name("plain"), "plain");
    assert_eq!(normalize("a-b[0-9]-c").as_deref(), Some("a_b[0-9]_c"));
    assert_eq!(normalize("a]b"), None);
    assert_eq!(normalize("a[b"), None);
}

#[test]
fn names_and_aliases_resolve() {
    let index = Index::new(&texts());
    assert_eq!(resolve(&index, "virtio-blk"), ["virtio_blk"]);
    assert_eq!(resolve(&index, "virtio:d00000002v00001AF4"), ["virtio_blk"]);
    assert_eq!(
        resolve(&index, "crypto_crc32c"),
        ["crc32c_intel", "crc32c_generic"]
    );
    assert_eq!(resolve(&index, "pci:v00008086d5sv1"), ["crc16"]);
    assert_eq!(resolve(&index, "zpool-zsmalloc"), ["builtin zsmalloc"]);
    assert_eq!(resolve(&index, "exportfs"), ["builtin exportfs"]);
    assert_eq!(resolve(&index, "nothing"), Vec::<String>::new());
    assert_eq!(resolve(&index, "[broken"), Vec::<String>::new());
}

#[test]
fn hard_and_soft_dependencies_come_first() {
    let index = Index::new(&texts());
    assert_eq!(
        order(&index, &["ext4"]),
        [
            "crc32c_intel",
            "crc32c_generic",
            "jbd2",
            "mbcache",
            "crc16",
            "ext4"
        ]
    );
    assert_eq!(
        order(&index, &["ipmi-msghandler", "ext4", "jbd2"])[..2],
        ["ipmi_msghandler", "ipmi_devintf"]
    );
    assert_eq!(order(&index, &["zsmalloc"]), Vec::<String>::new());
    assert_eq!(
        index.load_order(&["nothing"]).unwrap_err().to_string(),
        "no kernel module has the name or alias \"nothing\", and none is built in"
    );
}

#[test]
fn all_softdep_lines_count_when_asked_for() {
    let index = Index::new(&Texts {
        all_softdeps: true,
        ..texts()
    });
    assert!(order(&index, &["ext4"]).contains(&"virtio_blk".into()));
    let ext4 = index.module("ext4").unwrap();
    assert_eq!(index.soft_pre(ext4).len(), 3);
    let weak: Vec<_> = index.weakdeps(ext4).collect();
    assert_eq!(weak, ["virtio-blk", "crypto-crc32c"]);
}

#[test]
fn configuration_is_obeyed_in_the_order_of_file_names() {
    let index = configured(&[
        (
            "/etc/modprobe.d/zz.conf",
            "softdep ext4 pre: nothing\noptions ext4 late=1\nremove ext4 true\n",
        ),
        (
            "/etc/modprobe.d/a.conf",
            "# comment\n  # and another\noptions  ext4 a=1 \\\n  b=2\nblacklist virtio-blk\n\
             alias my-disk virtio-blk\nsoftdep e?t4 pre: virtio-blk post: crc16\nfoo bar\n\
             alias broken[ x\noptions ext4\nalias fs-jbd2 off\n",
        ),
        ("/usr/lib/modprobe.d/a.conf", "options ext4 masked=1\n"),
    ]);
    assert_eq!(index.options("ext4"), "a=1   b=2 late=1");
    assert!(index.is_blacklisted("virtio-blk"));
    assert!(!index.is_blacklisted("ext4"));
    assert_eq!(resolve(&index, "my_disk"), ["virtio_blk"]);
    assert_eq!(resolve(&index, "fs-jbd2"), Vec::<String>::new());
    let order = order(&index, &["ext4"]);
    assert!(order.contains(&"virtio_blk".into()));
    let warnings: Vec<_> = index.warnings().iter().map(Warning::to_string).collect();
    assert_eq!(
        warnings,
        [
            "/etc/modprobe.d/a.conf line 8: \"foo\" is not understood and is ignored",
            "/etc/modprobe.d/a.conf line 9: \"alias\" is not understood and is ignored",
            "/etc/modprobe.d/a.conf line 10: \"options\" is not understood and is ignored",
        ]
    );
}

#[test]
fn an_install_line_is_an_error_that_says_where() {
    let index = configured(&[(
        "a.conf",
        "install jb* /sbin/x --y\ninstall my-cmd /bin/x y\n",
    )]);
    assert_eq!(
        index.load_order(&["ext4"]).unwrap_err().to_string(),
        "a.conf line 1 replaces the loading of jbd2 by the command \"/sbin/x --y\", which cannot \
         run in early boot; remove the line or leave the module out"
    );
    assert!(matches!(
        index.load_order(&["my-cmd"]),
        Err(OrderError::InstallCommand { line: 2, .. })
    ));
    assert_eq!(order(&index, &["virtio_blk"]), ["virtio_blk"]);
}

#[test]
fn an_install_line_that_does_nothing_keeps_a_module_out() {
    for command in [
        "/bin/true",
        "/bin/false",
        "/usr/bin/false",
        "true",
        ":",
        "/bin/true # why",
    ] {
        let line: &str = format!("install jbd2 {command}\n").leak();
        let index = configured(Box::leak(Box::new([("a.conf", line)])));
        assert!(
            index.is_blocked("jbd2") && !index.is_blocked("ext4"),
            "{command}"
        );
        let error = index.load_order(&["ext4"]).unwrap_err().to_string();
        assert!(
            error.starts_with("a.conf line 1 keeps jbd2 from being loaded"),
            "{error}"
        );
    }
    for command in [
        "/sbin/modprobe --ignore-install jbd2",
        "/bin/true; /sbin/x",
        "truely",
    ] {
        let line: &str = format!("install jbd2 {command}\n").leak();
        assert!(
            !configured(Box::leak(Box::new([("a.conf", line)]))).is_blocked("jbd2"),
            "{command}"
        );
    }
    // One that is only wanted is not missed.
    let index = configured(&[(
        "a.conf",
        "softdep virtio_blk pre: jbd2\ninstall jbd2 /bin/false\n",
    )]);
    assert_eq!(order(&index, &["virtio_blk"]), ["virtio_blk"]);
    let index = configured(&[("a.conf", "remove virtio* /bin/x\n")]);
    let lines: Vec<_> = index.remove_lines("virtio_blk").collect();
    assert_eq!(lines, [("a.conf", 1)]);
}

#[test]
fn what_an_alias_stands_for_can_be_blacklisted() {
    let index = configured(&[("a.conf", "alias my-disk virtio_blk\nblacklist virtio-blk\n")]);
    assert_eq!(order(&index, &["my-disk"]), [""; 0]);
    assert_eq!(order(&index, &["virtio-blk"]), ["virtio_blk"]);
}

#[test]
fn cycles_and_gaps_are_named() {
    let index = |dep| {
        Index::new(&Texts {
            dep,
            ..Texts::default()
        })
    };
    let cycle = index("a.ko: b.ko\nb.ko: c.ko\nc.ko: b.ko\n");
    assert_eq!(
        cycle.load_order(&["a"]).unwrap_err().to_string(),
        "kernel modules need each other: b -> c -> b"
    );
    let gap = index("a.ko: b.ko\n");
    assert_eq!(
        gap.load_order(&["a"]),
        Err(OrderError::MissingDependency {
            module: "a".into(),
            dependency: "b".into()
        })
    );
    let chain: String = (0..1000)
        .map(|n| format!("m{n}.ko: m{}.ko\n", n + 1))
        .collect();
    let chain = Index::new(&Texts {
        dep: &chain,
        ..Texts::default()
    });
    assert!(matches!(
        chain.load_order(&["m0"]),
        Err(OrderError::TooDeep { .. })
    ));
}

#[test]
fn a_soft_dependency_that_needs_its_owner_comes_after_it() {
    let index = Index::new(&Texts {
        dep: "a.ko:\nb.ko: a.ko\nc.ko:\nd.ko:\n",
        softdep: "softdep a pre: b\nsoftdep c pre: d\nsoftdep d pre: c\n",
        ..Texts::default()
    });
    assert_eq!(order(&index, &["a"]), ["a", "b"]);
    assert_eq!(order(&index, &["b"]), ["a", "b"]);
    assert_eq!(order(&index, &["c"]), ["d", "c"]);
}

#[test]
fn a_renamed_dep_is_otherwise_the_same() {
    let text = "# x.ko.xz\nk/a.ko.xz:\nk/b.ko.xz: k/a.ko.xz\tk/c.ko\r\nk/d.ko.xz:  k/b.ko.xz";
    let plain = rewrite_dep(text, |path| path.trim_end_matches(".xz").into());
    assert_eq!(
        plain,
        "# x.ko.xz\nk/a.ko:\nk/b.ko: k/a.ko\tk/c.ko\r\nk/d.ko:  k/b.ko"
    );
}

#[test]
fn the_binary_index_has_these_very_bytes() {
    // As depmod of kmod 34 writes it.
    let bytes = dep_index("k/ab.ko: k/ac.ko\nk/ac.ko:\n").unwrap();
    let mut expected = vec![0xb0, 0x07, 0xf4, 0x57, 0, 2, 0, 1, 0x20, 0, 0, 12];
    // The root, with one child, `a`, which has the children `b` and `c`.
    expected.extend(*b"aa\x20\0\0\x12");
    expected.extend(*b"bc\x40\0\0\x1c\x40\0\0\x35");
    expected.extend(*b"\0\0\0\x01\0\0\0\0k/ab.ko: k/ac.ko\0");
    expected.extend(*b"\0\0\0\x01\0\0\0\x01k/ac.ko:\0");
    assert_eq!(bytes, expected);
    for (text, fits) in [
        ("k/\u{e4}.ko:", false),
        ("k/a\0.ko:", false),
        ("k/.ko:", false),
        ("", true),
    ] {
        assert_eq!(dep_index(text).is_ok(), fits, "{text:?}");
    }
    assert!(dep_index(&format!("{}.ko:", "x".repeat(129))).is_err());
}

/// An ELF file with a `.modinfo` of these bytes.
fn elf(wide: bool, modinfo: &[u8]) -> Vec<u8> {
    let names = b"\0.modinfo.old\0.modinfo\0";
    let header_len: usize = if wide { 64 } else { 52 };
    let section_len: u16 = if wide { 64 } else { 40 };
    let mut out = vec![0; header_len];
    let modinfo_at = out.len();
    out.extend_from_slice(modinfo);
    let names_at = out.len();
    out.extend_from_slice(names);
    let table_at = out.len();
    let mut number = |at: usize, len: usize, value: usize| {
        if out.len() < at + len {
            out.resize(at + len, 0);
        }
        out[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    };
    let (word, shoff, sizes) = if wide {
        (8, 0x28, 0x3a)
    } else {
        (4, 0x20, 0x2e)
    };
    number(0, 4, 0x464c_457f);
    number(4, 2, if wide { 0x0102 } else { 0x0101 });
    number(shoff, word, table_at);
    number(sizes, 2, section_len.into());
    number(sizes + 2, 2, 4);
    number(sizes + 4, 2, 3);
    let (offset, size) = if wide { (0x18, 0x20) } else { (0x10, 0x14) };
    let sections = [
        (0, 0, 0),
        (1, 0, 0),
        (14, modinfo_at, modinfo.len()),
        (0, names_at, names.len()),
    ];
    for (index, (name, at, len)) in sections.into_iter().enumerate() {
        let base = table_at + index * usize::from(section_len);
        number(base, 4, name);
        number(base + offset, word, at);
        number(base + size, word, len);
        number(base + usize::from(section_len) - 1, 1, 0);
    }
    out
}

const MODINFO: &[u8] = b"license=GPL\0author=J\xfcrgen\0alias=a=b\0alias=c\0\0\0depends=x,y\0\
    name=foo\0firmware=f/1.bin\0vermagic=6.12 SMP\0noise\0";

#[test]
fn a_module_is_read_in_both_widths() {
    for wide in [false, true] {
        let bytes = elf(wide, MODINFO);
        let info = ModInfo::parse(&bytes).unwrap();
        assert_eq!(info.name(), Some("foo"));
        assert_eq!(info.vermagic(), Some("6.12 SMP"));
        assert_eq!(info.depends().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(info.firmware().collect::<Vec<_>>(), ["f/1.bin"]);
        assert_eq!(info.all("alias").collect::<Vec<_>>(), ["a=b", "c"]);
        assert_eq!(info.get("author"), None);
        assert_eq!(info.entries().count(), 8);
        for len in 0..bytes.len() {
            assert!(ModInfo::parse(&bytes[..len]).is_err(), "{len}");
        }
    }
    assert!(is_signed(b"module~Module signature appended~\n"));
    assert!(!is_signed(b"module~Module signature appended~"));
}

#[test]
fn what_is_no_module_is_named() {
    assert_eq!(
        ModInfo::parse(b"\xfd7zXZ\0").unwrap_err(),
        ModInfoError::NotElf
    );
    let mut big_endian = elf(true, MODINFO);
    big_endian[5] = 2;
    assert_eq!(
        ModInfo::parse(&big_endian).unwrap_err(),
        ModInfoError::UnsupportedClass
    );
    let mut other = elf(true, MODINFO);
    let at = other.windows(9).rposition(|w| w == b".modinfo\0").unwrap();
    other[at + 1] = b'M';
    assert_eq!(ModInfo::parse(&other).unwrap_err(), ModInfoError::NoModInfo);
}

#[test]
fn builtin_modinfo_is_split() {
    let records: Vec<_> = parse_builtin_modinfo("a.k=v=w\0broken\0nodot=1\0b.p=q.r:s\0").collect();
    assert_eq!(records, [("a", "k", "v=w"), ("b", "p", "q.r:s")]);
    let order: Vec<_> = parse_order("a/b.ko\n\n# no\nc.ko\n").collect();
    assert_eq!(order, ["a/b.ko", "c.ko"]);
}

/// Reads modules.dep.bin as the comment in libkmod-index.c lays it out.
fn lookup(bytes: &[u8], key: &str) -> Option<Vec<String>> {
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let string = |at: usize| -> Vec<u8> {
        bytes[at..]
            .iter()
            .copied()
            .take_while(|&b| b != 0)
            .collect()
    };
    let mut pointer = number(8);
    let mut key = key.as_bytes();
    loop {
        let mut at = (pointer & 0x0fff_ffff) as usize;
        if pointer & 0x8000_0000 != 0 {
            let prefix = string(at);
            at += prefix.len() + 1;
            key = key.strip_prefix(&prefix[..])?;
        }
        let mut next = 0;
        if pointer & 0x2000_0000 != 0 {
            let (first, last) = (bytes[at], bytes[at + 1]);
            match key.first() {
                Some(&b) if (first..=last).contains(&b) => {
                    next = number(at + 2 + 4 * usize::from(b - first));
                }
                _ => {}
            }
            at += 2 + 4 * (usize::from(last - first) + 1);
        }
        if key.is_empty() {
            let count = (pointer & 0x4000_0000 != 0).then(|| number(at))?;
            at += 4;
            let mut values = vec![];
            for _ in 0..count {
                let value = string(at + 4);
                at += 5 + value.len();
                values.push(String::from_utf8(value).unwrap());
            }
            return Some(values);
        }
        if next == 0 {
            return None;
        }
        pointer = next;
        key = &key[1..];
    }
}

proptest! {
    #[test]
    fn the_binary_index_finds_every_line(
        names in prop::collection::vec("[ab_]{1,6}", 1..20), missing in "[ab_]{1,7}",
    ) {
        let lines: Vec<_> = names.iter().enumerate()
            .map(|(n, name)| format!("k/{n}/{name}.ko: dep{n}.ko")).collect();
        let bytes = dep_index(&lines.join("\n")).unwrap();
        for name in names.iter().chain([&missing]) {
            let expected: Vec<_> = lines.iter().zip(&names)
                .filter(|(_, n)| *n == name).map(|(line, _)| line.clone()).collect();
            prop_assert_eq!(lookup(&bytes, name).unwrap_or_default(), expected);
        }
    }

    /// Whatever the graph: an error, or every module once, after what it needs.
    #[test]
    fn orders_are_valid(
        hard in prop::collection::vec((0usize..12, 0usize..12), 0..20),
        soft in prop::collection::vec((0usize..12, 0usize..12, any::<bool>()), 0..20),
    ) {
        let mut dep = String::new();
        for n in 0..12 {
            let needs: Vec<_> = hard.iter().filter(|(a, _)| *a == n)
                .map(|(_, b)| format!(" m{b}.ko")).collect();
            dep += &format!("m{n}.ko:{}\n", needs.concat());
        }
        let softdep: String = soft.iter().map(|(a, b, pre)| {
            format!("softdep m{a} {}: m{b}\n", if *pre { "pre" } else { "post" })
        }).collect();
        let index = Index::new(&Texts {
            dep: &dep, softdep: &softdep, all_softdeps: true, ..Texts::default()
        });
        match index.load_order(&["m0", "m1", "m2"]) {
            Err(error) => {
                let is_cycle = matches!(error, OrderError::Cycle { .. });
                prop_assert!(is_cycle, "{}", error);
            }
            Ok(modules) => {
                let names: Vec<_> = modules.iter().map(|m| &m.name).collect();
                for (at, module) in modules.iter().enumerate() {
                    prop_assert_eq!(names.iter().filter(|n| **n == &module.name).count(), 1);
                    for need in &module.needs {
                        prop_assert!(names[..at].contains(&need));
                    }
                    for soft in index.soft_pre(module).into_iter().chain(index.soft_post(module)) {
                        prop_assert!(names.contains(&&soft.name));
                    }
                }
            }
        }
    }

    #[test]
    fn mutated_modules_do_not_panic(
        patches in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        wide in any::<bool>(),
    ) {
        let mut bytes = elf(wide, MODINFO);
        for (at, byte) in patches {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(info) = ModInfo::parse(&bytes) {
            let _ = info.depends().count();
        }
    }

    #[test]
    fn any_text_is_read(text in "([a-z:.\\\\*\\[\\]# \t-]{0,12}\n?){0,12}") {
        let config = ["alias ", "options ", "softdep ", "install ", "weakdep "]
            .map(|command| text.replace('#', command)).concat();
        let index = Index::new(&Texts {
            dep: &text, alias: &config, softdep: &config, weakdep: &config, builtin: &text,
            builtin_modinfo: &text,
            config: vec![ConfigFile { name: "a", text: &config }],
            all_softdeps: true,
        });
        for module in index.modules() {
            let _ = index.load_order(&[&module.name]);
            let _ = index.weakdeps(module).count();
        }
        let _ = index.resolve(&text);
        let _ = dep_index(&text);
        prop_assert_eq!(rewrite_dep(&text, |path| path.into()), text);
    }
}
