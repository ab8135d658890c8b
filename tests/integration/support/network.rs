//! A network for one test alone.

#![expect(unsafe_code, reason = "unshare(2) has no safe wrapper in the crates we use")]

use std::io::{Error, ErrorKind};
use std::process::Command;

/// Runs a test on a thread in a network of its own, with all threads and processes that it starts: there is loopback and
/// nothing else, and what is set in `/proc/sys/net` is set there. Without the right to make one (`CAP_SYS_ADMIN`) the test
/// is left out, and says so.
pub fn in_own_network(test: impl FnOnce() + Send) {
    let run = || {
        // SAFETY: the call takes a number, and changes nothing but the network of this thread.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            let error = Error::last_os_error();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            return eprintln!("left out: no network of its own: {error}");
        }
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        test();
    };
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Sets what the network of this thread does, by its path in `/proc/sys/net`.
#[track_caller]
pub fn set_network(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
}
