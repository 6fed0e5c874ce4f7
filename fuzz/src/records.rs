//! What lies in the initramfs or comes with the boot: plan, command line,
//! archives, module metadata.

use iofs_bls::{Entry, EntryName, compare_entries, compare_versions};
use iofs_cmdline::{Cmdline, Overrides, Root, RootWords};
use iofs_cpio::{Reader, SegmentKind, next_segment, resolve_links};
use iofs_extension::{Kind, field, fits, is_name, name_of};
use iofs_kmod::{ConfigFile, Index, ModInfo, Texts, dep_index, rewrite_dep};
use iofs_plan::{Absent, Auth, BootPlan, MAX_CERTIFICATES, MAX_PCR, Stage, glob_match};

/// Boot plans.
///
/// Input: a plan; its length field and checksum are mended.
///
/// Invariants:
/// * no panic;
/// * a plan that is accepted encodes to the very bytes that it came from;
/// * whoever wants a signature names whom by, and a register that there is;
/// * dependencies stand before their users, and aliases find modules.
pub fn plan(data: &[u8]) {
    let mut bytes = data.to_vec();
    if let (Some(body), Ok(total)) = (bytes.len().checked_sub(4), u32::try_from(bytes.len())) {
        if body >= 16 {
            bytes[12..16].copy_from_slice(&total.to_le_bytes());
            let checksum = crc32fast::hash(&bytes[..body]);
            bytes[body..].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    let plan = match BootPlan::decode(&bytes) {
        Ok(plan) => plan,
        Err(error) => return drop(error.to_string()),
    };
    assert_eq!(plan.encode().as_deref(), Ok(&bytes[..]));
    if let Auth::Signed(signed) = &plan.auth {
        assert!((1..=MAX_CERTIFICATES).contains(&signed.certificates.len()));
        assert!(signed.measure.pcr <= MAX_PCR);
    }
    for (index, module) in plan.modules.iter().enumerate() {
        assert!(module.needs.iter().all(|&need| usize::from(need) < index));
        assert!(!module.file.is_empty() && !module.file.contains('/'));
    }
    for alias in plan.aliases.aliases().iter().take(64) {
        for module in plan.modules_for(&alias.pattern) {
            assert!(usize::from(module) < plan.modules.len());
        }
    }
}

/// Lists of absent drivers, with their alias tables.
///
/// Input: a list.
///
/// Invariants:
/// * no panic;
/// * a list that is accepted encodes to the very bytes that it came from;
/// * its table finds what trying every pattern finds, and only modules that
///   there are.
pub fn absent(data: &[u8]) {
    let absent = match Absent::decode(data) {
        Ok(absent) => absent,
        Err(error) => return drop(error.to_string()),
    };
    assert_eq!(absent.encode().as_deref(), Ok(data));
    let aliases = absent.aliases.aliases();
    assert_eq!(aliases.len(), absent.aliases.len());
    // What is no UTF-8 cannot be shown as it is.
    let exact = !aliases
        .iter()
        .any(|alias| alias.pattern.contains('\u{fffd}'));
    let texts = aliases.iter().map(|alias| alias.pattern.replace('*', "0"));
    for text in texts.take(16) {
        let found = absent.aliases.matches(&text);
        assert!(found.iter().all(|&n| usize::from(n) < absent.modules.len()));
        let tried = aliases
            .iter()
            .filter(|alias| glob_match(alias.pattern.as_bytes(), text.as_bytes()))
            .map(|alias| alias.module);
        assert!(!exact || tried.eq(found));
    }
}

/// Kernel command lines.
///
/// Input: a command line.
///
/// Invariants:
/// * no panic;
/// * no parameter is made up: names and values are no longer than the input,
///   hold no NUL, and the last parameter of a name is the one that is found;
/// * a root is written as it is read, and nothing is waited for without an end.
pub fn cmdline(data: &[u8]) {
    let cmdline = Cmdline::parse(data);
    let mut total = 0;
    for param in cmdline.iter() {
        let value = param.value.unwrap_or_default();
        total += param.name.len() + value.len();
        assert!(!param.name.contains(&0) && !value.contains(&0));
    }
    total += cmdline
        .init_args()
        .iter()
        .map(|arg| arg.len())
        .sum::<usize>();
    assert!(total <= data.len());
    if let Some(last) = cmdline.iter().last() {
        if let Ok(name) = core::str::from_utf8(last.name) {
            assert_eq!(cmdline.get(name), Some(last));
        }
    }
    let (_, warnings) = Overrides::from_cmdline(&cmdline);
    for warning in warnings {
        drop(warning.to_string());
    }
    let words = RootWords::from_cmdline(&cmdline);
    assert!(words.wait_ms.is_none_or(|wait| wait <= 600_000));
    if let Some(root) = words.root.as_deref().and_then(Root::parse) {
        assert_eq!(Root::parse(&root.to_string()), Some(root));
    }
}

/// Initramfs archives.
///
/// Input: an initramfs.
///
/// Invariants:
/// * no panic, and the walk gets on with every segment;
/// * entries lie one behind the other inside the input; their paths hold no
///   `..` and no empty component;
/// * links point at entries, the first not behind the last.
pub fn cpio(data: &[u8]) {
    let mut at = 0;
    while let Ok(segment) = next_segment(data, at) {
        assert!(segment.start >= at && segment.start <= data.len());
        if segment.kind != SegmentKind::Cpio {
            break;
        }
        let mut reader = Reader::at(data, segment.start);
        let mut entries = Vec::new();
        for entry in &mut reader {
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    assert!(error.offset <= data.len());
                    drop(error.to_string());
                }
            }
        }
        let mut end = segment.start;
        for entry in &entries {
            assert!(entry.offset >= end && entry.data_offset > entry.offset);
            end = entry.data_offset + entry.data.len();
            // The padding before no data at all may be missing at the end.
            assert!(entry.data.is_empty() || end <= data.len());
            assert!(!entry.name.is_empty());
            if let Ok(path) = entry.path() {
                let mut components = path.split(|&byte| byte == b'/');
                assert!(path.is_empty() || components.all(|c| !matches!(c, b"" | b"." | b"..")));
            }
        }
        let links = resolve_links(&entries);
        assert_eq!(links.len(), entries.len());
        for link in links {
            assert!(link.first <= link.last && link.last < entries.len());
        }
        if reader.position() <= at {
            break;
        }
        at = reader.position();
    }
}

