//! One direction of a relay: small messages by copying through provided buffers, bulk by splicing through a
//! pipe.
//!
//! A direction begins with copying, switches to splicing when the source brings bulk, and switches back when
//! the pieces become small or no pipe is free. It switches to splicing when no receive is in flight, and back
//! with an empty pipe. So at any moment only one of the two reads the source, and only one writes the
//! destination.

use std::rc::Rc;

use super::copy::Copying;
use super::pipe::Pipes;
use super::side::Side;
use super::splicing::Splicing;
use super::throttle::Throttle;
use super::turn::{Turn, TurnBytes};
use crate::config::ByteRate;
use crate::net::Peer;
use crate::uring::{End, Receive};

/// The state of a direction; the module `relay` has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    Finished,
    Aborted,
    Broken,
}

/// How bytes go from one socket to the other.
enum Way {
    Copy(Copying),
    Splice(Splicing),
}

/// A way, and what limits its rate. Boxed, so that sessions without a limit stay small.
enum Pacing {
    Free(Way),
    Throttled(Box<(Throttle, Way)>),
}

impl Pacing {
    fn way(&self) -> &Way {
        match self {
            Self::Free(way) => way,
            Self::Throttled(throttled) => &throttled.1,
        }
    }

    fn parts(&mut self) -> (&mut Way, Option<&mut Throttle>) {
        match self {
            Self::Free(way) => (way, None),
            Self::Throttled(throttled) => {
                let (throttle, way) = &mut **throttled;
                (way, Some(throttle))
            }
        }
    }
}

/// Bytes from one socket to the other.
pub(super) struct Direction {
    /// Number of bytes delivered, or handed to the kernel to be delivered.
    pub(super) bytes: u64,
    /// How many of them are in a send whose end is not known.
    ahead: u32,
    /// Whether a byte has moved since this flag was last read.
    pub(super) moved: bool,
    pub(super) flow: Flow,
    to: Side,
    /// Whether a FIN has to be passed on.
    end_due: bool,
    pacing: Pacing,
}

impl Direction {
    pub(super) fn new(to: Side, rate: Option<ByteRate>) -> Self {
        let way = Way::Copy(Copying::new());
        let pacing = match rate {
            None => Pacing::Free(way),
            Some(rate) => Pacing::Throttled(Box::new((Throttle::new(rate), way))),
        };
        Self { bytes: 0, ahead: 0, moved: false, flow: Flow::Open, to, end_due: false, pacing }
    }

    /// Begins with a header of our own, which is no byte of the direction.
    pub(super) fn begin_with(&mut self, header: Vec<u8>, from: &Peer, to: &Peer) {
        if let (Way::Copy(copying), throttle) = self.pacing.parts() {
            copying.begin_with(header, from, to, throttle);
        }
    }

