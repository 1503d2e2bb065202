//! The program of every pod sandbox: it holds the pod's namespaces open.
//!
//! It waits for signals, reaps the orphans that a shared process namespace leaves to it, and exits
//! on SIGINT and SIGTERM. Without the standard library and without libc, so that it links with
//! nothing and is a few KiB; compiled by `build.rs`, apart from the crate.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: usize = 2;
const SIGTERM: usize = 15;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
/// Size of the kernel's signal set, in bytes.
const SIGSET_BYTES: usize = 8;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const EXIT_GROUP: usize = 94;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
}

// The kernel enters with the stack aligned to 16 bytes and no return address on it.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "call {main}", "ud2", main = sym main);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "bl {main}", "brk #1", main = sym main);

#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d,
            options(nostack));
    }
    result
}

extern "C" fn main() -> ! {
    // Blocked signals stay queued also for process 1 of a namespace, which ignores unhandled ones.
    let all: u64 = !0;
    let set = &raw const all as usize;
    unsafe { syscall(number::RT_SIGPROCMASK, SIG_BLOCK, set, 0, SIGSET_BYTES) };
    loop {
        let signal = unsafe { syscall(number::RT_SIGTIMEDWAIT, set, 0, 0, SIGSET_BYTES) };
        if signal == SIGINT as isize || signal == SIGTERM as isize {
            unsafe { syscall(number::EXIT_GROUP, 0, 0, 0, 0) };
        }
        // any other wake-up: reap whatever has ended
        while unsafe { syscall(number::WAIT4, usize::MAX, 0, WNOHANG, 0) } > 0 {}
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        unsafe { syscall(number::EXIT_GROUP, 2, 0, 0, 0) };
    }
}
