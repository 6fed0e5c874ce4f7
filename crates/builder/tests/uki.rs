//! Unified Kernel Images. What needs systemd's stub and ukify looks for them in
//! the root tree that `IOFS_TEST_UKI_ROOT` names: Debian 13 with a kernel and the
//! packages systemd-boot-efi, systemd-repart, systemd-ukify and libtss2-esys, which
//! systemd-measure loads. Nothing is written
//! there: its programs run with its own dynamic linker. Without it those tests
//! have nothing to look at and say so; the release's own tests set it.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use builder::*;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> Option<PathBuf> {
    let root = std::env::var_os("IOFS_TEST_UKI_ROOT").map(PathBuf::from);
    if root.is_none() {
        println!("IOFS_TEST_UKI_ROOT is not set: nothing to test");
    }
    root
}

fn try_run(dir: &Path, program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("this test needs the program {program}: {error}"))
}

fn run(dir: &Path, program: &str, args: &[&str]) -> String {
    let output = try_run(dir, program, args);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A script in `dir` that runs a program of `root` with root's libraries.
fn of_root(dir: &Path, root: &Path, program: &str) -> PathBuf {
    let root = root.to_str().unwrap();
    assert!(
        Path::new(&format!("{root}/{program}")).exists(),
        "{root} lacks {program}; it needs systemd-boot-efi, systemd-repart, systemd-ukify and libtss2-esys"
    );
    let lib = format!("{root}/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let loader = fs::read_dir(format!("{root}/usr/lib64"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().contains("ld-linux"))
        .unwrap();
    let name = Path::new(program).file_name().unwrap();
    let python = format!("'{root}/usr/bin/python3'");
    let script = format!(
        "#!/bin/sh
         export PYTHONHOME='{root}/usr' PYTHONPATH='{root}/usr/lib/python3/dist-packages'
         export PYTHONDONTWRITEBYTECODE=1
         exec '{}' --library-path '{lib}:{lib}/systemd' {} '{root}/{program}' \"$@\"\n",
        loader.display(),
        if name == "ukify" { &python } else { "" },
    );
    let path = dir.join(name);
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// A PE32+ image with one section and room for more, for `machine`.
fn pe(machine: u16, name: &str, data: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x600];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x40u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x44, &machine.to_le_bytes());
    put(0x46, &1u16.to_le_bytes());
    put(0x54, &240u16.to_le_bytes());
    put(0x56, &0x022eu16.to_le_bytes());
    let length = u32::try_from(data.len()).unwrap();
    for (at, value) in [
        (0, 0x020b),
        (16, 0x1000),
        (20, 0x1000),
        (32, 0x1000),
        (36, 0x200),
        (56, 0x2000),
        (60, 0x600),
        (68, 0x0160_000a),
        (108, 16),
        (248, length),
        (252, 0x1000),
        (256, length.next_multiple_of(512)),
        (260, 0x600),
        (276, 0x6000_0020),
    ] {
        put(0x58 + at, &u32::to_le_bytes(value));
    }
    put(0x58 + 240, name.as_bytes());
    image.extend_from_slice(data);
    image.resize(image.len().next_multiple_of(512), 0);
    image
}

/// A request for a UKI of made-up parts.
fn small(dir: &Path) -> UkiRequest {
    let file = |name: &str, bytes: &[u8]| {
        fs::write(dir.join(name), bytes).unwrap();
        dir.join(name)
    };
    let mut request = UkiRequest::new(
        dir.join("uki.efi"),
        file("stub", &pe(0x8664, ".text", &[0xc3])),
        file("linux", &pe(0x8664, ".text", &[7; 3000])),
        file("initrd", &[9; 2000]),
    );
    request.cmdline = "console=ttyS0  quiet\n".to_owned();
    request.os_release = b"ID=debian\nVERSION_ID=13\n".to_vec();
    request.uname = "6.12.1-test".to_owned();
    request
}

fn section<'b>(bytes: &'b [u8], built: &BuiltUki, name: &str) -> &'b [u8] {
    let section = built.sections.iter().find(|s| s.name == name).unwrap();
    let start = usize::try_from(section.offset).unwrap();
    &bytes[start..start + usize::try_from(section.bytes).unwrap()]
}

fn keys(dir: &Path, name: &str) -> (PathBuf, PathBuf, PathBuf) {
    let path = |what: &str| dir.join(format!("{name}.{what}"));
    let (key, cert, public) = (path("key"), path("crt"), path("pub"));
    let (k, c, p) = (
        key.to_str().unwrap(),
        cert.to_str().unwrap(),
        public.to_str().unwrap(),
    );
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days"];
    let more = ["2", "-subj", "/CN=test", "-keyout", k, "-out", c];
    run(dir, "openssl", &[&request[..], &more].concat());
    let public_of = ["x509", "-in", c, "-pubkey", "-noout", "-out", p];
    run(dir, "openssl", &public_of);
    (key, cert, public)
}

