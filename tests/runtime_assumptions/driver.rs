//! Rule 1: when the driver may sleep.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use ringway::uring::{BufferSettings, Doorbell, End, Receive, Ring, Socket};

use crate::support::{SMALL, has_descriptors, on_ring, tcp_pair};

/// Returns to the run queue once.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn task_woken_by_another_task_runs_on_an_idle_ring() {
    on_ring(SMALL, |ring| async move {
        let flag = Rc::new(Cell::new(0));
        let waiter: Rc<RefCell<Option<Waker>>> = Rc::default();
        let (their_flag, their_waiter) = (flag.clone(), waiter.clone());
        ring.spawn(async move {
            for round in 1..=1000 {
                std::future::poll_fn(|context| {
                    if their_flag.get() >= round {
                        return Poll::Ready(());
                    }
                    *their_waiter.borrow_mut() = Some(context.waker().clone());
                    Poll::Pending
                })
                .await;
            }
        });
        for round in 1..=1000 {
            flag.set(round);
            if let Some(waker) = waiter.borrow_mut().take() {
                waker.wake();
            }
            // Nothing else is going on: were the driver to sleep now, this would never go on.
            yield_once().await;
        }
    });
}

#[test]
fn yielding_task_and_ring_do_not_starve_each_other() {
    on_ring(SMALL, |ring| async move {
        let done = Rc::new(Cell::new(false));
        let their_done = done.clone();
        let timer = ring.clone();
        ring.spawn(async move {
            timer.sleep_until(timer.now().after(Duration::from_millis(20))).await;
            their_done.set(true);
        });
        let mut yields = 0_u64;
        while !done.get() {
            yield_once().await;
            yields += 1;
        }
        assert!(yields > 100, "{yields} yields in 20 ms");
    });
}

/// More than one turn takes, and than there are buffers: each socket that has bytes is told of them before
/// its time is over, though the shard stood still until long after that.
#[test]
fn timers_due_after_a_stop_wait_for_all_that_has_come() {
    const SOCKETS: usize = 1_500;
    if !has_descriptors(4_000) {
        return;
    }
    let over = on_ring(SMALL, |ring| async move {
        let deadline = ring.now().after(Duration::from_millis(300));
        let over = Rc::new(RefCell::new(Vec::new()));
        let mut peers = Vec::new();
        for _ in 0..SOCKETS {
            let (ours, peer) = UnixStream::pair().expect("descriptors");
            let (socket, mut timer) = (ring.socket(ours.into()), ring.timer(deadline));
            let over = over.clone();
            peers.push(peer);
            ring.spawn(async move {
                let waits = std::future::poll_fn(|context| {
                    socket.register(context.waker());
                    if !socket.take_received().is_empty() {
                        return Poll::Ready(false);
                    }
                    socket.receive(Receive::Many);
                    timer.poll_due(context).map(|()| true)
                });
                let is_over = waits.await;
                over.borrow_mut().push(is_over);
            });
        }
        // They are armed, and the freeze begins in the middle of a task.
        ring.next_turn().await;
        assert!(ring.now() < deadline, "a machine that is this slow proves nothing");
        peers.iter_mut().for_each(|peer| peer.write_all(b"x").expect("connected"));
        std::thread::sleep(Duration::from_millis(400));
        while over.borrow().len() < SOCKETS {
            ring.next_turn().await;
        }
        over.take()
    });
    assert_eq!(over.iter().filter(|&&is_over| is_over).count(), 0, "of {SOCKETS} were over");
}

#[test]
fn timers_fire_in_order_and_never_early() {
    on_ring(SMALL, |ring| async move {
        let fired = Rc::new(RefCell::new(Vec::new()));
        let begin = Instant::now();
        // Its tick is that of its last turn, and this one begins after `begin`.
        ring.next_turn().await;
        let base = ring.now();
        for millis in [30_u64, 0, 10, 1, 70, 10] {
            let (ring, fired) = (ring.clone(), fired.clone());
            let handle = ring.clone();
            handle.spawn(async move {
                ring.sleep_until(base.after(Duration::from_millis(millis))).await;
                fired.borrow_mut().push((millis, begin.elapsed()));
            });
        }
        ring.sleep_until(base.after(Duration::from_millis(80))).await;
        let fired = fired.borrow();
        let order: Vec<_> = fired.iter().map(|(millis, _)| *millis).collect();
        assert_eq!(order, [0, 1, 10, 10, 30, 70]);
        for (millis, elapsed) in fired.iter() {
            // The tick of a ring is cut off to whole milliseconds, when it is read and when it is compared.
            assert!(elapsed.as_millis() as u64 + 1 >= *millis, "{millis} ms fired after {elapsed:?}");
        }
    });
}

