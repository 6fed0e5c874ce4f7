//! `build-extension`, and sets with extensions.

use std::ffi::OsString;
use std::fs;

use serde_json::Value;

use crate::build::{Inputs, inspect};
use crate::common::{json, run, shell};

/// The arguments of `build-extension` for a tree in `inputs`.
fn extension(inputs: &Inputs, name: &str, more: &[&str]) -> Vec<OsString> {
    shell(
        inputs.dir.path(),
        &format!("mkdir -p {name}/usr/bin; echo {name} >{name}/usr/bin/{name}"),
    );
    let mut args: Vec<OsString> = vec!["build-extension".into(), "--json".into()];
    args.extend(["--kind", "sysext", "--name", name].map(OsString::from));
    args.extend(["--root".into(), inputs.path(name).into_os_string()]);
    let output = inputs.path(&format!("{name}.raw"));
    args.extend(["--output".into(), output.into_os_string()]);
    args.extend(more.iter().map(OsString::from));
    args
}

#[test]
fn an_extension_is_built_sealed_into_a_set_and_installed_beside_the_image() {
    let inputs = Inputs::new();
    let options = ["--id", "_any", "--scope", "initrd"];
    let made = json(extension(&inputs, "tools", &options));
    let root = made["root_hash"].as_str().unwrap().to_owned();

    let mut args = inputs.args("out");
    args.push("--json".into());
    args.push("--extension".into());
    args.push(inputs.path("tools.raw").into_os_string());
    let built = json(args);
    let listed = &built["manifest"]["extensions"];
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{built}");
    let plan = inspect(&inputs.path("out/mini-initramfs.img")).to_string();
    assert!(
        plan.contains(&root),
        "the plan does not know {root}: {plan}"
    );

    shell(inputs.dir.path(), "mkdir esp root");
    let mut args: Vec<OsString> = vec!["install".into(), "--json".into()];
    for (flag, name) in [("--root", "root"), ("--from", "out"), ("--esp", "esp")] {
        args.extend([flag.into(), inputs.path(name).into_os_string()]);
    }
    let report = json(args);
    let files = report["files"].as_array().unwrap();
    let path = |file: &Value| file["path"].as_str().unwrap().to_owned();
    let paths: Vec<String> = files.iter().map(path).collect();
    let image = paths
        .iter()
        .find(|path| path.ends_with("/image.raw"))
        .unwrap();
    let folder = image.trim_end_matches("/image.raw");
    let beside = format!("{folder}/extensions/tools.raw");
    assert!(paths.contains(&beside), "{paths:?}");
    let installed = fs::read(&beside).unwrap();
    assert!(installed == fs::read(inputs.path("tools.raw")).unwrap());
}

#[test]
fn verify_looks_at_a_sets_extensions_too() {
    let inputs = Inputs::new();
    for (name, id) in [("tools", "_any"), ("foreign", "other")] {
        json(extension(&inputs, name, &["--id", id, "--scope", "initrd"]));
        let mut args = inputs.args(&format!("with-{name}"));
        args.push("--extension".into());
        args.push(inputs.path(&format!("{name}.raw")).into_os_string());
        let built = run(args);
        assert_eq!(built.code, 0, "{}", built.stderr);
        let warned = built.stderr.contains("boots will leave out the extension");
        assert_eq!(warned, name == "foreign", "{}", built.stderr);
    }
    let verify = |set: &str| -> Vec<OsString> {
        vec![
            "verify".into(),
            "--from".into(),
            inputs.path(set).into_os_string(),
        ]
    };
    let said = run(verify("with-tools"));
    assert_eq!(said.code, 0, "{}", said.stderr);
    let wanted = "sysext tools, sealed in the boot plan; for this image";
    assert!(said.stdout.contains(wanted), "{}", said.stdout);

    let said = run(verify("with-foreign"));
    assert_ne!(said.code, 0, "{}", said.stdout);
    assert!(
        said.stderr.contains("foreign.raw: it is for ID="),
        "{}",
        said.stderr
    );

    // One byte of the file system: its first megabyte is the partition table's.
    let path = inputs.path("with-tools/tools.raw");
    let mut bytes = fs::read(&path).unwrap();
    bytes[(1 << 20) + 2000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let said = run(verify("with-tools"));
    assert_ne!(said.code, 0, "{}", said.stdout);
    assert!(said.stderr.contains("tools.raw"), "{}", said.stderr);
}

#[test]
fn what_is_no_extension_is_refused() {
    let inputs = Inputs::new();
    let said = |args: Vec<OsString>| {
        let ran = run(args);
        assert_ne!(ran.code, 0, "{}", ran.stderr);
        ran.stderr
    };
    // It does not say what it is for.
    let why = said(extension(&inputs, "silent", &[]));
    assert!(why.contains("extension-release"), "{why}");
    // No name of a file, and of a line in systemd's list.
    let options = ["--id", "_any"];
    let mut args = extension(&inputs, "named", &options);
    let at = args.iter().position(|word| word == "named").unwrap();
    args[at] = "a/b".into();
    let why = said(args);
    assert!(why.contains("a/b"), "{why}");
    // A file that is no disk image.
    fs::write(inputs.path("noise.raw"), [7; 8192]).unwrap();
    let mut args = inputs.args("out");
    args.push("--extension".into());
    args.push(inputs.path("noise.raw").into_os_string());
    let why = said(args);
    assert!(why.contains("noise.raw"), "{why}");
    assert!(!inputs.path("out/build.json").exists());
}
