//! Against a real distribution: set `IOFS_TEST_MODULES_ROOT` to a root tree with
//! a kernel (Debian 13), and `IOFS_TEST_INITRDS` to initramfs files of it,
//! separated by `:`. Without them nothing of this can be tested and the tests
//! say so.

use builder::*;
use std::path::PathBuf;

struct Loud;
impl Progress for Loud {
    fn warn(&self, message: &str) {
        println!("warning: {message}");
    }
}

#[test]
fn try_all() {
    let root = PathBuf::from(std::env::var_os("IOFS_TEST_MODULES_ROOT").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let release = kernel_release(&root).unwrap();
    println!(
        "{release} {}",
        kernel_release_of_image(&kernel_image(&root, &release).unwrap()).unwrap()
    );
    for (name, modules) in [
        ("drivers", Modules::Drivers(vec!["virtio_blk".into()])),
        (
            "host",
            Modules::Host(HostDisks {
                sysfs: "/sys".into(),
                devices: boot_disks("/sys".as_ref()).unwrap(),
            }),
        ),
        ("generic", Modules::Generic),
    ] {
        let mut request = MiniRequest::new(
            dir.path().join(name),
            "/proc/self/exe".into(),
            Kernel {
                release: release.clone(),
                sysroot: root.clone(),
                modules_dir: None,
            },
        );
        request.storage_init = "/bin/true".into();
        request.modules = modules;
        request.candidates = vec![Candidate {
            name: "esp".into(),
            partition: Selector::PartLabel("x".into()),
            file: Some("/a".into()),
            expect: Expect {
                size: 1,
                ..Expect::default()
            },
        }];
        for compression in [
            Compression::Zstd,
            Compression::Lz4,
            Compression::None,
            Compression::ZstdLevel(3),
            Compression::ZstdLevel(9),
            Compression::ZstdLevel(12),
            Compression::ZstdLevel(15),
            Compression::ZstdLevel(17),
            Compression::ZstdLevel(19),
        ] {
            request.compression = compression;
            let built = build_mini(&request, &Loud).unwrap();
            let s = &built.summary;
            println!(
                "{name} {compression:?}: {} of {} plan {} aliases {} modules {} {:?}",
                s.bytes,
                s.raw_bytes,
                s.plan_bytes,
                s.aliases,
                s.modules.len(),
                s.times
            );
            std::fs::copy(
                dir.path().join(name),
                format!("/tmp/w/b/{name}.{compression:?}"),
            )
            .unwrap();
            if compression == Compression::None {
                for m in &s.modules {
                    println!("  {} {} {} {}", m.name, m.bytes, m.role, m.reason);
                }
            }
        }
    }
    for initrd in std::env::var("IOFS_TEST_INITRDS")
        .unwrap()
        .split(':')
        .filter(|s| !s.is_empty())
    {
        let mut request =
            ImageRequest::new(Source::Initrd(initrd.into()), dir.path().join("image"));
        request.run_init = Some("/bin/true".into());
        request.work_dir = Some("/tmp".into());
        let built = build_image(&request, &Loud).unwrap();
        println!("{}", serde_json::to_string_pretty(&built.summary).unwrap());
    }
}
