//! Compiles `pause/pause.rs`, the program every pod sandbox runs, to a static binary of a few KiB that
//! the crate embeds. It needs only the Rust compiler and the system linker: no libc, no network.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=pause/pause.rs");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("pause");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let mut command = Command::new(rustc);
    command
        .args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "pause"])
        .args(["--target", &target])
        .args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(["-C", "relocation-model=static", "-C", "debuginfo=0"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib", "-C", "link-arg=-static"])
        // one page-aligned segment less for each of these: the file shrinks from 9 KiB to 1
        .args(["-C", "link-arg=-Wl,-z,noseparate-code,--build-id=none,-n"])
        .arg("-o")
        .arg(&out)
        .arg("pause/pause.rs");
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        command.arg("-C").arg(option);
    }
    let status = command.status().expect("rustc starts");
    assert!(status.success(), "compiling pause/pause.rs failed: {status}");
}
