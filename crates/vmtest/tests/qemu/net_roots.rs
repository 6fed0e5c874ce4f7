//! A root that comes over the network: iSCSI from a target in user space (tgt)
//! on the host's loopback interface, which QEMU's user network shows the guest
//! as 10.0.2.2.
//!
//! initramfs-tools goes straight to the target that it is told. dracut first asks it
//! where it is and takes only the address that it was given: the target answers
//! with that on which it was reached, 127.0.0.1, which is not the guest's 10.0.2.2.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use qemu_driver::{Arch, Boot, Machine};
use vmtest::debian::Chroot;
use vmtest::matrix::{Reached, Row};
use vmtest::{command, guest};

use crate::Test;
use crate::roots::{FACTS, Roots, Stage, is_sound, run};
use crate::support::{CONSOLE, Ground};
use crate::trust::with_image;

pub(crate) const TESTS: &[Test] = &[Test::slow(NAME, iscsi)];

const NAME: &str = "iscsi";

const TARGET: &str = "iqn.2026-01.test.initoverlayfs:root";

/// How long the target may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The image is on a disk, the root is not.
fn iscsi(ground: &Ground) -> Result<(), Failed> {
    let roots = Roots::of(ground)?;
    let set = roots.set(ground, Stage::InitramfsTools)?;
    let dir = ground.dir().join(NAME);
    fs::create_dir_all(&dir)?;
    // Written to by the guest.
    let volume = dir.join("root.ext4");
    fs::copy(roots.storage.root_image(), &volume)?;
    let target = Target::start(&roots.storage.tree(), &dir, "root.ext4")?;
    let disk = ground.esp_disk(&dir.join("disk.img"), &with_image(set, "", None)?)?;
    let append = format!(
        "{CONSOLE} root=LABEL={} rw ip=dhcp iscsi_target_name={TARGET} \
         iscsi_target_ip=10.0.2.2 iscsi_target_port={} \
         iscsi_initiator=iqn.2026-01.test.initoverlayfs:guest {FACTS}",
        guest::ROOT_LABEL,
        target.port
    );
    let boot = Boot::Direct {
        kernel: ground.guest.kernel(),
        initrd: Some(set.mini_initramfs()),
        append,
    };
    let mut machine = Machine::new(Arch::X86_64, ground.accel(), boot);
    machine.disks.push(disk);
    for word in [
        "-netdev",
        "user,id=net",
        "-device",
        "virtio-net-pci,netdev=net",
    ] {
        machine.extra.push(word.into());
    }
    let outcome = run(&machine, None)?;
    drop(target);
    fs::remove_dir_all(&dir)?;
    is_sound(&outcome, &["/dev/sda ext4"])?;
    let row = Row {
        bus: "virtio-blk".to_owned(),
        kernel: ground.kernel_name(),
        stage: Stage::InitramfsTools.name().to_owned(),
        root: "ext4 over iSCSI".to_owned(),
        reached: Reached::MultiUser,
        test: NAME.to_owned(),
    };
    row.record()?;
    Ok(())
}

/// A running target. Dropping it ends it.
#[derive(Debug)]
struct Target {
    daemon: Child,
    port: u16,
    tree: PathBuf,
    dir: PathBuf,
}

impl Target {
    /// Serves the file `name` of the folder `dir`.
    fn start(tree: &Path, dir: &Path, name: &str) -> Result<Self, Failed> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        fs::create_dir_all(dir.join("run"))?;
        let portal = format!("portal=127.0.0.1:{port}");
        let daemon = inside(tree, dir)
            .command(&["tgtd", "--foreground", "--iscsi", &portal])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let target = Self {
            daemon,
            port,
            tree: tree.to_owned(),
            dir: dir.to_owned(),
        };
        let deadline = Instant::now() + START_LIMIT;
        while let Err(error) = target.admin(&["--mode", "target", "--op", "show"]) {
            if Instant::now() >= deadline {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(200));
        }
        let file = format!("{WORK}/{name}");
        for words in [
            &[
                "--mode", "target", "--op", "new", "--tid", "1", "-T", TARGET,
            ][..],
            &[
                "--mode",
                "logicalunit",
                "--op",
                "new",
                "--tid",
                "1",
                "--lun",
                "1",
                "-b",
                &file,
            ],
            &[
                "--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL",
            ],
        ] {
            target.admin(words)?;
        }
        Ok(target)
    }

    fn admin(&self, words: &[&str]) -> Result<(), Failed> {
        let mut args = vec!["tgtadm", "--lld", "iscsi"];
        args.extend(words);
        command::output(&mut inside(&self.tree, &self.dir).command(&args))?;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // unshare takes the daemon with it. Neither fails for a child of ours.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Where the target finds the folder.
const WORK: &str = "/mnt";

/// Programs of the tree, which see `dir` and have a /run of their own in it.
fn inside(tree: &Path, dir: &Path) -> Chroot {
    Chroot::new(tree)
        .bind(dir, WORK)
        .bind(dir.join("run"), "/run")
}
