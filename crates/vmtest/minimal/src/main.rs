//! The least that can boot a verified image, as somebody would write it by hand
//! for one machine: the limit that the bench holds storage-init against.
//!
//! It looks for nothing, proves nothing before the kernel does, reports nothing
//! and has no way back. `/steps` in its initramfs says, a line each, in this
//! order:
//!
//! * `module PATH`: a module to load, one after the other;
//! * `verity SECTORS PARAMETERS`: the device-mapper table of the image;
//! * `init PATH`: what to execute in it.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec;

use freestanding::{Heap, Start};
use kernel_abi::dm::{Mapper, Target};
use kernel_abi::kmsg::{self, Level};
use kernel_abi::mount::{self, Flags};
use kernel_abi::power::{self, Power};
use kernel_abi::{file, module, process};

#[global_allocator]
static HEAP: Heap<{ 1 << 20 }> = Heap::new();

freestanding::entry!(main);

fn main(start: Start) -> ! {
    let Err(why) = boot(&start);
    stop(&why)
}

/// Returns only if something fails.
fn boot(start: &Start) -> Result<core::convert::Infallible, String> {
    let text = |error: kernel_abi::Error| format!("{error}");
    mount::mount("dev", "/dev", "devtmpfs", Flags::empty(), "").map_err(text)?;
    let steps = file::read("/steps", 65_536).map_err(text)?;
    let steps = String::from_utf8(steps).map_err(|_| String::from("/steps is no text"))?;
    for step in steps.lines() {
        match step.split_once(' ') {
            Some(("module", path)) => module::load(path, "").map_err(text)?,
            Some(("verity", table)) => verity(table)?,
            Some(("init", init)) => return Err(enter(init, start)),
            _ => return Err(format!("no such step: {step}")),
        }
    }
    Err(String::from("/steps names no init"))
}

fn verity(table: &str) -> Result<(), String> {
    let (len, params) = table.split_once(' ').ok_or("no parameters")?;
    let len = len.parse().map_err(|_| format!("no length: {len}"))?;
    let target = Target {
        start: 0,
        len,
        kind: "verity".into(),
        params: params.into(),
    };
    let mapped = Mapper::open()
        .and_then(|mapper| mapper.create("image", "", &[target]))
        .map_err(|error| format!("{error}"))?;
    root(&mapped.path).map_err(|error| format!("{error}"))
}

/// Image, overlay, `/dev`.
fn root(image: &str) -> kernel_abi::Result<()> {
    mount::mount(image, "/image", "erofs", Flags::RDONLY, "")?;
    mount::mount("tmpfs", "/writable", "tmpfs", Flags::empty(), "mode=0755")?;
    file::mkdir("/writable/upper")?;
    file::mkdir("/writable/work")?;
    let options = "lowerdir=/image,upperdir=/writable/upper,workdir=/writable/work,volatile";
    mount::mount("overlay", "/root", "overlay", Flags::empty(), options)?;
    mount::move_mount("/dev", "/root/dev")
}

/// Becomes `init`; why it could not.
fn enter(init: &str, start: &Start) -> String {
    // Found by the bench, in the old root's /dev, which is in the new one now.
    let moved = mount::chdir("/root").and_then(|()| mount::move_to_root());
    if let Err(error) = moved {
        return format!("{error}");
    }
    kmsg::write_raw(Level::Critical, "INITOVERLAYFS-MINIMAL ", "exec");
    match CString::new(init) {
        Ok(path) => {
            let args = vec![path.clone()];
            format!("{}", process::exec(&path, &args, &start.env))
        }
        Err(_) => String::from("the init's path has a NUL byte"),
    }
}

fn stop(why: &str) -> ! {
    kmsg::write(Level::Critical, "INITOVERLAYFS-MINIMAL failed: ", why);
    power::act(Power::Off);
    loop {
        process::sleep(1_000_000);
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    stop(&format!("{info}"))
}