#[test]
fn the_same_parts_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let request = small(dir.path());
    let built = build_uki(&request, &Silent).unwrap();
    let bytes = fs::read(&request.output).unwrap();
    assert_eq!(built.bytes, bytes.len() as u64);
    assert_eq!((built.machine.as_str(), built.signed), ("x64", false));
    assert!(built.warnings.iter().any(|w| w.contains("not signed")));
    let names: Vec<&str> = built.sections.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        names,
        [
            ".text", ".osrel", ".cmdline", ".uname", ".linux", ".initrd", ".sbat"
        ]
    );
    assert_eq!(section(&bytes, &built, ".cmdline"), b"console=ttyS0 quiet");
    assert_eq!(section(&bytes, &built, ".initrd"), [9; 2000]);
    let sbat = String::from_utf8(section(&bytes, &built, ".sbat").to_vec()).unwrap();
    assert!(sbat.starts_with("sbat,1,") && sbat.contains("\nuki,1,UKI,"));
    let mode = fs::metadata(&request.output).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    build_uki(&request, &Silent).unwrap();
    assert_eq!(fs::read(&request.output).unwrap(), bytes);
}

#[test]
fn no_command_line_is_still_a_section() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = small(dir.path());
    request.cmdline = String::new();
    let built = build_uki(&request, &Silent).unwrap();
    let bytes = fs::read(&request.output).unwrap();
    assert_eq!(section(&bytes, &built, ".cmdline"), b" ");
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(dir.join(name), bytes).unwrap();
        dir.join(name)
    };
    let refused = |change: &dyn Fn(&mut UkiRequest)| {
        let mut request = small(dir);
        change(&mut request);
        let error = build_uki(&request, &Silent).unwrap_err();
        let left = fs::read_dir(dir).unwrap().any(|entry| {
            let name = entry.unwrap().file_name();
            name == "uki.efi" || name.to_str().unwrap().starts_with(".initoverlayfs")
        });
        assert!(!left, "{error}");
        error
    };
    let kind = |change: &dyn Fn(&mut UkiRequest)| refused(change).kind();
    let arm = write("arm", &pe(0xaa64, ".text", &[1]));
    let gzip = write("gzip", &[0x1f, 0x8b, 8, 0]);
    let empty = write("empty", b"");
    let whole = write("whole", &pe(0x8664, ".linux", &[1]));
    let bad_sbat = write("bad-sbat", &pe(0x8664, ".sbat", b"linux,1\n"));
    assert_eq!(kind(&|r| r.kernel.clone_from(&arm)), ErrorKind::Usage);
    assert_eq!(
        kind(&|r| r.kernel.clone_from(&gzip)),
        ErrorKind::Unsupported
    );
    assert_eq!(kind(&|r| r.kernel.clone_from(&bad_sbat)), ErrorKind::Input);
    assert_eq!(kind(&|r| r.stub.clone_from(&gzip)), ErrorKind::Input);
    assert_eq!(kind(&|r| r.stub.clone_from(&whole)), ErrorKind::Input);
    assert_eq!(kind(&|r| r.initrd.clone_from(&empty)), ErrorKind::Usage);
    assert_eq!(
        kind(&|r| r.microcode = Some(gzip.clone())),
        ErrorKind::Usage
    );
    assert_eq!(kind(&|r| r.splash = Some(gzip.clone())), ErrorKind::Usage);
    assert_eq!(
        kind(&|r| r.devicetree = Some(gzip.clone())),
        ErrorKind::Usage
    );
    assert_eq!(kind(&|r| r.os_release.clear()), ErrorKind::Usage);
    assert_eq!(kind(&|r| r.uname = "a b".to_owned()), ErrorKind::Usage);
    assert_eq!(kind(&|r| r.sbat = Some("x".to_owned())), ErrorKind::Input);
    assert_eq!(kind(&|r| r.initrd = dir.join("none")), ErrorKind::Io);
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (key, certificate, public) = keys(dir, "k");
    let mut request = small(dir);
    request.signing = Some(UkiSigning {
        key: KeySource::File(key.clone()),
        certificate: certificate.clone(),
        tool: Some(SigningTool::Sbsign(dir.join("no-sbsign"))),
    });
    let error = build_uki(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingTool);
    assert!(error.advice().unwrap().contains("sbsigntool"));

    request.signing = None;
    let mut pcr = PcrSigning::new(KeySource::File(key.clone()), public);
    pcr.measure = Some(dir.join("no-measure"));
    request.pcr = Some(pcr);
    let error = build_uki(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingTool);
    assert!(error.advice().unwrap().contains("systemd"));

    // A token needs a URI, and for PCR values a certificate.
    let pcr = request.pcr.as_mut().unwrap();
    pcr.private_key = KeySource::Pkcs11("/dev/null".to_owned());
    let error = build_uki(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let pcr = request.pcr.as_mut().unwrap();
    pcr.private_key = KeySource::Pkcs11("pkcs11:object=x".to_owned());
    let error = build_uki(&request, &Silent).unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    // A key that is none: sbsign's own words are in the message.
    request.pcr = None;
    request.signing = Some(UkiSigning {
        key: KeySource::File(certificate.clone()),
        certificate,
        tool: None,
    });
    let error = build_uki(&request, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tool, "{error}");
    assert!(!request.output.exists());
}

