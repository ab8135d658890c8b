//! The processor time of a thread, readable by any other one.

#![expect(unsafe_code, reason = "std has no clocks of threads")]

use std::time::Duration;

/// The CPU clock of one thread, pthread_getcpuclockid(3): user and system time in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// That of the calling thread; `None` where the kernel has none.
    #[must_use]
    pub fn of_this_thread() -> Option<Self> {
        let mut clock = 0;
        // SAFETY: takes nothing, and the calling thread exists.
        let this = unsafe { libc::pthread_self() };
        // SAFETY: `this` lives, as it makes the call; `clock` outlives the call, which fills it.
        let found = unsafe { libc::pthread_getcpuclockid(this, &raw mut clock) };
        (found == 0).then_some(Self(clock))
    }

    /// What the thread has used so far; `None` once it has ended.
    #[must_use]
    pub fn elapsed(self) -> Option<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the clock is a number, stale or not; `time` outlives the call, which fills it.
        let read = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        let seconds = u64::try_from(time.tv_sec).ok()?;
        (read == 0).then(|| Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn another_thread_reads_it_until_the_end() {
        let (tell, told) = channel();
        let (end, ended) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let clock = ThreadClock::of_this_thread().unwrap();
            // Work enough that it shows.
            while clock.elapsed().unwrap() < Duration::from_millis(5) {}
            tell.send(clock).unwrap();
            let _ = ended.recv();
        });
        let clock = told.recv().unwrap();
        let used = clock.elapsed().unwrap();
        assert!(used >= Duration::from_millis(5) && used < Duration::from_secs(5), "{used:?}");
        end.send(()).unwrap();
        thread.join().unwrap();
        // A thread is joined when it gives back its stack; the kernel takes away its number and its clock a little later.
        while clock.elapsed().is_some() {
            std::thread::yield_now();
        }
    }
}
