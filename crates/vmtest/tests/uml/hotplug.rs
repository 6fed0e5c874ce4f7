//! Disks that come while storage-init waits: the kernel's management console
//! plugs them in (Documentation/virt/uml/user_mode_linux_howto_v2.rst,
//! arch/um/drivers/mconsole.h).

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use builder::Selector;
use libtest_mimic::Failed;
use vmtest::disk::Partition;

use crate::Test;
use crate::support::{Boot, FIRST, Ground, SECOND, Seen, on_esp, partition_at};
use crate::volumes;

pub(crate) const TESTS: &[Test] = &[
    Test::new("a_disk_that_comes_late_is_taken_at_once", late),
    Test::new("a_late_esp_is_taken_after_one_without_image", second_esp),
    Test::new("a_late_better_candidate_is_taken_within_the_grace", better),
];

/// When the disk comes, after storage-init has begun to wait.
const DELAY: Duration = Duration::from_millis(700);

/// How long a disk may take from being plugged in to being taken, in seconds.
const AT_ONCE: f64 = 1.5;

/// Asks the guest whose control socket is in `folder` to do something.
fn ask(folder: &Path, command: &str) {
    let socket = UnixDatagram::bind(folder.join("answer")).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    // struct mconsole_request: magic, version, length, 512 bytes.
    let len = u32::try_from(command.len()).unwrap();
    let mut request = Vec::new();
    for word in [0xcafe_babe, 2, len] {
        request.extend(u32::to_ne_bytes(word));
    }
    request.extend(command.as_bytes());
    request.resize(12 + 512, 0);
    socket
        .send_to(&request, folder.join("guest/mconsole"))
        .unwrap();
    // struct mconsole_reply: error, more, length, text.
    let mut reply = [0; 12 + 512];
    let len = socket.recv(&mut reply).unwrap();
    let text = String::from_utf8_lossy(&reply[12..len]).into_owned();
    assert_eq!(reply[..4], [0; 4], "{command}: {text}");
}

/// Boots, and plugs `disk` in as ubdb while storage-init waits; checks when the
/// image was found. (The kernel takes ubda as configured in any case.)
fn boot_with(boot: &mut Boot<'_>, disk: &Path) -> Seen {
    // A socket's path has at most 107 bytes.
    let control = tempfile::tempdir().unwrap();
    boot.words(&format!("uml_dir={}/", control.path().display()));
    boot.words("testinit.sum=/data");
    let outcome = boot
        .prepare()
        .run_until("the end", Duration::from_secs(40), |line| {
            if line.text.contains("[stage plan]") {
                std::thread::sleep(DELAY);
                ask(control.path(), &format!("config ubd1={}", disk.display()));
            }
            line.text.contains("reboot: ")
        })
        .unwrap();
    let seen = Seen { outcome };
    seen.expects("TESTINIT end");
    seen.data_is_intact();
    let took = seen.expects("[stage device]") - seen.expects("[stage plan]");
    let delay = DELAY.as_secs_f64();
    assert!(
        (delay - 0.1..delay + AT_ONCE).contains(&took),
        "{took} s\n{}",
        seen.outcome.text()
    );
    seen.rejects("on suspicion");
    seen
}

/// Makes a disk that is not there from the beginning.
fn unplugged(boot: &mut Boot<'_>, partition: Partition) -> PathBuf {
    boot.disk(&[partition]);
    boot.unplug()
}

fn late(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(
        ground,
        &[partition_at("partition", Selector::PartUuid(FIRST))],
    );
    let image = Partition::root(FIRST, boot.image()).unwrap();
    let disk = unplugged(&mut boot, image);
    boot_with(&mut boot, &disk).expects("[stage image] /dev/ubdb1");
    Ok(())
}

fn second_esp(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(ground, &[on_esp()]);
    boot.esp(volumes::without_image);
    let volume = boot.path("second");
    volumes::fat32(&volume, boot.image());
    let esp = Partition::esp(SECOND, &volume).unwrap();
    let disk = unplugged(&mut boot, esp);
    let seen = boot_with(&mut boot, &disk);
    seen.expects("no image on /dev/ubda1");
    seen.expects("on /dev/ubdb1");
    Ok(())
}

/// The second candidate is there all the time.
fn better(ground: &Ground) -> Result<(), Failed> {
    let mut boot = Boot::new(
        ground,
        &[
            partition_at("better", Selector::PartUuid(SECOND)),
            partition_at("there", Selector::PartUuid(FIRST)),
        ],
    );
    boot.disk(&[Partition::root(FIRST, boot.image()).unwrap()]);
    let image = Partition::root(SECOND, boot.image()).unwrap();
    let disk = unplugged(&mut boot, image);
    boot_with(&mut boot, &disk).expects("[stage image] /dev/ubdb1");
    Ok(())
}