#[test]
fn sbsign_signs_uki_and_kernel_and_sbverify_takes_both() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (key, certificate, _) = keys(dir, "k");
    let (_, other, _) = keys(dir, "other");
    let mut request = small(dir);
    request.signing = Some(UkiSigning {
        key: KeySource::File(key),
        certificate: certificate.clone(),
        tool: None,
    });
    let built = build_uki(&request, &Silent).unwrap();
    assert!(built.signed && built.warnings.is_empty(), "{built:?}");
    let bytes = fs::read(&request.output).unwrap();
    fs::write(dir.join("inner"), section(&bytes, &built, ".linux")).unwrap();
    let mut flipped = bytes.clone();
    let initrd = built.sections.iter().find(|s| s.name == ".initrd").unwrap();
    flipped[usize::try_from(initrd.offset).unwrap()] ^= 1;
    fs::write(dir.join("flipped"), flipped).unwrap();
    let verify = |file: &str, certificate: &Path| {
        let args = ["--cert", certificate.to_str().unwrap(), file];
        try_run(dir, "sbverify", &args).status.success()
    };
    assert!(verify("uki.efi", &certificate));
    assert!(verify("inner", &certificate));
    assert!(!verify("uki.efi", &other));
    assert!(!verify("flipped", &certificate));
}

/// A request for a UKI of the root tree's own parts.
fn real(dir: &Path, root: &Path) -> UkiRequest {
    let release = kernel_release(root).unwrap();
    let kernel = kernel_image(root, &release).unwrap();
    let stub = default_stub(root, &kernel).unwrap();
    let initrd = dir.join("initrd");
    fs::write(&initrd, [0x5a; 123_457]).unwrap();
    let mut request = UkiRequest::new(dir.join("ours.efi"), stub, kernel, initrd);
    request.cmdline = "console=ttyS0 quiet".to_owned();
    request.os_release = fs::read(root.join("usr/lib/os-release")).unwrap();
    request.uname = release;
    request.splash = Some(dir.join("splash.bmp"));
    fs::write(dir.join("splash.bmp"), [&b"BM"[..], &[1; 700]].concat()).unwrap();
    request.microcode = Some(dir.join("microcode"));
    fs::write(
        dir.join("microcode"),
        [&b"070701"[..], &[b'0'; 1000]].concat(),
    )
    .unwrap();
    request.devicetree = Some(dir.join("dtb"));
    let dtb = [&[0xd0, 0x0d, 0xfe, 0xed][..], &[2; 300]].concat();
    fs::write(dir.join("dtb"), dtb).unwrap();
    request
}

/// Lets ukify build the same; gives the bytes.
fn ukify(dir: &Path, root: &Path, request: &UkiRequest, more: &[&str]) -> Vec<u8> {
    let program = of_root(dir, root, "usr/bin/ukify");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let os_release = dir.join("os-release");
    fs::write(&os_release, &request.os_release).unwrap();
    let output = dir.join("ukify.efi");
    let mut args = vec![
        "build".to_owned(),
        format!("--stub={}", path(&request.stub)),
        format!("--linux={}", path(&request.kernel)),
        format!("--initrd={}", path(&request.initrd)),
        format!("--cmdline={}", request.cmdline),
        format!("--uname={}", request.uname),
        format!("--os-release=@{}", path(&os_release)),
        format!("--splash={}", path(request.splash.as_ref().unwrap())),
        format!("--microcode={}", path(request.microcode.as_ref().unwrap())),
        format!(
            "--devicetree={}",
            path(request.devicetree.as_ref().unwrap())
        ),
        format!("--output={}", path(&output)),
    ];
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    run(dir, program.to_str().unwrap(), &args);
    fs::read(output).unwrap()
}

