//! One direction of a relay: small messages by copying through provided buffers, bulk by splicing through a pipe.
//!
//! A direction begins with copying. Once [`BULK_BYTES`] came in a row, that is, each time either before the bytes before
//! them were gone or at least [`BULK_PIECE`] at once, it goes over to splicing: no receive is armed any more, what the
//! one in flight still brings is delivered, and then the socket belongs to splice(2). After [`SMALL_TURNS`] turns in a
//! row that brought less than [`SMALL_PIECE`] it goes back, which it does with an empty pipe only. Where there is no
//! pipe to be had, it copies. So at any moment one of both alone reads the source, and one alone writes the destination.
//!
//! After [`LONG_TURNS`] large turns it is patient: it is woken for [`PATIENT_BYTES`] (`SO_RCVLOWAT`), or looks after
//! [`PATIENCE`] what has come, because fewer and larger pieces cost less on both sides. Finding less ends that.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use super::pipe::{self, Left, Pipe, Pipes};
use super::side::Side;
use crate::base::Tick;
use crate::uring::{End, Sent, Socket};

/// Bytes in a row after which a direction is bulk.
const BULK_BYTES: u32 = 256 << 10;
/// Bytes at once that count as bulk though the source had run dry before them.
const BULK_PIECE: u32 = 32 << 10;
/// Fewer bytes in a turn than this are not worth the two calls of splicing.
const SMALL_PIECE: u32 = 16 << 10;
/// A turn with so many bytes is a large one.
const LARGE_PIECE: u32 = 64 << 10;
/// Large turns after which a direction is patient: at least 4 MiB, so that waiting once for the rest is lost in it.
const LONG_TURNS: u8 = 64;
/// What is worth a turn of a patient direction, unless it has waited for [`PATIENCE`].
const PATIENT_BYTES: u32 = 1 << 20;
/// Longest wait for [`PATIENT_BYTES`].
const PATIENCE: Duration = Duration::from_millis(1);
/// Turns with a small piece, in a row, after which a direction copies again.
const SMALL_TURNS: u8 = 8;

/// Pause before bytes are sent again for which the kernel had no memory.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(10);

/// Where a direction stands; the module `relay` has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    Finished,
    Aborted,
    Broken,
}

/// How bytes go from one socket to the other.
enum Way {
    Copy {
        /// Bytes that came in a row.
        in_row: u32,
        /// The source had nothing more when the last bytes were gone.
        dry: bool,
    },
    Splice {
        /// What the destination did not take at once; boxed, so that idle sessions stay small.
        pipe: Option<Box<Pipe>>,
        /// Turns in a row that brought little.
        small_turns: u8,
        /// Turns that brought much, since patience was last in vain; up to [`LONG_TURNS`].
        large_turns: u8,
        /// When a patient direction looks what has come.
        look_at: Option<ShortTick>,
    },
}

impl Way {
    const COPY: Self = Self::Copy { in_row: 0, dry: true };
    const SPLICE: Self = Self::Splice { pipe: None, small_turns: 0, large_turns: 0, look_at: None };
}

/// A moment within the next days, in four bytes: idle sessions are to be small.
#[derive(Clone, Copy)]
struct ShortTick(NonZeroU32);

impl From<Tick> for ShortTick {
    fn from(tick: Tick) -> Self {
        // Once in 49 days a millisecond early, never late: it has come when the task is woken for it.
        Self(NonZeroU32::new(tick.0 as u32).unwrap_or(NonZeroU32::MAX))
    }
}

impl ShortTick {
    /// Whether it is now or past, by at most 24 days.
    fn has_come(self, now: Tick) -> bool {
        (now.0 as u32).wrapping_sub(self.0.get()) < 1 << 31
    }
}

/// Bytes from one socket to the other.
pub(super) struct Direction {
    /// Delivered.
    pub(super) bytes: u64,
    /// A byte has moved since this was last looked at.
    pub(super) moved: bool,
    pub(super) flow: Flow,
    sending: bool,
    to: Side,
    /// A FIN is to be passed on.
    end_due: bool,
    /// The destination did not take the last bytes at once; until it does, the source gets one buffer at a time.
    blocked: bool,
    way: Way,
}