    /// Notes that the destination has got so many of the source's bytes already.
    pub(super) fn has_sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let (_, Some(throttle)) = self.pacing.parts() {
            throttle.spend(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// Returns whether bytes of the source are on their way out.
    pub(super) fn is_sending(&self) -> bool {
        match self.pacing.way() {
            Way::Copy(copying) => copying.is_sending(),
            Way::Splice(splicing) => splicing.holds_bytes(),
        }
    }

    /// Returns the number of bytes that the destination has taken, as far as is known.
    pub(super) fn delivered(&self) -> u64 {
        let is_short = matches!(self.pacing.way(), Way::Copy(copying) if copying.is_short());
        self.bytes - if is_short { u64::from(self.ahead) } else { 0 }
    }

    fn is_splicing(&self) -> bool {
        matches!(self.pacing.way(), Way::Splice(_))
    }

    /// Returns whether the kernel may hold bytes of the source that the direction has not been told of.
    pub(super) fn leaves_bytes_to_kernel(&self) -> bool {
        self.is_splicing() || matches!(self.pacing, Pacing::Throttled(_))
    }

    /// Returns whether the source has ended and the destination does not know it yet.
    pub(super) fn is_end_due(&self) -> bool {
        self.end_due
    }

    /// Moves what can be moved now. The caller's task is woken when there may be more; and when what was sent has gone out, unless
    /// that `may_be_quiet`. Without `pipes` it copies.
    pub(super) fn advance(&mut self, from: &Peer, to: &Peer, pipes: Option<&Rc<Pipes>>, may_be_quiet: bool) {
        match self.flow {
            Flow::Open => self.take_turn(from, to, pipes, may_be_quiet),
            // A source that is not read would block for ever, and its own end would go unnoticed.
            Flow::Broken => self.discard(from),
            Flow::Finished | Flow::Aborted => {}
        }
    }

    fn take_turn(&mut self, from: &Peer, to: &Peer, pipes: Option<&Rc<Pipes>>, may_be_quiet: bool) {
        let pipes = pipes.filter(|_| !from.is_encrypted() && !to.is_encrypted());
        // Bytes that may have to go to another destination are told of.
        let may_be_quiet = may_be_quiet && self.bytes > 0;
        let mut bytes = TurnBytes { ahead: self.ahead, may_be_quiet, ..TurnBytes::default() };
        let turn = match self.pacing.parts() {
            (Way::Copy(copying), throttle) => {
                let may_splice =
                    pipes.is_some() && throttle.as_ref().is_none_or(|throttle| throttle.may_splice());
                copying.turn(from, to, may_splice, throttle, &mut bytes)
            }
            (Way::Splice(splicing), throttle) => splicing.turn(from, to, pipes, throttle, &mut bytes),
        };
        // First of all, because what follows depends on whether a byte was ever delivered.
        self.account(&bytes, pipes);
        match turn {
            Turn::Waits => {}
            Turn::Copies => {
                self.leave_splicing(from);
                if let (Way::Copy(copying), throttle) = self.pacing.parts() {
                    copying.receive(from, throttle);
                }
            }
            Turn::Splices => {
                let (way, throttle) = self.pacing.parts();
                *way = Way::Splice(Splicing::new(throttle.is_some()));
                // At once, because nothing is armed that would wake the task.
                self.take_turn(from, to, pipes, may_be_quiet);
            }
            Turn::SourceEnded(end) => self.end(from, end),
            Turn::DestinationReset => self.destination_reset(from),
            Turn::DestinationFailed => self.destination_failed(from, to),
        }
    }

    fn account(&mut self, bytes: &TurnBytes, pipes: Option<&Rc<Pipes>>) {
        self.bytes += u64::from(bytes.delivered);
        self.ahead = bytes.ahead;
        self.moved |= bytes.received > 0 || bytes.delivered > 0 || bytes.late;
        if let (Way::Splice(_), Some(pipes)) = (self.pacing.way(), pipes) {
            pipes.note_moved(self.to, bytes.delivered);
        }
        if let (_, Some(throttle)) = self.pacing.parts() {
            // Bytes that only wait for their budget are not silence.
            self.moved |= throttle.take_rested();
        }
    }

    /// Ends splicing, if the direction splices, and leaves the source as it was. A pipe is dropped with its
    /// content.
    pub(super) fn leave_splicing(&mut self, from: &Peer) {
        let (way, _) = self.pacing.parts();
        if matches!(way, Way::Splice(_))
            && let Way::Splice(splicing) = std::mem::replace(way, Way::Copy(Copying::new()))
        {
            splicing.end(from);
        }
    }

    /// Handles a reset of the destination; what it sent before is up to the other direction. If the source
    /// was reset, too, nothing more has to be done.
    ///
    /// The other direction may need a long time for it, so no bytes of this one stay in buffers in the
    /// meantime. Bytes received before the first byte went out may still have another recipient: another
    /// backend or, if the connection goes back to the pool, another client.
    fn destination_reset(&mut self, from: &Peer) {
        if from.has_failed() {
            self.flow = Flow::Aborted;
        } else if self.bytes > 0 {
            self.break_off(from);
        } else {
            from.pause_receive();
            from.spill_received();
        }
    }

    /// Handles a failed send or splice to the destination.
    fn destination_failed(&mut self, from: &Peer, to: &Peer) {
        if self.bytes == 0 {
            // Nothing reached the destination, so another one may get it.
            let own = match self.pacing.way() {
                Way::Copy(copying) => copying.header_left(),
                Way::Splice(_) => 0,
            };
            from.reclaim(to, own);
        }
        to.drop_unsent();
        self.break_off(from);
    }

    fn break_off(&mut self, from: &Peer) {
        self.leave_splicing(from);
        self.flow = Flow::Broken;
        self.discard(from);
    }

    /// Discards what has no recipient any more, so that a source which writes before it reads gets to read
    /// what it is still owed. What another destination may get is kept.
    fn discard(&self, from: &Peer) {
        // Before the first byte, another backend could replace this one.
        if self.bytes > 0 || self.to == Side::Client {
            from.discard_received();
            from.receive(Receive::One);
        } else {
            from.pause_receive();
            from.spill_received();
        }
    }

    /// Handles the end of the source, before which everything was delivered.
    fn end(&mut self, from: &Peer, end: End) {
        match end {
            End::Failed(_) => self.flow = Flow::Aborted,
            // A send to the source has failed before, so what looks like a clean end is the rest of a reset.
            End::Clean if from.is_dead() => self.flow = Flow::Aborted,
            End::Clean => {
                self.flow = Flow::Finished;
                self.end_due = true;
            }
        }
    }

    /// Passes on the FIN of a source, once, when everything before it was delivered; and has the source
    /// watched.
    pub(super) fn pass_on_end(&mut self, from: &Peer, to: &Peer) {
        if self.flow != Flow::Finished {
            return;
        }
        if self.end_due {
            match to.shutdown_write() {
                Ok(is_out) => self.end_due = !is_out,
                // ENOTCONN: the destination was reset, which its own direction will report.
                Err(_) => (self.end_due, self.flow) = (false, Flow::Broken),
            }
        }
        // The receive that would notice a reset of this side has ended with its stream. The watch is renewed
        // each time, because a full queue of completions ends a watch.
        from.watch();
    }
}

/// The end of a destination with TLS, once both streams have ended.
impl Direction {
    /// Tells the destination, once, that its stream ends in TLS, as closing its socket does not.
    pub(super) fn tell_end(&mut self, to: &Peer) {
        if self.owes_end(to) {
            // If it takes nothing any more, there is nobody to tell.
            self.end_due = to.shutdown_write().is_ok_and(|is_out| !is_out);
        }
    }

    /// Returns whether the destination was not told of the end in TLS.
    pub(super) fn owes_end(&self, to: &Peer) -> bool {
        self.end_due && to.is_encrypted()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::mem::MaybeUninit;
    use std::net::TcpStream;
    use std::task::Poll;
    use std::time::Duration;

    use super::super::pipe;
    use super::super::splicing::PATIENT_BYTES;
    use super::*;
    use crate::net::testing::pair;
    use crate::uring::Ring;
    use crate::uring::testing::{on_ring, reset};

    /// Longer than anything here takes.
    const TOO_LONG: Duration = Duration::from_secs(5);

    fn pipes() -> Pipes {
        Pipes::new(64 << 10, 4)
    }

    fn splicing(splicing: Splicing) -> Direction {
        Direction { pacing: Pacing::Free(Way::Splice(splicing)), ..Direction::new(Side::Backend, None) }
    }

    /// Runs a direction until `done`, or for [`TOO_LONG`].
    async fn run(
        direction: &mut Direction,
        (from, to): (&Peer, &Peer),
        pipes: &Rc<Pipes>,
        done: impl Fn(&Direction) -> bool,
    ) {
        let mut timer = from.ring().timer(from.ring().now().after(TOO_LONG));
        std::future::poll_fn(|context| {
            from.register(context.waker());
            to.register(context.waker());
            direction.advance(from, to, Some(pipes), true);
            if done(direction) { Poll::Ready(()) } else { timer.poll_due(context) }
        })
        .await;
    }

    /// Less has come than the poll waits for, so no other event would wake the direction.
    #[test]
    fn patient_direction_without_budget_looks_in_the_next_turn() {
        for piped in [false, true] {
            on_ring(move |ring| async move {
                let ((from, mut sender), (to, _receiver)) = (pair(&ring), pair(&ring));
                let pipes = Rc::new(pipes());
                let pipe = piped.then(|| {
                    sender.write_all(b"piped").expect("connected");
                    let mut pipe = pipes.take(ring.now()).expect("a pipe");
                    pipe.fill(&from, u32::MAX);
                    pipe
                });
                pipe::set_least(&from, PATIENT_BYTES);
                sender.write_all(b"tail").expect("connected");
                from.wait_readable();
                ring.next_turn().await;
                assert!(from.is_waiting_readable(), "four bytes are not much");
                let look_at = (!piped).then(|| ring.now());
                let mut direction = splicing(Splicing::under_way(pipe, true, look_at));
                pipes.spend(ring.turn(), pipes.turn_bytes);
                let all = if piped { 9 } else { 4 };
                run(&mut direction, (&from, &to), &pipes, |direction| direction.bytes == all).await;
                assert_eq!(direction.bytes, all, "piped: {piped}");
            });
        }
    }

    /// Takes what a socket holds now, at least one byte.
    fn take(receiver: &mut TcpStream) -> Vec<u8> {
        let mut bytes = vec![0; 256 << 10];
        let count = receiver.read(&mut bytes).expect("connected");
        bytes.truncate(count);
        bytes
    }

    fn has_bytes(receiver: &TcpStream) -> bool {
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let mut byte = [MaybeUninit::uninit()];
        socket2::SockRef::from(receiver).recv_with_flags(&mut byte, flags).is_ok_and(|count| count > 0)
    }

    /// Two peers, and their other ends. The first one has received `first`.
    async fn pairs_with_first(ring: &Ring) -> ((Peer, TcpStream), (Peer, TcpStream)) {
        let ((from, mut sender), to) = (pair(ring), pair(ring));
        sender.write_all(b"first").expect("connected");
        from.receive(Receive::One);
        while from.received() < 5 {
            ring.next_turn().await;
        }
        ((from, sender), to)
    }

    #[test]
    fn header_goes_out_in_one_piece_with_what_has_come_and_is_no_byte_of_the_direction() {
        on_ring(|ring| async move {
            let ((from, mut sender), (to, mut receiver)) = pairs_with_first(&ring).await;
            let pipes = Rc::new(pipes());
            let mut direction = Direction::new(Side::Backend, None);
            direction.begin_with(b"header".to_vec(), &from, &to);
            assert!(direction.is_sending());
            run(&mut direction, (&from, &to), &pipes, |direction| direction.bytes == 5).await;
            assert_eq!((direction.bytes, &*take(&mut receiver)), (5, &b"headerfirst"[..]));
            sender.write_all(b"more").expect("connected");
            run(&mut direction, (&from, &to), &pipes, |direction| direction.bytes == 9).await;
            // Bytes of a quiet send count when they are handed over.
            ring.next_turn().await;
            assert_eq!((direction.bytes, &*take(&mut receiver)), (9, &b"more"[..]));
        });
    }

    /// The source is silent: the destination may be the one who speaks first.
    #[test]
    fn header_goes_out_at_once_and_leaves_the_direction_untouched() {
        on_ring(|ring| async move {
            let ((from, _sender), (to, mut receiver)) = (pair(&ring), pair(&ring));
            let mut direction = Direction::new(Side::Backend, None);
            direction.begin_with(b"header".to_vec(), &from, &to);
            assert!(!direction.is_sending());
            run(&mut direction, (&from, &to), &Rc::new(pipes()), |_| has_bytes(&receiver)).await;
            assert_eq!((direction.bytes, direction.moved, direction.flow), (0, false, Flow::Open));
            assert_eq!(take(&mut receiver), b"header");
        });
    }

    /// A real header is never that long; the kernel takes a part of it.
    #[test]
    fn header_that_goes_out_in_parts_is_told_from_the_bytes_behind_it() {
        const HEADER: usize = 60_000;
        for resets in [false, true] {
            on_ring(move |ring| async move {
                let ((from, _sender), (to, mut receiver)) = pairs_with_first(&ring).await;
                socket2::SockRef::from(&receiver).set_recv_buffer_size(4 << 10).expect("an open socket");
                to.with(|socket| socket.set_send_buffer_size(4 << 10)).expect("an open socket");
                let pipes = Rc::new(pipes());
                let mut direction = Direction::new(Side::Backend, None);
                direction.begin_with(vec![b'h'; HEADER], &from, &to);
                run(&mut direction, (&from, &to), &pipes, |_| to.is_waiting_writable()).await;
                assert!(to.is_waiting_writable(), "the kernel took all of it");
                assert_eq!((direction.bytes, direction.is_sending()), (0, true));
                if resets {
                    reset(receiver);
                    let is_over = |direction: &Direction| direction.flow == Flow::Broken;
                    run(&mut direction, (&from, &to), &pipes, is_over).await;
                    // Another destination gets what is the source's, and nothing else.
                    assert_eq!((direction.bytes, from.take_received()), (0, b"first".to_vec()));
                    return;
                }
                let mut received = 0;
                while received < HEADER + 5 {
                    run(&mut direction, (&from, &to), &pipes, |_| has_bytes(&receiver)).await;
                    received += take(&mut receiver).len();
                }
                run(&mut direction, (&from, &to), &pipes, |direction| direction.bytes == 5).await;
                assert_eq!((direction.bytes, received), (5, HEADER + 5));
            });
        }
    }

    /// Only the watch can report the reset, and the kernel ends the watch when the queue of completions is
    /// full.
    #[test]
    fn direction_that_waits_with_a_pipe_renews_its_watch() {
        on_ring(|ring| async move {
            let ((from, mut sender), (to, _receiver)) = (pair(&ring), pair(&ring));
            sender.write_all(b"piped").expect("connected");
            let pipes = Rc::new(pipes());
            let mut pipe = pipes.take(ring.now()).expect("a pipe");
            pipe.fill(&from, u32::MAX);
            to.with(|socket| while socket.send(&[0; 64 << 10]).is_ok() {});
            let mut direction = splicing(Splicing::under_way(Some(pipe), false, None));
            run(&mut direction, (&from, &to), &pipes, |_| true).await;
            assert!(to.is_waiting_writable());
            ring.next_turn().await;
            from.end_watch().await;
            reset(sender);
            run(&mut direction, (&from, &to), &pipes, |_| from.is_dead()).await;
            assert!(from.is_dead(), "the reset was not seen");
        });
    }

    /// The other side is silent and no timer runs, so nothing else would wake the direction.
    #[test]
    fn stream_goes_on_when_it_becomes_bulk() {
        on_ring(|ring| async move {
            let ((from, mut sender), (to, receiver)) = (pair(&ring), pair(&ring));
            let mut direction = Direction::new(Side::Backend, None);
            direction.has_sent(1);
            sender.write_all(&[b'x'; 192 << 10]).expect("room for it on the way");
            let all = 1 + (192 << 10);
            run(&mut direction, (&from, &to), &Rc::new(pipes()), |direction| direction.bytes == all).await;
            assert_eq!((direction.bytes, direction.is_splicing()), (all, true));
            drop(receiver);
        });
    }

    /// Each is gone long before the next one comes.
    #[test]
    fn small_messages_now_and_then_are_no_bulk() {
        on_ring(|ring| async move {
            let ((from, mut sender), (to, mut receiver)) = (pair(&ring), pair(&ring));
            let pipes = Rc::new(pipes());
            let mut direction = Direction::new(Side::Backend, None);
            direction.has_sent(1);
            for message in 1..=40 {
                sender.write_all(&[b'x'; 4 << 10]).expect("connected");
                let all = 1 + (message * (4 << 10));
                run(&mut direction, (&from, &to), &pipes, |direction| direction.bytes == all).await;
                assert_eq!(
                    (direction.bytes, direction.delivered(), direction.is_splicing()),
                    (all, all, false)
                );
                for _ in 0..3 {
                    ring.next_turn().await;
                }
                receiver.read_exact(&mut [0; 4 << 10]).expect("it was sent");
            }
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
                    let mut direction = splicing(Splicing::new(false));
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
}
