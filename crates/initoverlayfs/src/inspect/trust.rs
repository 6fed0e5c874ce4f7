//! What proves things: disk images, certificates, UKIs.

use builder::{TrustedCertificate, claimed_root};
use ddi::{Arch, Ddi, Role};
use iofs_pe::Image;
use iofs_source::Window;
use iofs_verity::Superblock;

use super::node::{Fact, Node};
use super::{Described, MAX_DEPTH, View, initramfs, volumes};

/// The longest text of a UKI's section that is shown, in bytes.
const MAX_TEXT: u64 = 64 << 10;

/// Discoverable disk images with a dm-verity tree.
pub(super) fn disk_image(view: &View<'_>) -> Described {
    let found = [Arch::X86_64, Arch::Arm64]
        .into_iter()
        .find_map(|arch| Ddi::read(view.source, arch).ok());
    let Some(image) = found else {
        return Ok(None);
    };
    let mut node = Node::new("disk-image")
        .fact("size", Fact::size(view.source.size()))
        .fact("architecture", image.arch.name());
    node = match claimed_root(&image) {
        // Said by the table; `verify` proves it.
        Ok(root) => node.fact("root_hash", format!("{root} (by its PARTUUIDs)")),
        Err(error) => node.fact("root_hash", error.to_string()),
    };
    let verity = Window::new(view.source, image.verity.start, image.verity.len)
        .map_err(|error| error.to_string())?;
    node = match Superblock::read(&verity) {
        Ok(superblock) => {
            let params = &superblock.params;
            let salt: String = params.salt().iter().map(|b| format!("{b:02x}")).collect();
            node.fact("hash", params.algorithm().name())
                .fact("data_blocks", Fact::number(params.data_blocks()))
                .fact("data_block_size", Fact::size(params.data_block_size()))
                .fact("hash_block_size", Fact::size(params.hash_block_size()))
                .fact("salt", salt)
                .fact("verity_uuid", superblock.uuid.to_string())
        }
        Err(error) => node.fact(
            Role::Verity.suffix().trim_start_matches('-'),
            error.to_string(),
        ),
    };
    node = match image.signature(view.source) {
        Ok(None) => node.fact("signed", false),
        Ok(Some(signature)) => {
            let by = signature.fingerprint.map(|bytes| {
                bytes
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
            });
            node.fact("signed", true)
                .fact("signed_root_hash", signature.root.to_string())
                .fact_if("signer_sha256", by)
        }
        Err(error) => node.fact("signature", error.to_string()),
    };
    Ok(Some(match volumes::gpt(view)? {
        Some(table) => node.part(table),
        None => node,
    }))
}

/// X.509 certificates.
pub(super) fn certificate(view: &View<'_>) -> Described {
    let head = view.bytes(0, 11).unwrap_or_default();
    if !head.starts_with(&[0x30, 0x82]) && head != b"-----BEGIN " {
        return Ok(None);
    }
    if view.source.size() > 2 * iofs_trust::MAX_LEN as u64 {
        return Ok(None);
    }
    let bytes = view.whole("a certificate")?;
    let Ok(certificate) = TrustedCertificate::from_bytes(&bytes) else {
        return Ok(None);
    };
    Ok(Some(
        Node::new("certificate")
            .fact("subject", certificate.describe())
            .fact("id", certificate.parsed().id().to_string())
            .fact("sha256", certificate.fingerprint()),
    ))
}

/// UKIs and other UEFI programs.
pub(super) fn program(view: &View<'_>) -> Described {
    if view.bytes(0, 2).as_deref() != Some(b"MZ") {
        return Ok(None);
    }
    let Ok(image) = Image::read(view.source) else {
        return Ok(None);
    };
    let uki = image.section(".linux").is_some();
    let mut node = Node::new(if uki { "uki" } else { "uefi-program" })
        .fact("size", Fact::size(view.source.size()))
        .fact("machine", image.machine.to_string())
        // Whose signature it is, sbverify says.
        .fact("secure_boot_signature", image.is_signed());
    for (name, key) in [
        (".cmdline", "cmdline"),
        (".uname", "uname"),
        (".osrel", "os_release"),
        (".sbat", "sbat"),
    ] {
        let section = image.section(name).map(|section| section.data());
        let Some(data) = section.filter(|data| data.end - data.start <= MAX_TEXT) else {
            continue;
        };
        let len = usize::try_from(data.end - data.start).unwrap_or(0);
        let Some(bytes) = view.bytes(data.start, len) else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<String> = text
            .trim_matches(['\0', '\n', ' '])
            .lines()
            .map(str::to_owned)
            .collect();
        node = node.fact(key, lines);
    }
    let sections = image.sections.iter().map(|section| {
        let data = section.data();
        format!(
            "{} {} bytes at {}",
            section.name,
            data.end.saturating_sub(data.start),
            data.start
        )
    });
    node = node.fact("sections", sections.collect::<Vec<_>>());
    if let Some(section) = image.section(".initrd").filter(|_| view.depth < MAX_DEPTH) {
        let data = section.data();
        let window = Window::new(view.source, data.start, data.end.saturating_sub(data.start))
            .map_err(|error| error.to_string())?;
        let inner = View {
            source: &window,
            list: view.list,
            depth: view.depth + 1,
        };
        node = match initramfs::describe(&inner) {
            Ok(Some(initramfs)) => node.part(initramfs),
            Ok(None) => node,
            Err(why) => node.fact("initrd_unreadable", why),
        };
    }
    Ok(Some(node))
}
