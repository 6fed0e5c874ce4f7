use super::*;

fn profile(files: &str) -> String {
    format!(
        r#"{{"version":1,"root_hash":null,"uuid":"c1b9d5a2-f162-11cf-9ece-0020afc76f16","kernel_release":"6.12.1","image_bytes":9,"files":[{files}]}}"#
    )
}

fn error(text: &str) -> String {
    Profile::parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn a_profile_comes_back() {
    let text = profile(r#"{"path":"bin/sh","size":20000,"pages":[[0,1],[3,2]]}"#);
    let read = Profile::parse(text.as_bytes()).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
    assert_eq!(read.bytes(), 3 * 4096);
}

#[test]
fn hostile_profiles_are_refused() {
    let file = |path: &str, size: u64, pages: &str| {
        error(&profile(&format!(
            r#"{{"path":"{path}","size":{size},"pages":[{pages}]}}"#
        )))
    };
    for path in ["", "/bin/sh", "../etc/shadow", "a//b", "a/."] {
        assert!(file(path, 1, "").contains("no path below"), "{path}");
    }
    for pages in ["[0,0]", "[3,1],[1,1]", "[0,1],[1,1]", "[4294967295,2]"] {
        assert!(file("a", 1 << 40, pages).contains("in order"), "{pages}");
    }
    assert!(file("a", 4096, "[0,2]").contains("behind its end"));
    assert!(file("a", 4096, "[0,-2]").contains("no boot profile"));
    let one = r#"{"path":"a","size":1,"pages":[]}"#;
    assert!(error(&profile(&format!("{one},{one}"))).contains("twice"));
    let many: Vec<_> = (0..=MAX_FILES)
        .map(|n| format!(r#"{{"path":"{n}","size":1,"pages":[]}}"#))
        .collect();
    assert!(error(&profile(&many.join(","))).contains("at most"));
    assert!(error("{}").contains("no boot profile"));
    assert!(error(&"[".repeat(100_000)).contains("no boot profile"));
    let other = profile("").replace("\"version\":1", "\"version\":2");
    assert!(error(&other).contains("has version 2"));
}

#[test]
fn elf_files_name_what_they_need() {
    // A program of this machine, which this test is itself.
    let own = std::fs::read("/proc/self/exe").unwrap();
    let needs = elf::needs(&own);
    assert!(needs.interpreter.unwrap().contains("/ld-linux"));
    assert!(
        needs
            .libraries
            .iter()
            .any(|name| name.starts_with("libc.so"))
    );
    let script = elf::needs(b"#! /bin/sh -e\necho\n");
    assert_eq!(script.interpreter.as_deref(), Some("/bin/sh"));
    assert_eq!(elf::needs(b"text"), elf::Needs::default());
    // Whatever is cut off or changed needs less, and nothing breaks.
    for len in 0..4096.min(own.len()) {
        drop(elf::needs(&own[..len]));
    }
    let mut changed = own[..own.len().min(1 << 16)].to_vec();
    for at in 0..1024 {
        for value in [0, 0x7f, 0xff] {
            let old = std::mem::replace(&mut changed[at], value);
            drop(elf::needs(&changed));
            changed[at] = old;
        }
    }
}