/// Whom an extension is for.
///
/// Input: its file's name, its extension-release, the image's os-release, with bytes 1
/// between them.
///
/// Invariants:
/// * no panic;
/// * a name that is taken is one that leads nowhere else;
/// * what fits has the image's ID or says that it does not matter.
pub fn extension(data: &[u8]) {
    let mut parts = data.split(|&byte| byte == 1);
    let mut next = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (file, release, host) = (next(), next(), next());
    let (name, said) = match name_of(&file) {
        Ok((name, said)) => {
            assert!(is_name(name) && file.starts_with(name));
            (name, said)
        }
        Err(_) => ("x", None),
    };
    for kind in [Kind::Sysext, Kind::Confext] {
        let place = kind.release_file(name);
        assert!(place.ends_with(name) && !place.contains("/.."));
        if said.is_some_and(|said| said != kind) {
            continue;
        }
        for stage in [Stage::Initrd, Stage::System] {
            let fits = fits(kind, &release, &host, stage);
            let (theirs, ours) = (field(&release, "ID"), field(&host, "ID"));
            assert!(fits.is_err() || theirs == "_any" || !theirs.is_empty() && theirs == ours);
        }
    }
}

/// Boot Loader Specification entries.
///
/// Input: a file name and two entries, separated by byte 1.
///
/// Invariants:
/// * no panic;
/// * what is read and can be written reads as the same again;
/// * a name reads and prints as itself, its suffix in lower case;
/// * entries and versions compare the same from both sides.
pub fn bls(data: &[u8]) {
    let mut parts = data.split(|&byte| byte == 1);
    let mut next = || parts.next().unwrap_or_default();
    let name = String::from_utf8_lossy(next()).into_owned();
    let texts = [next(), next()];
    let name = match EntryName::parse(&name) {
        Ok(parsed) => {
            assert!(parsed.to_string().eq_ignore_ascii_case(&name));
            if let Some(counter) = parsed.counter() {
                assert_eq!(counter.after_try().left(), counter.left().saturating_sub(1));
            }
            Some(parsed)
        }
        Err(error) => {
            drop(error.to_string());
            None
        }
    };
    let entries = texts.map(|text| match Entry::parse(text) {
        Ok(entry) => {
            if let Ok(text) = entry.write() {
                assert_eq!(Entry::parse(text.as_bytes()).as_ref(), Ok(&entry));
            }
            Some(entry)
        }
        Err(error) => {
            drop(error.to_string());
            None
        }
    });
    if let (Some(name), [Some(a), Some(b)]) = (&name, &entries) {
        let order = compare_entries((name, a), (name, b));
        assert_eq!(compare_entries((name, b), (name, a)), order.reverse());
    }
    let [a, b] = texts.map(String::from_utf8_lossy);
    assert_eq!(compare_versions(&a, &b), compare_versions(&b, &a).reverse());
}

