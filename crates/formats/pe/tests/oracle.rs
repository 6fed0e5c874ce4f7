//! GNU objdump, sbsign and sbverify agree with what is written here.

// Helpers here are test code too; clippy.toml only covers the tests proper.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use common::{OPTIONAL, SBAT, stub};
use iofs_pe::{Appender, Characteristics, Content, Image, Machine};
use std::fs;
use std::path::Path;
use std::process::Command;

fn run(dir: &Path, program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| {
            panic!("this test needs {program} (binutils, sbsigntool, openssl): {error}")
        });
    assert!(
        output.status.success(),
        "{program} {args:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn uki() -> Vec<u8> {
    let mut appender = Appender::new(&stub()).unwrap();
    appender
        .append(".osrel", b"ID=test\n", Content::Data)
        .unwrap();
    appender
        .append(".linux", &[7; 5000], Content::Code)
        .unwrap();
    appender
        .append(".initrd", &[9; 512], Content::Data)
        .unwrap();
    let sbat = iofs_pe::sbat::merge(&[SBAT, iofs_pe::sbat::UKI.as_bytes()]).unwrap();
    appender.replace(".sbat", &sbat).unwrap();
    appender.clear_nx_compatible();
    appender.finish().unwrap()
}

#[test]
fn what_was_added_is_where_it_should_be() {
    let built = uki();
    assert_eq!(built, uki());
    let image = Image::read(&built).unwrap();
    assert_eq!(image.machine, Machine::AMD64);
    assert_eq!((image.section_alignment, image.file_alignment), (4096, 512));
    assert!(!image.is_signed() && !image.nx_compatible());
    let names: Vec<String> = image.sections.iter().map(|s| s.name.to_string()).collect();
    assert_eq!(
        names,
        [".text", ".sbat", ".reloc", ".osrel", ".linux", ".initrd"]
    );
    let linux = image.section(".linux").unwrap();
    assert_eq!((linux.virtual_address, linux.virtual_size), (0x5000, 5000));
    assert_eq!((linux.file_offset % 512, linux.file_size), (0, 5120));
    assert_eq!(
        linux.characteristics,
        Characteristics::CODE | Characteristics::READ
    );
    assert_eq!(image.size_of_image, 0x8000);
    // SizeOfInitializedData grew by what was added; the checksum is 0.
    assert_eq!(
        built[OPTIONAL + 8..OPTIONAL + 12],
        (0x400_u32 + 8 + 5000 + 512).to_le_bytes()
    );
    assert_eq!(built[OPTIONAL + 64..OPTIONAL + 68], [0; 4]);
    // Nothing that was there has moved.
    let stub = stub();
    let before = Image::read(&stub).unwrap();
    for (old, new) in before.sections.iter().zip(&image.sections) {
        assert_eq!(
            (old.file_offset, old.virtual_address),
            (new.file_offset, new.virtual_address)
        );
        if old.name != ".sbat" {
            let range = old.data().start as usize..old.data().end as usize;
            assert_eq!(stub[range.clone()], built[range]);
        }
    }
}

#[test]
fn objdump_sees_the_same_sections() {
    let dir = tempfile::tempdir().unwrap();
    let built = uki();
    fs::write(dir.path().join("uki.efi"), &built).unwrap();
    let listing = run(dir.path(), "objdump", &["-h", "-w", "uki.efi"]);
    let mut lines = listing.lines().skip_while(|line| !line.starts_with("Idx"));
    lines.next();
    let image = Image::read(&built).unwrap();
    let mut seen = 0;
    for (line, section) in lines.zip(&image.sections) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = |at: usize| u64::from_str_radix(fields[at], 16).unwrap();
        assert_eq!(fields[1], section.name.to_string());
        assert_eq!(hex(2), u64::from(section.virtual_size), "{line}");
        assert_eq!(hex(3), u64::from(section.virtual_address), "{line}");
        assert_eq!(hex(5), u64::from(section.file_offset), "{line}");
        let code = section.characteristics.contains(Characteristics::CODE);
        assert!(line.contains("READONLY"), "{line}");
        assert_eq!(line.contains("CODE"), code, "{line}");
        seen += 1;
    }
    assert_eq!(seen, 6, "{listing}");
}

#[test]
fn sbsign_signs_it_and_sbverify_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let built = uki();
    fs::write(dir.join("uki.efi"), &built).unwrap();
    let subject = [
        "-subj", "/CN=test", "-keyout", "key.pem", "-out", "cert.pem",
    ];
    let mut request = vec![
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    ];
    request.extend(subject);
    run(dir, "openssl", &request);
    let sign = [
        "--key",
        "key.pem",
        "--cert",
        "cert.pem",
        "--output",
        "signed.efi",
        "uki.efi",
    ];
    run(dir, "sbsign", &sign);
    run(dir, "sbverify", &["--cert", "cert.pem", "signed.efi"]);
    let mut signed = fs::read(dir.join("signed.efi")).unwrap();
    let image = Image::read(&signed).unwrap();
    let certificates = image.certificates.clone().unwrap();
    assert_eq!(certificates.end, signed.len() as u64);
    assert!(certificates.start >= built.len() as u64);
    assert_eq!(image.sections, Image::read(&built).unwrap().sections);
    assert_eq!(
        Appender::new(&signed).unwrap_err(),
        iofs_pe::AppendError::Signed
    );

    // sbverify really looks at what was added.
    let at = image.section(".initrd").unwrap().data().start as usize;
    signed[at] ^= 1;
    fs::write(dir.join("flipped.efi"), &signed).unwrap();
    let verify = Command::new("sbverify")
        .args(["--cert", "cert.pem", "flipped.efi"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(!verify.status.success());
}
