//! Set-up: a pool that takes connections back, either untouched or after a reset that the backend confirms.
//! Claim: a connection comes back only if nothing can still be on its way, and no byte of one client reaches
//! another.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ringway::base::CloseReason;

use crate::support::{Connection, Stream, backend, balancer, eventually};

use super::{RESET, await_pool, count, one_session, with_reset};

#[test]
fn connection_without_a_byte_comes_back() {
    let backend = backend().echo().start();
    let upstream = "pool: {size: 2, reuse: untouched}";
    let balancer = balancer().one_shard().backends([&backend]).upstream(upstream).start();
    await_pool(&balancer, &backend, 2);
    for round in 1..=20 {
        balancer.client().reset();
        eventually("it is back", || count(&balancer, |pool| pool.returned) == round);
    }
    balancer.client().finish().unwrap();
    eventually("it is back", || count(&balancer, |pool| pool.returned) == 21);
    assert_eq!(backend.connections(), 2);
    balancer.echoing_client().finish().unwrap();
    balancer.await_closed(CloseReason::Normal, 2);
    balancer.await_closed(CloseReason::ClientReset, 20);
    assert_eq!(count(&balancer, |pool| pool.returned), 21, "one that carried bytes does not come back");
}

#[test]
fn connection_that_was_reset_serves_the_next_client() {
    let backend = with_reset(|connection| connection.send(b"+RESET\r\n"));
    let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
    await_pool(&balancer, &backend, 2);
    for round in 1..=200 {
        one_session(&balancer, round);
        eventually("it is back", || count(&balancer, |pool| pool.returned) == u64::from(round));
    }
    balancer.await_closed(CloseReason::Normal, 200);
    assert_eq!((backend.connections(), count(&balancer, |pool| pool.reset_failed)), (2, 0));
}

#[test]
fn connection_is_closed_when_its_reset_is_not_confirmed() {
    type Answer = fn(&Connection) -> io::Result<()>;
    let answers: [Answer; 4] = [
        |_| Ok(()),
        |connection| connection.send(b"-ERR no\r\n"),
        |connection| connection.send(b"x+RESET\r\n"),
        |connection| connection.send(b"+RESET\r\nx"),
    ];
    for (index, answer) in answers.into_iter().enumerate() {
        let backend = with_reset(answer);
        let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
        await_pool(&balancer, &backend, 2);
        for round in 0..4 {
            let client = balancer.client();
            client.echo(format!("client {round}\r\n").as_bytes()).unwrap();
            client.end().unwrap();
            // Silence cuts nothing; anything else may have been on its way to the client.
            assert_eq!(client.receive_all().1.is_ok(), index == 0, "answer {index}");
        }
        balancer.await_closed(if index == 0 { CloseReason::Normal } else { CloseReason::AnswerCut }, 4);
        assert_eq!(count(&balancer, |pool| pool.returned), 0, "answer {index}");
        assert_eq!(count(&balancer, |pool| pool.reset_failed), 4, "answer {index}");
    }
}