impl Direction {
    pub(super) fn new(to: Side) -> Self {
        Self {
            bytes: 0,
            moved: false,
            flow: Flow::Open,
            sending: false,
            to,
            end_due: false,
            blocked: false,
            way: Way::COPY,
        }
    }

    /// Whether bytes are on their way out.
    pub(super) fn is_sending(&self) -> bool {
        self.sending || matches!(self.way, Way::Splice { pipe: Some(_), .. })
    }

    /// Moves what can be moved now. The caller's task is woken when there may be more. Without `pipes` it copies.
    pub(super) fn advance(&mut self, from: &Socket, to: &Socket, pipes: Option<&Rc<Pipes>>) {
        match (self.flow, &self.way) {
            (Flow::Broken, _) => self.discard(from),
            (Flow::Open, Way::Copy { .. }) => self.copy(from, to, pipes),
            (Flow::Open, Way::Splice { .. }) => self.splice(from, to, pipes),
            (Flow::Finished | Flow::Aborted, _) => {}
        }
    }

    fn copy(&mut self, from: &Socket, to: &Socket, pipes: Option<&Rc<Pipes>>) {
        if !self.finish_send(from, to) {
            return;
        }
        if self.is_hopeless(from, to) {
            return;
        }
        let bytes = from.forward(to);
        let bulk = self.note(bytes) && pipes.is_some();
        if bytes > 0 {
            self.sending = true;
            self.moved = true;
            if from.received() == 0 && !bulk {
                // More may come while this is sent; one buffer of it where the destination is slow.
                from.receive(!self.blocked);
            }
            return;
        }
        match from.ended() {
            None if bulk && !from.is_receiving() => {
                self.way = Way::SPLICE;
                self.splice(from, to, pipes);
            }
            None => from.receive(!self.blocked),
            Some(end) => self.end(from, end),
        }
    }

    /// Whether the destination was reset: then what it sent before is the other direction's business. Where the source was
    /// reset too, nothing more is to be done.
    ///
    /// The other direction may take long over it, so nothing of this one lies in buffers meanwhile. What is received before
    /// the first byte went out may still be for somebody else: for another backend, or, of a connection that goes back to
    /// the pool, for another client.
    fn is_hopeless(&mut self, from: &Socket, to: &Socket) -> bool {
        if !to.has_failed() {
            return false;
        }
        if from.has_failed() {
            self.flow = Flow::Aborted;
        } else if self.bytes > 0 {
            self.leave_splicing(from);
            self.destination_failed(from);
        } else {
            from.pause_receive();
            from.spill_received();
        }
        true
    }

    /// Notes how many bytes were found when the destination was ready for more. Whether the direction is bulk.
    fn note(&mut self, bytes: u32) -> bool {
        let Way::Copy { in_row, dry } = &mut self.way else { return true };
        if bytes > 0 {
            *in_row = if *dry && bytes < BULK_PIECE { 0 } else { in_row.saturating_add(bytes) };
        }
        *dry = bytes == 0;
        *in_row >= BULK_BYTES
    }