#[test]
fn ukify_makes_the_same_bytes() {
    let Some(root) = root() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut request = real(dir.path(), &root);
    let built = build_uki(&request, &Silent).unwrap();
    let ours = fs::read(&request.output).unwrap();
    assert!(
        ours == ukify(dir.path(), &root, &request, &[]),
        "{built:#?}"
    );

    // A kernel that does not run without executable data, and SBAT of our own.
    let plain = dir.path().join("plain");
    fs::write(&plain, {
        let mut kernel = pe(
            0x8664,
            ".sbat",
            b"sbat,1,x\nlinux,3,Linux,l,6,https://l.org\n",
        );
        kernel[0x58 + 71] = 0;
        kernel
    })
    .unwrap();
    request.kernel = plain;
    request.sbat = Some("sbat,1,x\nvendor,2,V,v,1,https://v.org\n".to_owned());
    build_uki(&request, &Silent).unwrap();
    let ours = fs::read(&request.output).unwrap();
    let sbat = format!("--sbat={}", request.sbat.as_ref().unwrap());
    assert!(ours == ukify(dir.path(), &root, &request, &[&sbat]));
}

#[test]
fn ukify_and_objdump_see_what_we_see() {
    let Some(root) = root() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let request = real(dir, &root);
    let built = build_uki(&request, &Silent).unwrap();
    let bytes = fs::read(&request.output).unwrap();
    let ours = request.output.to_str().unwrap();

    let program = of_root(dir, &root, "usr/bin/ukify");
    let json = run(
        dir,
        program.to_str().unwrap(),
        &["inspect", ours, "--all", "--json=short"],
    );
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.as_object().unwrap().len(), built.sections.len());
    for section in &built.sections {
        let theirs = &json[&section.name];
        assert_eq!(theirs["size"], section.bytes, "{}", section.name);
        let content = self::section(&bytes, &built, &section.name);
        fs::write(dir.join("content"), content).unwrap();
        let digest = run(dir, "sha256sum", &["content"]);
        assert_eq!(theirs["sha256"], digest[..64], "{}", section.name);
    }

    let listing = run(dir, "objdump", &["-h", "-w", ours]);
    let lines: Vec<Vec<&str>> = listing
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.first().is_some_and(|f| f.parse::<u8>().is_ok()))
        .collect();
    assert_eq!(lines.len(), built.sections.len(), "{listing}");
    for (fields, section) in lines.iter().zip(&built.sections) {
        let hex = |at: usize| u64::from_str_radix(fields[at], 16).unwrap();
        assert_eq!(fields[1], section.name);
        assert_eq!(
            (hex(2), hex(5)),
            (section.bytes, section.offset),
            "{listing}"
        );
    }
}

#[test]
fn pcr_signatures_are_ukifys() {
    let Some(root) = root() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (key, _, public) = keys(dir, "pcr");
    let measure = of_root(dir, &root, "usr/lib/systemd/systemd-measure");
    let mut request = real(dir, &root);
    let mut pcr = PcrSigning::new(KeySource::File(key.clone()), public.clone());
    pcr.measure = Some(measure);
    pcr.phases = vec![
        "enter-initrd".to_owned(),
        "enter-initrd:leave-initrd".to_owned(),
    ];
    request.pcr = Some(pcr);
    let built = build_uki(&request, &Silent).unwrap();
    let bytes = fs::read(&request.output).unwrap();
    assert_eq!(
        section(&bytes, &built, ".pcrpkey"),
        fs::read(&public).unwrap()
    );
    let ours: Value = serde_json::from_slice(section(&bytes, &built, ".pcrsig")).unwrap();
    assert_eq!(ours["sha256"].as_array().unwrap().len(), 2);

    let theirs = ukify(
        dir,
        &root,
        &request,
        &[
            &format!("--tools={}", dir.display()),
            &format!("--pcr-private-key={}", key.display()),
            &format!("--pcr-public-key={}", public.display()),
            "--pcr-banks=sha256",
            "--phases=enter-initrd,enter-initrd:leave-initrd",
        ],
    );
    let start = theirs
        .windows(10)
        .rposition(|w| w == b"{\"sha256\":")
        .unwrap();
    let end = start + theirs[start..].iter().position(|&b| b == 0).unwrap();
    let theirs: Value = serde_json::from_slice(&theirs[start..end]).unwrap();
    assert_eq!(ours, theirs);
}

#[test]
fn systemd_sbsign_signs_as_well() {
    let Some(root) = root() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (key, certificate, _) = keys(dir, "k");
    let tool = of_root(dir, &root, "usr/lib/systemd/systemd-sbsign");
    let mut request = real(dir, &root);
    request.signing = Some(UkiSigning {
        key: KeySource::File(key),
        certificate: certificate.clone(),
        tool: Some(SigningTool::SystemdSbsign(tool)),
    });
    assert!(build_uki(&request, &Silent).unwrap().signed);
    let args = ["--cert", certificate.to_str().unwrap(), "ours.efi"];
    run(dir, "sbverify", &args);
}
