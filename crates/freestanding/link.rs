// Links a program without libc and its start files, as a static one: the build
// script of those that need nothing else of the linker, which include it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Without a build id, the same source gives the same bytes.
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
