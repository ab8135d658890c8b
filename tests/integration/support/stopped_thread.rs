//! One thread of another process that stands still, as a debugger makes it.

#![expect(unsafe_code, reason = "ptrace(2) has no safe wrapper in the crates we use")]

use std::io;
use std::marker::PhantomData;
use std::ptr::null_mut;

/// Goes on at the drop, which has to be on the same thread: ptrace(2) obeys the thread that attached alone.
pub struct StoppedThread {
    id: libc::pid_t,
    on_one_thread: PhantomData<*const ()>,
}

impl StoppedThread {
    #[track_caller]
    pub fn new(id: u32) -> Self {
        let id = id as libc::pid_t;
        let on_one_thread = PhantomData;
        for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
            assert_eq!(ask(request, id), 0, "{}", io::Error::last_os_error());
        }
        let stopped = Self { id, on_one_thread };
        // SAFETY: the kernel writes no status where none is wanted.
        let waited = unsafe { libc::waitpid(id, null_mut(), libc::__WALL) };
        assert_eq!(waited, id, "{}", io::Error::last_os_error());
        stopped
    }
}

fn ask(request: libc::c_uint, id: libc::pid_t) -> libc::c_long {
    // SAFETY: these requests read and write no memory of this process.
    unsafe { libc::ptrace(request, id, null_mut::<libc::c_void>(), null_mut::<libc::c_void>()) }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        if ask(libc::PTRACE_DETACH, self.id) != 0 {
            // It has died, and its process stays until its death is read.
            // SAFETY: the kernel writes no status where none is wanted.
            unsafe { libc::waitpid(self.id, null_mut(), libc::__WALL) };
        }
    }
}