    /// One turn of splicing: what the destination left last time, then what the source has, about a pipe full.
    ///
    /// The poll for something to read tells of what is there already, not only of what comes, so nothing is missed
    /// between two turns. The end of the source is not judged here but by the receive of copying: splice(2) returns 0 at
    /// an urgent mark too, tcp(7), and an error it reports is reported no second time.
    fn splice(&mut self, from: &Socket, to: &Socket, pipes: Option<&Rc<Pipes>>) {
        let (now, Way::Splice { pipe, look_at, .. }) = (from.ring().now(), &self.way) else { return };
        let looks = look_at.is_some_and(|tick| tick.has_come(now));
        let waiting =
            if pipe.is_some() { to.is_waiting_writable() } else { from.is_waiting_readable() && !looks };
        if waiting && pipe.is_some() {
            // A full queue of completions ends a watch, too.
            from.watch();
        }
        if waiting || self.is_hopeless(from, to) {
            return;
        }
        let Way::Splice { pipe, look_at, .. } = &mut self.way else { return };
        if looks {
            *look_at = None;
        }
        if let Some(pipe) = pipe.take()
            && !self.drain(*pipe, from, to)
        {
            return;
        }
        let Some(pipes) = pipes else { return self.copy_again(from) };
        if !pipes.has_budget(from.ring().turn()) {
            // Others have their turn first. Where the poll in flight waits for much, it is a look that is put off, or what
            // came while the pipe was full.
            if from.is_waiting_readable()
                && let Way::Splice { look_at, .. } = &mut self.way
            {
                *look_at = Some(ShortTick::from(now));
            }
            return from.put_off();
        }
        let Some(mut pipe) = pipes.take(now) else { return self.copy_again(from) };
        let filled = pipe.fill(from);
        self.note_turn(filled.bytes, looks, from);
        if let Some(error) = filled.failed {
            from.mark_dead(error);
        }
        let over = filled.ended || self.is_small();
        if !self.drain(pipe, from, to) {
            return;
        }
        if over {
            return self.copy_again(from);
        }
        from.wait_readable();
        // A look leaves a poll in flight that waits for much. What did not fit into the pipe is not new to it, so there is
        // another look, until one finds nothing.
        let looks_again = looks && filled.bytes > 0;
        if let Way::Splice { large_turns, look_at: look_at @ None, .. } = &mut self.way
            && (*large_turns == LONG_TURNS || looks_again)
        {
            let then = now.after(PATIENCE);
            *look_at = Some(ShortTick::from(then));
            from.wake_at(then);
        }
    }

    fn is_small(&self) -> bool {
        matches!(self.way, Way::Splice { small_turns: SMALL_TURNS.., .. })
    }

    fn note_turn(&mut self, bytes: u32, looked: bool, from: &Socket) {
        let Way::Splice { small_turns, large_turns, .. } = &mut self.way else { return };
        *small_turns = if bytes < SMALL_PIECE { small_turns.saturating_add(1) } else { 0 };
        self.moved |= bytes > 0;
        if *large_turns == LONG_TURNS {
            if looked && bytes < PATIENT_BYTES {
                // The wait was in vain: whoever sends this waits for an answer, or is not that fast.
                *large_turns = 0;
                pipe::set_least(from, 1);
            }
        } else if bytes >= LARGE_PIECE {
            *large_turns += 1;
            if *large_turns == LONG_TURNS {
                pipe::set_least(from, PATIENT_BYTES);
            }
        }
    }

    /// Sends what is in the pipe. Whether all of it went out; the rest is kept until the destination takes more.
    fn drain(&mut self, mut pipe: Pipe, from: &Socket, to: &Socket) -> bool {
        let (bytes, left) = pipe.drain(to, self.to);
        self.account(bytes);
        match left {
            None => return true,
            Some(Left::Full) => to.wait_writable(),
            Some(Left::Shortage) => from.wake_at(from.ring().now().after(SHORTAGE_PAUSE)),
            Some(Left::Failed(error)) => {
                to.mark_dead(error);
                self.leave_splicing(from);
                self.destination_failed(from);
                return false;
            }
        }
        if let Way::Splice { pipe: kept, .. } = &mut self.way {
            *kept = Some(Box::new(pipe));
        }
        from.watch();
        false
    }

    /// Whether the source has ended and the destination does not know it yet.
    pub(super) fn is_end_due(&self) -> bool {
        self.end_due
    }

    pub(super) fn is_splicing(&self) -> bool {
        matches!(self.way, Way::Splice { .. })
    }

    /// Drops a pipe with what is in it, and leaves the source as it was.
    pub(super) fn stop(&mut self, from: &Socket) {
        self.leave_splicing(from);
    }

    fn copy_again(&mut self, from: &Socket) {
        self.leave_splicing(from);
        self.blocked = false;
        from.receive(true);
    }

    fn leave_splicing(&mut self, from: &Socket) {
        if matches!(self.way, Way::Splice { large_turns: LONG_TURNS, .. }) {
            pipe::set_least(from, 1);
        }
        self.way = Way::COPY;
    }

