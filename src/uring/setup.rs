//! Makes the ring, or says in one sentence what the kernel lacks and how to get it.

#![expect(unsafe_code, reason = "operations are tried on a pair of sockets")]

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use io_uring::types::Fd;
use io_uring::{IoUring, Probe, opcode, squeue};
use socket2::SockRef;

use super::locked::{self, COMPLETION_ENTRIES, SUBMISSION_ENTRIES};
use super::missing::Missing;

/// `IORING_ENTER_GETEVENTS`, io_uring_enter(2): run deferred completions also when not waiting.
pub(super) const GETEVENTS: u32 = 1;
/// `IORING_ENTER_NO_IOWAIT`, linux/io_uring.h: a sleep is not counted as a wait for a disk.
pub(super) const NO_IOWAIT: u32 = 1 << 7;
/// Flags of every send: it takes what there is room for, and does not wait.
pub(super) const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
/// Position of `optlen` in an entry, linux/io_uring.h: the total a multishot receive may bring (Linux 6.18).
const OPTLEN: usize = 44;

/// What differs between the kernels that Ringway runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Whether a multishot receive can carry a bound on its bytes (Linux 6.18), and reports an end that comes
    /// together with bytes (the first kernels with the bound do not). Otherwise a receive is armed for each
    /// piece: on Linux 6.1 an unbounded multishot takes the whole buffer ring.
    pub bounded_multishot: bool,
    /// Whether a send can be told to post no completion, and posts one nevertheless if not everything went out (Linux 6.1; it is
    /// tried, because bytes would be lost without a trace on a kernel that does not).
    pub quiet_sends: bool,
    /// Whether a sleep can be told from a wait for a disk (Linux 6.15), in the statistics of the processor.
    pub no_iowait: bool,
}

/// Tries everything that this number of shards needs, without keeping it.
///
/// # Errors
///
/// What is missing.
pub fn probe(shards: usize, buffers_per_core: u32) -> Result<Features, Missing> {
    locked::reserve(shards, buffers_per_core)?;
    locked::patiently(set_up).map(|(_, features)| features)
}

/// Makes a ring that only the calling thread may use.
pub(super) fn set_up() -> Result<(IoUring, Features), Missing> {
    let ring = ring(SUBMISSION_ENTRIES, COMPLETION_ENTRIES)?;
    let parameters = ring.params();
    if !parameters.is_feature_nodrop() || !parameters.is_feature_submit_stable() {
        return Err(Missing::TooOld { what: "a queue that loses no completion" });
    }
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    let needed = [
        (opcode::Recv::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::Connect::CODE, "connect"),
        (opcode::PollAdd::CODE, "poll"),
        (opcode::Read::CODE, "read"),
        (opcode::AsyncCancel::CODE, "cancel"),
        (opcode::Timeout::CODE, "timeout"),
        (opcode::TimeoutUpdate::CODE, "update of a timeout"),
    ];
    if let Some((_, what)) = needed.iter().find(|(code, _)| !known.is_supported(*code)) {
        return Err(Missing::TooOld { what });
    }
    // The kernel stays the same, and each ring costs locked memory for some milliseconds beyond its end.
    static FOUND: OnceLock<Features> = OnceLock::new();
    let features = match FOUND.get() {
        Some(found) => *found,
        None => *FOUND.get_or_init({
            let found = Features {
                bounded_multishot: try_bounded_multishot()?,
                quiet_sends: try_quiet_sends()?,
                no_iowait: parameters.is_feature_no_iowait(),
            };
            move || found
        }),
    };
    Ok((ring, features))
}

