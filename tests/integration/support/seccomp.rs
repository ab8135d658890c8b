//! System calls that fail in a child process, as in a container that forbids them.

#![expect(unsafe_code, reason = "a seccomp filter is installed with prctl(2)")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has a system call fail with `errno` in the process that `command` starts; with `first`, only with that
/// first argument.
pub fn forbid(command: &mut Command, call: libc::c_long, first: Option<u32>, errno: i32) {
    // SAFETY: between fork and exec only async-signal-safe calls are made: two of prctl(2), no allocation.
    unsafe { command.pre_exec(move || install(call as u32, first, errno)) };
}

fn install(call: u32, first: Option<u32>, errno: i32) -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let unless = |k, skip| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skip,
        k,
    };
    let mut program = [
        // Of `seccomp_data` the number of the call is the first field, and the arguments begin at 16.
        load(0),
        unless(call, 3),
        load(16),
        match first {
            Some(first) => unless(first, 1),
            None => unless(0, 0),
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel copies the program, which outlives the call.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
