//! Packs: modules that only some machines need, compressed by the group.
//!
//! A pack is one zstd frame; the plan says where in its content each module
//! lies. A worker process unpacks a whole pack into the folder of the modules,
//! so what it takes is given back when it ends.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use iofs_plan::BootPlan;
use kernel_abi::{Errno, errno_text, file};
use ruzstd::decoding::FrameDecoder;

/// Writes the modules of pack `index` of the plan, whose file is in the folder
/// `packs`, to the folder `modules`.
///
/// # Errors
/// BADMSG if the pack is not a zstd frame with the content that the plan says
/// it has; else the kernel's.
pub fn unpack(plan: &BootPlan, index: u16, packs: &str, modules: &str) -> Result<(), Errno> {
    let pack = plan.packs.get(usize::from(index)).ok_or(Errno::INVAL)?;
    let size = pack.size as usize;
    // Compressed data is never longer than its content by more than a hundredth.
    let limit = size.saturating_add(size >> 6).saturating_add(4096);
    let frame = file::read(&file::join(packs, &pack.file), limit).map_err(|e| e.errno())?;
    let content = decompress(&frame, size).ok_or(Errno::BADMSG)?;
    for module in &plan.modules {
        let Some(packed) = module.packed.filter(|packed| packed.pack == index) else {
            continue;
        };
        let bytes = content.get(packed.range()).ok_or(Errno::BADMSG)?;
        file::write(&file::join(modules, &module.file), bytes).map_err(|e| e.errno())?;
    }
    Ok(())
}

/// The content of a frame, if it is exactly `size` bytes long.
fn decompress(frame: &[u8], size: usize) -> Option<Vec<u8>> {
    decompress_at_most(frame, size).filter(|content| content.len() == size)
}

/// The content of a zstd frame, if it is not longer than `limit` bytes.
#[must_use]
pub fn decompress_at_most(frame: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut content = vec![0; limit];
    let len = FrameDecoder::new().decode_all(frame, &mut content).ok()?;
    content.truncate(len);
    Some(content)
}

/// What an errno of [`unpack`] means.
#[must_use]
pub fn explain(errno: u8) -> String {
    match Errno::from_raw_os_error(i32::from(errno)) {
        Errno::BADMSG => "it is damaged; build the mini-initramfs again",
        Errno::NOENT => "its file is missing; build the mini-initramfs again",
        other => errno_text(other).unwrap_or("it could not be unpacked"),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use iofs_plan::{Module, Pack, Packed, Role};
    use std::format;
    use std::path::Path;

    fn content() -> Vec<u8> {
        (0..300_000u32).map(|n| (n / 7 % 251) as u8).collect()
    }

    fn plan(size: usize) -> BootPlan {
        let module = |name: &str, offset, len| Module {
            name: name.into(),
            file: format!("{name}.ko"),
            packed: Some(Packed {
                pack: 0,
                offset,
                len,
            }),
            params: String::new(),
            role: Role::Bus,
            needs: Vec::new(),
            required: true,
            fallback_for: Vec::new(),
        };
        BootPlan {
            packs: vec![Pack {
                file: "ata.zst".into(),
                size: u32::try_from(size).unwrap(),
            }],
            modules: vec![module("libata", 0, 1000), module("ahci", 1000, 299_000)],
            ..BootPlan::default()
        }
    }

    fn run(dir: &Path, frame: &[u8], size: usize) -> Result<(), Errno> {
        std::fs::write(dir.join("ata.zst"), frame).unwrap();
        let folder = dir.to_str().unwrap();
        unpack(&plan(size), 0, folder, folder)
    }

    #[test]
    fn modules_come_out_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let content = content();
        for level in [1, 3, 19] {
            let frame = zstd::bulk::compress(&content, level).unwrap();
            run(dir.path(), &frame, content.len()).unwrap();
            let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
            assert!(read("libata.ko") == content[..1000]);
            assert!(read("ahci.ko") == content[1000..]);
        }
    }

    #[test]
    fn what_is_no_such_pack_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let content = content();
        let frame = zstd::bulk::compress(&content, 3).unwrap();
        for len in (0..frame.len()).step_by(7) {
            assert!(run(dir.path(), &frame[..len], content.len()).is_err());
        }
        assert_eq!(
            run(dir.path(), b"no zstd at all", content.len()),
            Err(Errno::BADMSG)
        );
        // Longer or shorter than the plan says: not what it was made with.
        for size in [content.len() - 1, content.len() + 1] {
            assert_eq!(run(dir.path(), &frame, size), Err(Errno::BADMSG));
        }
        std::fs::remove_file(dir.path().join("ata.zst")).unwrap();
        let folder = dir.path().to_str().unwrap();
        assert_eq!(
            unpack(&plan(content.len()), 0, folder, folder),
            Err(Errno::NOENT)
        );
        assert_eq!(unpack(&plan(1), 1, folder, folder), Err(Errno::INVAL));
        assert!(explain(74).contains("damaged"));
    }
}