/// Makes a send of one byte, and then one of more bytes than there is room for, both quiet, on a ring of its own. Returns whether
/// there is one completion, which tells how many bytes of the second have gone out.
fn try_quiet_sends() -> Result<bool, Missing> {
    let mut ring = ring(4, 8)?;
    let (sender, _receiver) = UnixStream::pair()?;
    SockRef::from(&sender).set_send_buffer_size(4 << 10)?;
    let bytes = vec![0; 1 << 20];
    for (number, length) in [(1, 1), (2, bytes.len())] {
        let entry = opcode::Send::new(Fd(sender.as_raw_fd()), bytes.as_ptr(), length as u32);
        let entry = quiet(entry.flags(SEND_FLAGS | libc::MSG_WAITALL).build());
        // SAFETY: the bytes live until the ring is closed, and the send does not wait.
        unsafe { ring.submission().push(&entry.user_data(number)) }
            .map_err(|_| io::Error::other("a new ring is full"))?;
    }
    ring.submit()?;
    let told = completed(&mut ring)?;
    drop(ring);
    Ok(matches!(*told, [(2, sent)] if 0 < sent && (sent as usize) < bytes.len()))
}

/// Receives a byte and the end of a stream, which come at once, by a multishot with a bound, on a ring of its
/// own. Returns whether both are reported.
///
/// A kernel without the bound answers EINVAL. One of the first kernels with it (6.18) may report the bytes
/// and never the end: two wake-ups of one poll count as one there, and the receive does not look behind the
/// bytes.
fn try_bounded_multishot() -> Result<bool, Missing> {
    // Like the ring of a shard: completions are processed in the enter below, after both have come.
    let mut ring = ring(4, 8)?;
    // The receive that finds the end takes a buffer, too.
    let buffers = super::buffers::Buffers::new(&ring, 4096, 2);
    let mut buffers = buffers.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => Missing::TooOld { what: "a ring of provided buffers" },
        _ => Missing::from(error),
    })?;
    buffers.refill();
    let (mut sender, receiver) = UnixStream::pair()?;
    let entry = opcode::RecvMulti::new(Fd(receiver.as_raw_fd()), super::buffers::GROUP).build();
    let entry = with_total(entry, 4096);
    // SAFETY: the socket and the buffers live until the ring is closed, see below.
    unsafe { ring.submission().push(&entry) }.map_err(|_| io::Error::other("a new ring is full"))?;
    ring.submit()?;
    sender.write_all(b"x")?;
    sender.shutdown(Shutdown::Write)?;
    ring.submit_and_wait(1)?;
    let told = completed(&mut ring)?;
    // A receive that may still be in flight uses the buffers.
    drop(ring);
    Ok(told.into_iter().map(|(_, result)| result).eq([1, 0]))
}

/// Enters again, for a kernel that reaches an end only in a second step, and returns `user_data` and result of all that has
/// completed.
fn completed(ring: &mut IoUring) -> io::Result<Vec<(u64, i32)>> {
    // SAFETY: no argument is passed, and nothing is queued.
    unsafe { ring.submitter().enter::<libc::sigset_t>(0, 0, GETEVENTS, None) }?;
    Ok(ring.completion().map(|completion| (completion.user_data(), completion.result())).collect())
}

/// Makes a ring that only the calling thread may use, and that does its work in the enters of that thread.
fn ring(entries: u32, completions: u32) -> Result<IoUring, Missing> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_cqsize(completions)
        .build(entries)
        .map_err(Missing::from_setup)
}

/// Has an operation post no completion unless it fails (Linux 5.17); a send with `MSG_WAITALL` fails if not everything goes out.
pub(super) fn quiet(entry: squeue::Entry) -> squeue::Entry {
    entry.flags(squeue::Flags::SKIP_SUCCESS)
}

/// Sets the bound on the bytes of a multishot receive, for which the crate has no setter.
pub(super) fn with_total(mut entry: squeue::Entry, bytes: u32) -> squeue::Entry {
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    // SAFETY: the entry is the kernel's 64-byte struct (repr(transparent)), and `optlen` a u32 of it.
    unsafe { (&raw mut entry).cast::<u8>().add(OPTLEN).cast::<u32>().write(bytes) };
    entry
}
