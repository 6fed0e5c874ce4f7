//! `cargo xtask demo`: Debian 13 boots through storage-init; then the same boot
//! as its own initramfs does it, and both side by side.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qemu_driver::{Accel, Exit, Idle, Outcome};
use vmtest::dist;
use vmtest::guest::{self, Guest};
use vmtest::set::{Recipe, Set};

use crate::boots::{Cost, Way};
use crate::step;
use crate::table::{mib, render};

/// The task.
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    step::packages()?;
    println!("building initoverlayfs, storage-init and run-init");
    let dist = dist::build(&step::logs()?.join("dist.log"))?;
    let guest = step::guest()?;
    let accel = Accel::detect()?;
    let folder = tempfile::tempdir()?;

    let set_dir = folder.path().join("set");
    let initrd = guest.dracut_initrd();
    let recipe = Recipe {
        dist: &dist,
        guest: &guest,
        initrd: &initrd,
        // What `--modules host` chooses on such a machine.
        modules: "virtio-blk",
        options: &[],
    };
    let mut build = recipe.command(&set_dir);
    println!("\n$ {}", show(&build));
    if !build.status()?.success() {
        return Err("the build failed".into());
    }
    let set = Set::open(&set_dir)?;

    println!("\nmaking a GPT disk: an ESP with the image, an ext4 root");
    let disk = folder.path().join("disk.img");
    set.disk(&disk, &guest, 512)?;

    let slow = match accel {
        Accel::Kvm => "KVM",
        Accel::Tcg => "emulated, KVM does not work here: this takes a minute or two",
    };
    println!("\nbooting through storage-init ({slow})\n");
    let ours = Way {
        name: "initoverlayfs".to_owned(),
        initrd: set.mini_initramfs(),
        append: String::new(),
        disk: disk.clone(),
    };
    let ours_outcome = boot(&ours, &guest, accel, true)?;
    println!("\nbooting with dracut's initramfs alone (without its console)");
    let plain = Way {
        name: "dracut alone".to_owned(),
        initrd: guest.dracut_initrd(),
        append: String::new(),
        disk,
    };
    let plain_outcome = boot(&plain, &guest, accel, false)?;
    println!();
    print_table(&set, &[(&ours, &ours_outcome), (&plain, &plain_outcome)])?;
    println!(
        "\n{}",
        match accel {
            Accel::Tcg =>
                "Times count the guest's instructions, a nanosecond each: the load of this machine\n\
                 does not change them. `cargo xtask bench boot` compares more, and more often.",
            Accel::Kvm =>
                "Times are the guest's clock. `cargo xtask bench boot` counts instructions\n\
                 instead, which the load of this machine does not change.",
        }
    );
    Ok(())
}

fn boot(way: &Way, guest: &Guest, accel: Accel, show: bool) -> Result<Outcome, Box<dyn Error>> {
    let tee: Option<Box<dyn io::Write + Send>> = match show {
        true => Some(Box::new(io::stdout())),
        false => None,
    };
    // Emulated, the guest's clock can count instructions: the same every time,
    // whatever else this machine does.
    let counted = (accel == Accel::Tcg).then_some(Idle::RealTime);
    let outcome = way.boot(guest, accel, counted, tee)?;
    if outcome.exit != Exit::PowerOff || outcome.find(guest::REACHED).is_none() {
        return Err(format!(
            "{}: the guest did not reach multi-user ({:?})",
            way.name, outcome.exit
        )
        .into());
    }
    Ok(outcome)
}

fn print_table(set: &Set, boots: &[(&Way, &Outcome)]) -> Result<(), Box<dyn Error>> {
    let size = |path: &Path| fs::metadata(path).map(|meta| mib(meta.len()));
    let image = [size(&set.image)?, "-".to_owned()];
    let mut rows = vec![
        vec![String::new()],
        vec!["loaded whole by the firmware".to_owned()],
        vec!["image, read in part".to_owned()],
        vec!["first init starts".to_owned()],
        vec!["root's init starts".to_owned()],
        vec!["multi-user".to_owned()],
        vec!["read from the disk".to_owned()],
        vec!["memory touched".to_owned()],
    ];
    for ((way, outcome), image) in boots.iter().zip(image) {
        let cost = Cost::of(outcome);
        let cells = [
            way.name.clone(),
            size(&way.initrd)?,
            image,
            seconds(cost.first_init),
            seconds(cost.root_init),
            seconds(cost.multi_user),
            mib(cost.read),
            mib(cost.touched),
        ];
        for (row, cell) in rows.iter_mut().zip(cells) {
            row.push(cell);
        }
    }
    print!("{}", render(&rows));
    Ok(())
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("-".to_owned(), |time| {
        format!("{:.2} s", time.as_secs_f64())
    })
}

/// A command as one would type it.
fn show(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let home = std::env::var("HOME").unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words
        .map(|word| {
            let word = word.to_string_lossy();
            match word.strip_prefix(home.as_str()) {
                Some(rest) if !home.is_empty() && rest.starts_with('/') => format!("~{rest}"),
                _ => word.into_owned(),
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}
