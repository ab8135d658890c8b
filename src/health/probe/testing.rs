//! Backends on loopback for the tests of the exchanges.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::base::Address;

use super::talk::Parsed;
use super::{ProbeOutcome, Question, Sockets, probe};

/// Far more than an exchange takes that is meant to end.
const AMPLE: Duration = Duration::from_secs(30);
/// The timeout of an exchange that is meant not to end.
const SHORT: Duration = Duration::from_millis(200);

/// Asks a backend that serves each connection like this. What it drops is closed.
pub(super) async fn ask(question: &Question, serve: impl AsyncFn(TcpStream)) -> ProbeOutcome {
    ask_for(question, AMPLE, serve).await
}

/// The same with a backend that never comes to an end: the cause of the timeout, without the address.
pub(super) async fn ask_too_long(question: &Question, serve: impl AsyncFn(TcpStream)) -> String {
    match ask_for(question, SHORT, serve).await {
        ProbeOutcome::Timeout(cause) => without_address(&cause),
        other => panic!("{other:?}"),
    }
}

/// The same with a backend that fails: the cause, without the address.
pub(super) async fn ask_in_vain(question: &Question, serve: impl AsyncFn(TcpStream)) -> String {
    match ask(question, serve).await {
        ProbeOutcome::Failure(cause) => without_address(&cause),
        other => panic!("{other:?}"),
    }
}

/// Asks a backend that has come to its end when this returns: the outcome, and what the backend has seen.
pub(super) async fn ask_to_the_end<T>(
    question: &Question,
    serve: impl AsyncFn(TcpStream) -> T,
) -> (Result<(), String>, T) {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = [Address::Tcp(listener.local_addr().unwrap())];
        let serving = async { serve(listener.accept().await.unwrap().0).await };
        let both = async { tokio::join!(probe(&Sockets, &address, question, None, AMPLE), serving) };
        match tokio::time::timeout(AMPLE * 2, both).await.expect("both end") {
            (ProbeOutcome::Success(0), seen) => return (Ok(()), seen),
            (ProbeOutcome::Failure(cause), seen) => return (Err(without_address(&cause)), seen),
            (ProbeOutcome::Frozen, _) => {}
            (other, _) => panic!("{other:?}"),
        }
    }
}

fn without_address(cause: &str) -> String {
    let begin = cause.strip_prefix("127.0.0.1:").expect("the address comes first");
    begin.split_once(": ").expect("then the cause").1.to_owned()
}

/// Asks for so long. Repeats what says nothing because the machine is busy, as the checker does.
pub(super) async fn ask_for(
    question: &Question,
    timeout: Duration,
    serve: impl AsyncFn(TcpStream),
) -> ProbeOutcome {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = [Address::Tcp(listener.local_addr().unwrap())];
        let serving = async {
            serve(listener.accept().await.unwrap().0).await;
            std::future::pending::<()>().await;
        };
        let outcome = tokio::select! {
            outcome = probe(&Sockets, &address, question, None, timeout) => outcome,
            () = serving => unreachable!("it waits for ever"),
        };
        if outcome != ProbeOutcome::Frozen {
            return outcome;
        }
    }
}

/// Holds a connection without a word.
pub(super) async fn hang(stream: TcpStream) {
    std::future::pending::<()>().await;
    drop(stream);
}

/// Resets a connection once something came.
pub(super) async fn reset(stream: TcpStream) {
    stream.peek(&mut [0]).await.unwrap();
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// What comes up to and with `end`.
pub(super) async fn read_to(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        bytes.push(stream.read_u8().await.unwrap());
    }
    bytes
}

/// What a parser makes of every part of `bytes`: nothing before the whole message of `length` is there, and then
/// always that message, whatever follows.
pub(super) fn parsed_at_every_cut<T: std::fmt::Debug + PartialEq>(
    parse: impl Fn(&[u8]) -> Parsed<T>,
    bytes: &[u8],
    length: usize,
) -> T {
    for cut in 0..length {
        assert_eq!(parse(&bytes[..cut]), Ok(None), "{}", bytes[..cut].escape_ascii());
    }
    let (message, found) = parse(bytes).unwrap().unwrap();
    assert_eq!(found, length);
    for cut in length..=bytes.len() {
        let (again, found) = parse(&bytes[..cut]).unwrap().unwrap();
        assert_eq!((&again, found), (&message, length), "{}", bytes[..cut].escape_ascii());
    }
    message
}

/// Asks a backend over a connection that carries one byte at a time.
pub(super) async fn ask_by_bytes(
    question: &Question,
    serve: impl AsyncFnOnce(DuplexStream),
) -> Result<(), String> {
    let (ours, theirs) = tokio::io::duplex(1);
    let due = Instant::now() + AMPLE;
    let (asked, ()) = tokio::join!(question.ask(Box::new(ours), due), serve(theirs));
    asked.expect("in time").map_err(|error| error.cause)
}