/// A backend that speaks on a connection in the pool: what it says is for no client.
#[test]
fn bytes_on_a_connection_in_the_pool_reach_no_client() {
    let (said, wanted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (says, told) = (Arc::clone(&said), Arc::clone(&wanted));
    let backend = with_reset(move |connection| {
        connection.send(b"+RESET\r\n")?;
        let before = says.load(Ordering::SeqCst);
        while told.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
        connection.send(b"LATE")?;
        says.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
    for round in 1..=50 {
        await_pool(&balancer, &backend, 2);
        one_session(&balancer, round);
        eventually("it is back", || count(&balancer, |pool| pool.returned) == u64::from(round));
        wanted.fetch_add(1, Ordering::SeqCst);
        // The bytes lie in the receiving socket from then on; the pool may not have noticed them.
        eventually("the backend has spoken", || said.load(Ordering::SeqCst) == u64::from(round));
    }
    one_session(&balancer, 51);
    // Lets the backend go.
    wanted.fetch_add(1, Ordering::SeqCst);
}

/// Bulk is spliced, and a long stream has the kernel wait for much before it tells: nothing of that stays
/// behind.
#[test]
fn connection_that_carried_bulk_serves_small_messages_again() {
    const BULK: usize = 32 << 20;
    let backend = backend()
        .serve(|connection| {
            let stream = Stream::new(5);
            loop {
                match &*connection.receive_exact(7)? {
                    b"RESET\r\n" => connection.send(b"+RESET\r\n")?,
                    b"BULK!\r\n" => connection.send(&stream.head(BULK))?,
                    other => connection.send(other)?,
                }
            }
        })
        .start();
    let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
    await_pool(&balancer, &backend, 2);
    for round in 1..=4 {
        let client = balancer.client();
        client.send(b"BULK!\r\n").unwrap();
        assert!(Stream::new(5).matches(0, &client.receive_exact(BULK).unwrap()));
        client.finish().unwrap();
        eventually("it is back", || count(&balancer, |pool| pool.returned) == 2 * round - 1);
        let client = balancer.client();
        client.echo(b"small\r\n").unwrap();
        client.finish().unwrap();
        eventually("it is back", || count(&balancer, |pool| pool.returned) == 2 * round);
    }
    assert_eq!(backend.connections(), 2);
    let spliced: u64 = balancer.work(|work| work.spliced_to_client);
    assert!(spliced > BULK as u64, "{spliced} bytes were spliced");
}

/// A connection that has served one client stays a used one, also through a client that says nothing.
#[test]
fn late_answer_to_one_client_never_looks_like_a_greeting_to_another() {
    let speaks = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&speaks);
    let backend = with_reset(move |connection| {
        connection.send(b"+RESET\r\n")?;
        let (told, late) = (Arc::clone(&told), connection.clone());
        std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            // The balancer may have closed it.
            let _ = late.send(b"SECRET");
        });
        Ok(())
    });
    let upstream = RESET.replace("size: 2", "size: 1");
    for is_in_session in [false, true] {
        speaks.store(false, Ordering::SeqCst);
        let balancer = balancer().one_shard().backends([&backend]).upstream(&upstream).start();
        eventually("it is made", || count(&balancer, |pool| pool.made) == 1);
        one_session(&balancer, 1);
        eventually("it is back", || count(&balancer, |pool| pool.returned) == 1);
        let silent = balancer.client();
        eventually("it is leased", || count(&balancer, |pool| pool.hits) == 2);
        if is_in_session {
            speaks.store(true, Ordering::SeqCst);
            eventually("it is replaced", || count(&balancer, |pool| pool.replaced) == 1);
            silent.echo(b"own\r\n").unwrap();
            silent.reset();
        } else {
            silent.reset();
            eventually("it is back", || count(&balancer, |pool| pool.returned) == 2);
            speaks.store(true, Ordering::SeqCst);
            eventually("it is thrown away", || count(&balancer, |pool| pool.closed) == 1);
            let client = balancer.client();
            client.echo(b"own\r\n").unwrap();
            client.reset();
        }
    }
}

/// A client that ends its stream in the middle of the answer gets all of it or a reset, never a part that
/// looks whole.
#[test]
fn answer_truncated_for_reuse_does_not_look_whole() {
    const BULK: usize = 16 << 20;
    let backend = backend()
        .serve(|connection| {
            let stream = Stream::new(6);
            loop {
                match &*connection.receive_exact(7)? {
                    b"RESET\r\n" => connection.send(b"+RESET\r\n")?,
                    _ => connection.send(&stream.head(BULK))?,
                }
            }
        })
        .start();
    let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
    for read_before in [0, 1, 1 << 10, 1 << 20, 4 << 20, 8 << 20, 12 << 20] {
        let client = balancer.client();
        client.send(b"BULK!\r\n").unwrap();
        let head = client.receive_exact(read_before).unwrap();
        client.end().unwrap();
        let (rest, end) = client.receive_all();
        let length = head.len() + rest.len();
        assert!(end.is_err() || length == BULK, "{length} of {BULK} bytes and a clean end");
    }
}

#[test]
fn shard_without_a_pool_asks_no_backend_for_a_reset() {
    let asked = Arc::new(AtomicU64::new(0));
    let noted = Arc::clone(&asked);
    let backend = with_reset(move |connection| {
        noted.fetch_add(1, Ordering::SeqCst);
        connection.send(b"+RESET\r\n")
    });
    let balancer = balancer().backends([&backend]).upstream(&RESET.replace("size: 2", "size: 1")).start();
    eventually("it is made", || count(&balancer, |pool| pool.made) == 1);
    (0..20).for_each(|round| one_session(&balancer, round));
    balancer.await_closed(CloseReason::Normal, 20);
    assert_eq!(asked.load(Ordering::SeqCst), count(&balancer, |pool| pool.returned));
}

#[test]
fn connection_of_a_client_that_resets_does_not_come_back() {
    let backend = with_reset(|connection| connection.send(b"+RESET\r\n"));
    let balancer = balancer().one_shard().backends([&backend]).upstream(RESET).start();
    await_pool(&balancer, &backend, 2);
    for _ in 0..5 {
        let client = balancer.client();
        client.echo(b"bytes\r\n").unwrap();
        client.reset();
    }
    balancer.await_closed(CloseReason::ClientReset, 5);
    assert_eq!(count(&balancer, |pool| pool.returned), 0);
}