    /// Accounts what went out. Whether the destination is ready for more.
    fn finish_send(&mut self, from: &Socket, to: &Socket) -> bool {
        match to.sent() {
            Sent::Nothing => true,
            Sent::Done { bytes, blocked } => {
                self.sending = false;
                self.blocked = blocked;
                self.account(bytes);
                true
            }
            Sent::Busy { bytes, blocked } => {
                self.account(bytes);
                if blocked {
                    self.blocked = true;
                    from.pause_receive();
                    // A receive that waits for its bytes to be taken does not tell of a reset.
                    from.watch();
                    if to.ring().buffers_scarce() {
                        from.spill_received();
                    }
                }
                false
            }
            Sent::Failed { bytes, .. } => {
                self.sending = false;
                self.account(bytes);
                if self.bytes == 0 {
                    // Nothing reached the destination: another one may get it.
                    from.reclaim(to);
                }
                to.drop_unsent();
                self.destination_failed(from);
                false
            }
        }
    }

    fn destination_failed(&mut self, from: &Socket) {
        self.flow = Flow::Broken;
        self.discard(from);
    }

    /// Takes what nobody will get, so that a source which writes before it reads comes to read what it is still
    /// owed. What another destination may get is kept.
    fn discard(&self, from: &Socket) {
        // Before the first byte, another backend could take the place of this one.
        if self.bytes > 0 || self.to == Side::Client {
            from.discard_received();
            from.receive(false);
        } else {
            from.pause_receive();
            from.spill_received();
        }
    }

    fn account(&mut self, bytes: u32) {
        self.bytes += u64::from(bytes);
        self.moved |= bytes > 0;
    }

    /// The source has ended, and everything before its end was delivered.
    fn end(&mut self, from: &Socket, end: End) {
        match end {
            End::Failed(_) => self.flow = Flow::Aborted,
            // A send to the source has failed before: what looks like a clean end is the rest of a reset.
            End::Clean if from.is_dead() => self.flow = Flow::Aborted,
            End::Clean => {
                self.flow = Flow::Finished;
                self.end_due = true;
            }
        }
    }