/// The shard sleeps for the later one already; the kernel has one timeout for both.
#[test]
fn timer_before_the_one_that_the_shard_sleeps_for_fires_in_time() {
    on_ring(SMALL, |ring| async move {
        let (later, handle) = (Rc::new(Cell::new(None)), ring.clone());
        let noted = Rc::clone(&later);
        let begin = Instant::now();
        ring.spawn(async move {
            handle.sleep_until(handle.now().after(Duration::from_millis(2_000))).await;
            noted.set(Some(begin.elapsed()));
        });
        for millis in [300, 100, 20, 1, 50, 400] {
            let begin = Instant::now();
            ring.sleep_until(ring.now().after(Duration::from_millis(millis))).await;
            let took = begin.elapsed().as_millis() as u64;
            assert!(later.get().is_some() || took < millis + 900, "{millis} ms took {took}");
        }
        while later.get().is_none() {
            ring.sleep_until(ring.now().after(Duration::from_millis(10))).await;
        }
        let later = later.get().expect("it fired");
        assert!(later >= Duration::from_millis(1_999), "{later:?} instead of 2 s");
    });
}

#[test]
fn doorbell_of_another_thread_wakes_a_sleeping_shard_every_time() {
    let (bell, fd) = Doorbell::new().expect("an eventfd");
    let (sender, received) = crossbeam_channel::unbounded::<u32>();
    let (back, echoed) = crossbeam_channel::unbounded::<u32>();
    let ringer = std::thread::spawn(move || {
        for round in 0..2_000 {
            sender.send(round).expect("the shard lives");
            bell.notify();
            assert_eq!(echoed.recv().expect("the shard answers"), round);
        }
    });
    on_ring(SMALL, move |ring| async move {
        let mut listener = ring.listen(fd);
        let mut expected = 0;
        while expected < 2_000 {
            listener.notified().await;
            while let Ok(round) = received.try_recv() {
                assert_eq!(round, expected);
                expected += 1;
                back.send(round).expect("the ringer lives");
            }
        }
    });
    ringer.join().expect("no assertion failed");
}

#[test]
fn an_idle_shard_sleeps() {
    // CLOCK_THREAD_CPUTIME_ID of the shard, read on it.
    fn cpu_time() -> Duration {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("procfs");
        let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("three numbers");
        Duration::from_nanos(nanos)
    }
    on_ring(SMALL, |ring: Ring| async move {
        ring.sleep_until(ring.now().after(Duration::from_millis(50))).await;
        let (turns, used) = (ring.turn(), cpu_time());
        ring.sleep_until(ring.now().after(Duration::from_millis(500))).await;
        assert!(ring.turn() - turns < 20, "{} turns while idle", ring.turn() - turns);
        let used = cpu_time().saturating_sub(used);
        assert!(used < Duration::from_millis(100), "{used:?} of CPU while idle");
    });
}

/// The kernel hands over the work of a few completions in one enter, the driver takes all of them in one
/// turn: what has happened does not wait behind what is started next.
#[test]
fn everything_that_has_completed_comes_in_one_turn() {
    const SOCKETS: usize = 300;
    on_ring(SMALL, |ring| async move {
        let (sockets, mut peers): (Vec<_>, Vec<_>) =
            (0..SOCKETS).map(|_| tcp_pair()).map(|(ours, peer)| (ring.socket(ours), peer)).unzip();
        sockets.iter().for_each(|socket| socket.wait_readable());
        // The polls are in the kernel after this.
        ring.next_turn().await;
        peers.iter_mut().for_each(|peer| peer.write_all(b"x").expect("room for a byte"));
        let before = ring.turn();
        while sockets.iter().any(|socket| socket.is_waiting_readable()) {
            ring.next_turn().await;
        }
        let turns = ring.turn() - before;
        assert!(turns <= 2, "{SOCKETS} completions took {turns} turns");
    });
}

/// More operations than the queues of the ring have entries, and all of them complete at once. What does not
/// fit the kernel keeps back (NODROP); before Linux 6.13 one enter brings all of it.
#[test]
fn completions_beyond_the_queue_are_not_lost() {
    if !has_descriptors(6_000) {
        return;
    }
    // Each completes four times: a poll, a watch, a byte, the end.
    const SOCKETS: usize = 2_500;
    let buffers = BufferSettings { bytes: 64, count: 4_096 };
    on_ring(buffers, |ring| async move {
        let pair = || UnixStream::pair().expect("descriptors");
        let (sockets, mut peers): (Vec<Socket>, Vec<_>) =
            (0..SOCKETS).map(|_| pair()).map(|(ours, peer)| (ring.socket(ours.into()), peer)).unzip();
        for socket in &sockets {
            socket.wait_readable();
            socket.watch();
            socket.receive(Receive::Many);
        }
        // 512 of them are handed over in one enter.
        for _ in 0..20 {
            ring.next_turn().await;
        }
        for peer in &mut peers {
            peer.write_all(b"x").expect("room for a byte");
            peer.shutdown(Shutdown::Write).expect("connected");
        }
        let is_done = |socket: &Socket| {
            socket.received() == 1 && socket.ended() == Some(End::Clean) && !socket.is_waiting_readable()
        };
        while !sockets.iter().all(is_done) {
            sockets.iter().for_each(|socket| socket.receive(Receive::Many));
            ring.next_turn().await;
        }
    });
}
