//! Sealing, signing and checking. The oracles are openssl and veritysetup.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::build::{Inputs, inspect, part};
use crate::common::{Ran, json, run, shell};

/// The five kinds of keys.
const TYPES: [&str; 5] = ["rsa2048", "rsa3072", "rsa4096", "p256", "p384"];

impl Inputs {
    /// With files of more than one block of the hash tree.
    fn large() -> Self {
        let inputs = Self::new();
        shell(
            inputs.dir.path(),
            "head -c 700000 /dev/urandom > tree/bin/data
             (cd tree && find . | LC_ALL=C sort | cpio -o -H newc --quiet) > initrd",
        );
        inputs
    }

    /// Builds a set that proves itself.
    fn proven(&self, out: &str, more: &[&str]) -> Value {
        let mut args = self.args(out);
        args.push("--json".into());
        args.extend(more.iter().map(Into::into));
        json(args)
    }

    /// A key of that kind, by its name.
    fn key(&self, name: &str, kind: &str) -> Value {
        json([
            OsString::from("keygen"),
            self.path(name).into(),
            "--type".into(),
            kind.into(),
            "--json".into(),
        ])
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Builds a set signed with the key of that name.
    fn signed(&self, out: &str, key: &str, more: &[&str]) -> Value {
        let (key, certificate) = (
            self.text(&format!("{key}.key")),
            self.text(&format!("{key}.crt")),
        );
        let signs = ["--key", &key, "--certificate", &certificate];
        self.proven(out, &[&signs, more].concat())
    }

    fn verify(&self, image: &str, more: &[&str]) -> Ran {
        let image = self.text(image);
        run(["verify", image.as_str()].iter().chain(more))
    }
}

/// Where a partition of the image starts, by its number from 1.
fn start(image: &Value, number: usize) -> u64 {
    let parts = part(image, "gpt-disk")["parts"].as_array().unwrap();
    parts[number - 1]["start"].as_u64().unwrap()
}

fn flip(path: &PathBuf, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_sealed_set_is_proven_by_its_own_plan_and_by_veritysetup() {
    let inputs = Inputs::large();
    let built = inputs.proven("out", &["--image-on", "partition", "--image-on", "esp"]);
    let root = built["manifest"]["root-hash"].as_str().unwrap();
    assert_eq!(built["manifest"]["auth"], "sealed");
    assert_eq!(built["manifest"]["image"]["name"], "image.raw");
    let ran = run([
        "verify".into(),
        "--from".into(),
        inputs.path("out").into_os_string(),
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("is authentic"), "{}", ran.stdout);

    let plan = inspect(&inputs.path("out/mini-initramfs.img"));
    let plan = part(&plan, "boot-plan");
    assert_eq!(plan["auth"], "sealed");
    assert_eq!(plan["root_hash"], root);
    let place = plan["candidates"][0].as_str().unwrap();
    let partuuid = format!("{}-{}", &root[..8], &root[8..12]);
    assert!(place.contains(&partuuid), "{place}");

    let image = inspect(&inputs.path("out/image.raw"));
    assert_eq!(image["kind"], "disk-image");
    assert_eq!(image["signed"], false);
    let dir = inputs.dir.path();
    for number in [1, 2] {
        let parts = part(&image, "gpt-disk")["parts"].as_array().unwrap();
        let size = parts[number - 1]["size"].as_u64().unwrap();
        shell(
            dir,
            &format!(
                "dd if=out/image.raw of=part{number} bs=64K iflag=skip_bytes,count_bytes \
                 status=none skip={} count={size}",
                start(&image, number)
            ),
        );
    }
    // It can print an error and succeed.
    let said = shell(dir, &format!("veritysetup verify part1 part2 {root} 2>&1"));
    assert!(!said.contains("failed"), "{said}");
    let release = shell(
        dir,
        "fsck.erofs --extract=files part1 > /dev/null && cat files/usr/lib/initoverlayfs/image-release",
    );
    assert_eq!(
        release,
        "IMAGE_ID=\"test-7\"\nIMAGE_VERSION=\"6.12.1-test\"\n"
    );
}

#[test]
fn every_kind_of_key_signs_and_openssl_agrees() {
    let inputs = Inputs::new();
    for kind in TYPES {
        let made = inputs.key(kind, kind);
        let mode = fs::metadata(inputs.path(&format!("{kind}.key")))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o600);
        let built = inputs.signed("out", kind, &[]);
        assert_eq!(built["manifest"]["auth"], "signed", "{kind}");
        let plan = inputs.text("out/mini-initramfs.img");
        let ran = inputs.verify("out/image.raw", &["--plan", &plan]);
        assert_eq!(ran.code, 0, "{kind}: {}", ran.stderr);
        assert!(
            ran.stdout.contains(made["sha256"].as_str().unwrap()),
            "{}",
            ran.stdout
        );
        let der = inputs.text(&format!("{kind}.der"));
        assert_eq!(
            inputs
                .verify("out/image.raw", &["--certificate", &der])
                .code,
            0
        );

        // The signature partition begins with the JSON of the specification.
        let image = inspect(&inputs.path("out/image.raw"));
        let bytes = fs::read(inputs.path("out/image.raw")).unwrap();
        let rest = &bytes[usize::try_from(start(&image, 3)).unwrap()..];
        let end = rest.iter().position(|&byte| byte == 0).unwrap();
        let object: Value = serde_json::from_slice(&rest[..end]).unwrap();
        let root = built["manifest"]["root-hash"].as_str().unwrap();
        assert_eq!(object["rootHash"], root);
        fs::write(inputs.path("hash"), root).unwrap();
        fs::write(inputs.path("sig64"), object["signature"].as_str().unwrap()).unwrap();
        let dir = inputs.dir.path();
        shell(dir, "base64 -d sig64 > sig");
        shell(
            dir,
            &format!(
                "openssl smime -verify -binary -inform DER -in sig -content hash \
                 -certfile {kind}.crt -nointern -noverify -out /dev/null 2>&1"
            ),
        );
        let sha = shell(dir, &format!("openssl dgst -sha256 -r {kind}.der"));
        assert!(sha.starts_with(object["certificateFingerprint"].as_str().unwrap()));
    }
}

#[test]
fn a_changed_byte_in_each_region_is_named() {
    let inputs = Inputs::large();
    inputs.key("k", "p256");
    inputs.signed("out", "k", &[]);
    let image = inspect(&inputs.path("out/image.raw"));
    let plan = inputs.text("out/mini-initramfs.img");
    let good = fs::read(inputs.path("out/image.raw")).unwrap();
    let (root, verity, signature) = (start(&image, 1), start(&image, 2), start(&image, 3));
    for (at, check, block) in [
        // A partition's entry, the table's header.
        (1024 + 20, "partitions", None),
        (512 + 24, "partitions", None),
        // The EROFS superblock, then what is in the first and second data block.
        (root + 1024, "blocks", Some(root)),
        (root + 4096 + 7, "blocks", Some(root + 4096)),
        // The verity superblock: magic, UUID; its salt only shows in the hashes.
        (verity, "superblock", Some(verity)),
        (verity + 20, "superblock", Some(verity)),
        (verity + 90, "blocks", Some(verity + 4096)),
        // The hash tree.
        (verity + 4096 + 3, "blocks", Some(verity + 4096)),
        // The signed root hash, the signature's JSON and its padding.
        (signature + 20, "signature", None),
        (signature, "signature", None),
        (signature + 4000, "signature", None),
    ] {
        let path = inputs.path("bad.raw");
        fs::write(&path, &good).unwrap();
        flip(&path, at);
        let ran = inputs.verify("bad.raw", &["--plan", &plan, "--json"]);
        assert_eq!(ran.code, 1, "byte {at}: {}", ran.stdout);
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(report["authentic"], false);
        assert_eq!(report["fault"]["check"], check, "byte {at}: {report}");
        if let Some(block) = block {
            assert_eq!(
                report["fault"]["bytes"]["start"], block,
                "byte {at}: {report}"
            );
        }
        assert!(ran.stderr.contains("not authentic"), "{}", ran.stderr);
    }
    let path = inputs.path("bad.raw");
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert_eq!(
        inputs.verify("bad.raw", &["--plan", &plan]).code,
        1,
        "truncated"
    );
}

#[test]
fn another_key_product_or_version_is_refused() {
    let inputs = Inputs::large();
    inputs.key("mine", "p384");
    inputs.key("other", "p384");
    inputs.signed("mine", "mine", &["--version", "2", "--min-version", "2"]);
    let plan = inputs.text("mine/mini-initramfs.img");
    for (out, key, more, word) in [
        ("by-other", "other", ["--version", "2"], "another key"),
        ("old", "mine", ["--version", "1.9"], "none below"),
        ("product", "mine", ["--product", "another"], "of product"),
    ] {
        inputs.signed(out, key, &more);
        let ran = inputs.verify(&format!("{out}/image.raw"), &["--plan", &plan]);
        assert_eq!(ran.code, 1, "{out}: {}", ran.stdout);
        assert!(ran.stderr.contains(word), "{out}: {}", ran.stderr);
    }
    inputs.signed("new", "mine", &["--version", "2.1"]);
    let ran = inputs.verify("new/image.raw", &["--plan", &plan]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);

    // A signature that is replaced counts for who made it, and only then.
    let image = inputs.text("by-other/image.raw");
    let (key, certificate) = (inputs.text("mine.key"), inputs.text("mine.der"));
    let ran = run(["sign", &image, "--key", &key, "--certificate", &certificate]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = inputs.verify("by-other/image.raw", &["--plan", &plan]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // Its set is whole again, too.
    let ran = run([
        "verify".into(),
        "--from".into(),
        inputs.path("by-other").into_os_string(),
    ]);
    assert!(ran.stderr.contains("another key"), "{}", ran.stderr);

    // What was changed is not signed, and stays as it was.
    let at = start(&inspect(&PathBuf::from(&image)), 1) + 5000;
    flip(&PathBuf::from(&image), at);
    let before = fs::read(&image).unwrap();
    let ran = run(["sign", &image, "--key", &key, "--certificate", &certificate]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("root hash"), "{}", ran.stderr);
    assert!(fs::read(&image).unwrap() == before);
}

#[test]
fn a_key_that_is_not_the_certificates_signs_nothing() {
    let inputs = Inputs::new();
    inputs.key("a", "p256");
    inputs.key("b", "p256");
    let mut args = inputs.args("out");
    let (key, certificate) = (inputs.text("a.key"), inputs.text("b.crt"));
    args.extend(["--key", &key, "--certificate", &certificate].map(Into::into));
    let ran = run(args);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("hint:"), "{}", ran.stderr);
    assert!(!inputs.path("out/image.raw").exists());
    assert!(!inputs.path("out/build.json").exists());

    let ran = run([OsString::from("keygen"), inputs.path("a").into()]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("a.key is there already"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_set_without_firmware_trust_says_so_at_installation() {
    let inputs = Inputs::new();
    inputs.proven("out", &["--version", "3"]);
    shell(inputs.dir.path(), "mkdir esp root");
    let install = |more: &[&str]| {
        let folder = |name| inputs.text(name);
        let (root, from, esp) = (folder("root"), folder("out"), folder("esp"));
        let args = ["install", "--root", &root, "--from", &from, "--esp", &esp];
        run(args.iter().chain(more))
    };
    let ran = install(&["--entry-token", "product"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("firmware does not"), "{}", ran.stderr);
    assert!(inputs.path("esp/test-7/3/image.raw").is_file());
    assert!(inputs.path("esp/loader/entries/test-7-3.conf").is_file());
}