    /// Passes on the FIN of a source, once, when everything before it was delivered; and has the source watched.
    pub(super) fn pass_on_end(&mut self, from: &Socket, to: &Socket) {
        if self.flow != Flow::Finished {
            return;
        }
        if std::mem::take(&mut self.end_due) && to.shutdown_write().is_err() {
            // ENOTCONN: the destination was reset, which its own direction will report.
            self.flow = Flow::Broken;
        }
        // The receive that would notice a reset of this side has ended with its stream. Not once alone: a full queue of
        // completions ends a watch, too.
        from.watch();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write;
    use std::task::Poll;

    use super::*;
    use crate::uring::testing::{on_ring, pair, reset};

    /// Longer than anything here takes.
    const TOO_LONG: Duration = Duration::from_secs(5);

    fn pipes() -> Pipes {
        Pipes::new(64 << 10, 4)
    }

    fn splicing(pipe: Option<Pipe>, large_turns: u8, look_at: Option<Tick>) -> Direction {
        let (pipe, look_at) = (pipe.map(Box::new), look_at.map(ShortTick::from));
        let way = Way::Splice { pipe, small_turns: 0, large_turns, look_at };
        Direction { way, ..Direction::new(Side::Backend) }
    }

    /// Runs a direction until `done`, or for [`TOO_LONG`].
    async fn run(
        direction: &mut Direction,
        (from, to): (&Socket, &Socket),
        pipes: &Rc<Pipes>,
        done: impl Fn(&Direction) -> bool,
    ) {
        let mut timer = from.ring().timer(from.ring().now().after(TOO_LONG));
        std::future::poll_fn(|context| {
            from.register(context.waker());
            to.register(context.waker());
            direction.advance(from, to, Some(pipes));
            if done(direction) { Poll::Ready(()) } else { timer.poll_due(context) }
        })
        .await;
    }

    /// Less has come than its poll waits for, so nothing else would wake it.
    #[test]
    fn patient_direction_without_budget_looks_in_the_next_turn() {
        for piped in [false, true] {
            on_ring(move |ring| async move {
                let ((from, mut sender), (to, _receiver)) = (pair(&ring), pair(&ring));
                let pipes = Rc::new(pipes());
                let pipe = piped.then(|| {
                    sender.write_all(b"piped").expect("connected");
                    let mut pipe = pipes.take(ring.now()).expect("a pipe");
                    pipe.fill(&from);
                    pipe
                });
                pipe::set_least(&from, PATIENT_BYTES);
                sender.write_all(b"tail").expect("connected");
                from.wait_readable();
                ring.next_turn().await;
                assert!(from.is_waiting_readable(), "four bytes are not much");
                let look_at = (!piped).then(|| ring.now());
                let mut direction = splicing(pipe, LONG_TURNS, look_at);
                pipes.spend(ring.turn(), pipes.turn_bytes);
                let all = if piped { 9 } else { 4 };
                run(&mut direction, (&from, &to), &pipes, |direction| direction.bytes == all).await;
                assert_eq!(direction.bytes, all, "piped: {piped}");
            });
        }
    }

    /// The watch alone can tell of the reset, and the kernel ends it when the queue of completions is full.
    #[test]
    fn direction_that_waits_with_a_pipe_renews_its_watch() {
        on_ring(|ring| async move {
            let ((from, mut sender), (to, _receiver)) = (pair(&ring), pair(&ring));
            sender.write_all(b"piped").expect("connected");
            let pipes = Rc::new(pipes());
            let mut pipe = pipes.take(ring.now()).expect("a pipe");
            pipe.fill(&from);
            to.with(|socket| {
                socket.set_nonblocking(true).expect("an open socket");
                while socket.send(&[0; 64 << 10]).is_ok() {}
                socket.set_nonblocking(false).expect("an open socket");
            });
            let mut direction = splicing(Some(pipe), 0, None);
            run(&mut direction, (&from, &to), &pipes, |_| true).await;
            assert!(to.is_waiting_writable());
            ring.next_turn().await;
            from.end_watch().await;
            reset(sender);
            run(&mut direction, (&from, &to), &pipes, |_| from.is_dead()).await;
            assert!(from.is_dead(), "nobody saw the reset");
        });
    }

    /// Each source has bytes in every turn, and a turn has a budget for one of them.
    #[test]
    fn directions_that_put_each_other_off_take_turns() {
        const STREAMS: usize = 4;
        const LENGTH: usize = 512 << 10;
        let delivered: Rc<[Cell<u64>; STREAMS]> = Rc::default();
        let all = Rc::clone(&delivered);
        on_ring(|ring| async move {
            let mut pipes = pipes();
            pipes.turn_bytes = 1;
            let pipes = Rc::new(pipes);
            for index in 0..STREAMS {
                let ((from, mut sender), (to, receiver)) = (pair(&ring), pair(&ring));
                sender.write_all(&vec![b'x'; LENGTH]).expect("room for it on the way");
                let (all, pipes) = (Rc::clone(&all), Rc::clone(&pipes));
                ring.spawn(async move {
                    let _peers = (sender, receiver);
                    let total = || all.iter().map(Cell::get).sum::<u64>();
                    let mut direction = splicing(None, 0, None);
                    let note = |direction: &Direction| {
                        all[index].set(direction.bytes);
                        total() >= (STREAMS * LENGTH / 2) as u64
                    };
                    run(&mut direction, (&from, &to), &pipes, note).await;
                });
            }
        });
        let least = delivered.iter().map(Cell::get).min();
        assert!(least >= Some(LENGTH as u64 / 4), "{delivered:?} of {LENGTH} bytes each");
    }

    #[test]
    fn moment_in_four_bytes_has_come_when_it_comes() {
        for moment in [1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1].map(Tick) {
            let short = ShortTick::from(moment);
            assert!(short.has_come(moment) && short.has_come(Tick(moment.0 + 1)), "{moment:?}");
            assert!(!short.has_come(Tick(moment.0.wrapping_sub(2))), "{moment:?}");
        }
    }
}
