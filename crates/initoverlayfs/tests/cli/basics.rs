//! Help, errors, exit status, completions, man pages.

use crate::common::run;

#[test]
fn help_shows_every_command_and_the_exit_status() {
    let ran = run(["--help"]);
    assert_eq!(ran.code, 0);
    for word in [
        "build",
        "inspect",
        "install",
        "keygen",
        "sign",
        "verify",
        "run",
        "hint",
        "completions",
        "Exit status",
    ] {
        assert!(ran.stdout.contains(word), "{word} in {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("  man "), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\x1b'), "no colour into a pipe");
}

#[test]
fn an_unknown_flag_is_status_2_and_names_it() {
    let ran = run(["inspect", "--nonsense", "x"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("--nonsense"));
    assert!(ran.stdout.is_empty());
}

#[test]
fn a_build_needs_one_source() {
    let none = run(["build", "--auth", "none"]);
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("--initrd"), "{}", none.stderr);
    let both = run(["build", "--initrd", "a", "--root", "b", "--auth", "none"]);
    assert_eq!(both.code, 2);
    assert!(
        both.stderr.contains("cannot be used with"),
        "{}",
        both.stderr
    );
}

#[test]
fn options_that_mean_nothing_together_are_refused() {
    // An option that means nothing with another is refused by name.
    for (args, words) in [
        (&["--auth", "signed"][..], ["somebody", "keygen"]),
        (
            &["--auth", "none", "--min-version", "1"],
            ["--min-version", "--auth none"],
        ),
        (
            &["--auth", "none", "--on-corruption", "panic"],
            ["--on-corruption", "none"],
        ),
        (&["--auth", "sealed", "--trust", "x"], ["--trust", "sealed"]),
        (&["--measure-pcr", "11"], ["--measure-pcr", "sealed"]),
        (&["--key", "x"], ["--certificate", "required"]),
        (&["--stub", "x"], ["--uki", "required"]),
        (
            &["--auth", "none", "--image-on", "partition"],
            ["selector", "PARTLABEL"],
        ),
        (
            &["--image-on", "pmem:dax"],
            ["compression", "--image-compress none"],
        ),
        (&["--memory"], ["--memory", "--image-on pmem"]),
    ] {
        let base = ["build", "--initrd", "x", "--kernel-release", "6.12"];
        let ran = run(base.iter().chain(args));
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "{args:?}: {}", ran.stderr);
        }
    }
}

#[test]
fn bad_values_are_refused_with_what_is_allowed() {
    for (flag, value, word) in [
        ("--image-on", "floppy", "xbootldr"),
        ("--image-on", "partition:PARTUUID=1", "GUID"),
        ("--image-on", "pmem:huge", "pmem:dax"),
        ("--memory", "0x1000", "2 MiB"),
        ("--image-compress", "zstd", "lz4:LEVEL"),
        ("--modules", "a b", "module name"),
        ("--timeout", "0", "1..=86400"),
        ("--on-failure", "panic", "poweroff"),
    ] {
        let ran = run(["build", "--initrd", "x", "--auth", "none", flag, value]);
        assert_eq!(ran.code, 2, "{flag} {value}");
        assert!(ran.stderr.contains(word), "{flag}: {}", ran.stderr);
    }
}

#[test]
fn a_missing_file_is_status_1_with_the_reason() {
    let ran = run(["inspect", "/nonexistent/file"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("/nonexistent/file"), "{}", ran.stderr);
    assert!(ran.stderr.contains("No such file"), "{}", ran.stderr);
    assert!(ran.stdout.is_empty());
}

#[test]
fn completions_know_the_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(["completions", shell]);
        assert_eq!(ran.code, 0);
        assert!(ran.stdout.contains("image-compress"), "{shell}");
    }
}

#[test]
fn every_command_has_a_man_page() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run([std::ffi::OsStr::new("man"), dir.path().as_os_str()]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for page in [
        "", "-build", "-keygen", "-sign", "-verify", "-inspect", "-install", "-run",
    ] {
        let path = dir.path().join(format!("initoverlayfs{page}.1"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    assert!(!dir.path().join("initoverlayfs-man.1").exists());
}

#[test]
fn a_run_without_a_set_says_where_it_looked() {
    let ran = run(["run", "--from", "/nonexistent", "--accel", "tcg"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("/nonexistent/build.json"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("--from"), "{}", ran.stderr);
}