/// Module metadata: modules.dep and its companions, modprobe.d.
///
/// Input: UTF-8 (the rest is replaced), the files separated by byte 1: dep,
/// alias, softdep, weakdep, builtin, builtin.modinfo, a configuration file, a
/// name to resolve. A first byte of `!` asks for all softdeps.
///
/// Invariants:
/// * no panic;
/// * an order of loading has each module once, after the ones that it needs;
/// * rewriting with the same names changes nothing.
pub fn kmod(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\u{1}');
    let mut next = || parts.next().unwrap_or_default();
    let texts = Texts {
        all_softdeps: text.starts_with('!'),
        dep: next(),
        alias: next(),
        softdep: next(),
        weakdep: next(),
        builtin: next(),
        builtin_modinfo: next(),
        config: vec![ConfigFile {
            name: "fuzz.conf",
            text: next(),
        }],
    };
    let wanted = next();
    let index = Index::new(&texts);
    drop(index.resolve(wanted));
    let names = index.modules().iter().take(8).map(|m| m.name.as_str());
    for name in names.chain([wanted]) {
        drop((index.options(name), index.is_blacklisted(name)));
        let _ = (index.is_blocked(name), index.remove_lines(name).count());
        let order = match index.load_order(&[name]) {
            Ok(order) => order,
            Err(error) => {
                drop(error.to_string());
                continue;
            }
        };
        for (at, module) in order.iter().enumerate() {
            let before = &order[..at];
            assert!(before.iter().all(|other| other.name != module.name));
        }
    }
    for warning in index.warnings() {
        drop(warning.to_string());
    }
    assert_eq!(rewrite_dep(texts.dep, str::to_owned), texts.dep);
    if let Err(error) = dep_index(texts.dep) {
        drop(error.to_string());
    }
}

/// Kernel modules.
///
/// Input: a module file.
///
/// Invariants:
/// * no panic;
/// * what is found are parts of the input.
pub fn modinfo(data: &[u8]) {
    match ModInfo::parse(data) {
        Ok(info) => {
            let total: usize = info.entries().map(|(k, v)| k.len() + v.len() + 1).sum();
            assert!(total <= data.len());
            let depends: usize = info.depends().map(str::len).sum();
            assert!(depends <= info.get("depends").map_or(0, str::len));
        }
        Err(error) => drop(error.to_string()),
    }
}
