//! Sets whose image is in memory: packed into the mini-initramfs, or put there by a
//! loader.

use std::ffi::OsString;
use std::fs;

use serde_json::{Value, json};

use crate::build::{Inputs, inspect};
use crate::common::{json, run, shell};

/// Builds a sealed set.
fn build(inputs: &Inputs, more: &[&str]) -> Value {
    let mut args = inputs.args("out");
    args.push("--json".into());
    args.extend(more.iter().map(Into::into));
    json(args)
}

#[test]
fn an_embedded_image_is_built_inspected_verified_and_installed() {
    let inputs = Inputs::new();
    let built = build(&inputs, &["--image-on", "embedded"]);
    let image = fs::read(inputs.path("out/image.raw")).unwrap();
    assert_eq!(built["mini"]["embedded_bytes"], image.len());
    assert_eq!(
        built["manifest"]["candidates"],
        json!([{"name": "embedded", "partition": "embedded"}])
    );
    let mini = inputs.path("out/mini-initramfs.img");
    let found = inspect(&mini);
    assert_eq!(found["embedded_image"], image.len());
    assert!(found.to_string().contains("embedded: the mini-initramfs"));
    let packed = fs::read(&mini).unwrap();
    let at = packed.windows(image.len()).position(|part| part == image);
    assert_eq!(at.unwrap() % 4096, 0);

    let out = inputs.path("out").into_os_string();
    let ran = run(["verify".into(), "--from".into(), out]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);

    shell(inputs.dir.path(), "mkdir esp root");
    let mut args: Vec<OsString> = vec!["install".into(), "--json".into()];
    for (flag, name) in [("--root", "root"), ("--from", "out"), ("--esp", "esp")] {
        args.extend([flag.into(), inputs.path(name).into_os_string()]);
    }
    let report = json(args);
    assert_eq!(report["files"].as_array().unwrap().len(), 3, "{report}");
    let files = report["files"].to_string();
    assert!(!files.contains("image.raw"), "{files}");
}

#[test]
fn what_is_later_signed_is_not_packed() {
    let inputs = Inputs::new();
    let key = inputs.path("key");
    let ran = run([
        "keygen".into(),
        "--type".into(),
        "p256".into(),
        key.clone().into_os_string(),
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let mut args = inputs.args("out");
    args.extend(["--auth", "signed", "--image-on", "embedded", "--trust"].map(Into::into));
    args.push(key.with_extension("crt").into_os_string());
    let ran = run(args);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("signed later"), "{}", ran.stderr);
}

#[test]
fn a_loader_is_told_where_the_image_goes() {
    let inputs = Inputs::new();
    let built = build(
        &inputs,
        &["--image-on", "pmem", "--memory", "--cmdline", "quiet"],
    );
    let memory = &built["memory"];
    let len = fs::metadata(inputs.path("out/image.raw")).unwrap().len();
    let size = len.next_multiple_of(2 << 20);
    assert_eq!(memory["address"], 4u64 << 30);
    assert_eq!(memory["size"], size);
    assert_eq!(memory["alignment"], 2 << 20);
    let argument = format!("memmap={size:#x}!0x100000000");
    assert_eq!(memory["kernel_argument"], argument);
    let file = inputs.path("out/image.raw");
    assert_eq!(
        memory["qemu"],
        json!([
            "-device",
            format!(
                "loader,file={},addr=0x100000000,force-raw=on",
                file.display()
            )
        ])
    );
    assert_eq!(built["manifest"]["cmdline"], format!("quiet {argument}"));

    // What an entry says is not known here, so it is only told.
    let mut args = inputs.args("out");
    args.extend(["--image-on", "pmem", "--memory", "0x20000000"].map(Into::into));
    let ran = run(args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for text in [
        "memmap=0x",
        "!0x20000000",
        "addr=0x20000000",
        "command line needs",
    ] {
        assert!(ran.stdout.contains(text), "{text}: {}", ran.stdout);
    }
    let manifest: Value =
        serde_json::from_slice(&fs::read(inputs.path("out/build.json")).unwrap()).unwrap();
    assert!(manifest.get("cmdline").is_none());
}
