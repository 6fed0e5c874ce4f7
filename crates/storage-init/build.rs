//! Links the binaries without libc and its start files, as static programs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // --build-id is left out by the linker flag: the same source gives the same
    // bytes. -z noseparate-code saves two pages of padding between segments.
    for argument in [
        "-nostartfiles",
        "-nodefaultlibs",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--gc-sections",
        "-Wl,-z,noseparate-code",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
