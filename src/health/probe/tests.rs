//! Which addresses are tried, for how long, and whose fault a failure is.

use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use tokio::io::DuplexStream;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(6);

/// What an address does, by its port.
enum Acts {
    Accepts,
    Fails(i32),
    Hangs,
    /// The process is stopped for so long while it waits for the answer.
    Stops(Duration),
    /// Accepts and says nothing.
    IsSilent,
    /// The same, and the process is stopped for so long meanwhile.
    IsSilentAndStops(Duration),
}

struct Script {
    acts: Vec<Acts>,
    tried: RefCell<Vec<u16>>,
    /// The other ends of what is silent.
    held: RefCell<Vec<DuplexStream>>,
}

impl Script {
    fn silent(&self) -> Connection {
        let (ours, theirs) = tokio::io::duplex(64);
        self.held.borrow_mut().push(theirs);
        Box::new(ours)
    }
}

impl Connect for Script {
    async fn connect(&self, address: &Address, _: Option<Version>) -> io::Result<Connection> {
        let Address::Tcp(address) = address else { unreachable!("TCP only") };
        self.tried.borrow_mut().push(address.port());
        match &self.acts[usize::from(address.port())] {
            Acts::Accepts => Ok(Box::new(tokio::io::empty())),
            Acts::Fails(error) => Err(io::Error::from_raw_os_error(*error)),
            Acts::Hangs => std::future::pending().await,
            Acts::Stops(length) => {
                time::advance(*length).await;
                std::future::pending().await
            }
            Acts::IsSilent => Ok(self.silent()),
            Acts::IsSilentAndStops(length) => {
                tokio::spawn(time::advance(*length));
                Ok(self.silent())
            }
        }
    }
}

async fn run(acts: Vec<Acts>) -> (ProbeOutcome, Vec<u16>) {
    run_asking(acts, &Question::Tcp).await
}

async fn run_asking(acts: Vec<Acts>, question: &Question) -> (ProbeOutcome, Vec<u16>) {
    let address = |port| Address::Tcp(([127, 0, 0, 1], port).into());
    let addresses: Vec<Address> = (0..acts.len() as u16).map(address).collect();
    let script = Script { acts, tried: RefCell::default(), held: RefCell::default() };
    let outcome = probe(&script, &addresses, question, None, TIMEOUT).await;
    (outcome, script.tried.into_inner())
}

#[tokio::test(start_paused = true)]
async fn addresses_are_tried_in_order_until_one_accepts() {
    let acts = vec![Acts::Fails(libc::ECONNREFUSED), Acts::Accepts, Acts::Hangs];
    assert_eq!(run(acts).await, (ProbeOutcome::Success(1), vec![0, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_in_front_does_not_hide_a_live_address_behind() {
    let begin = Instant::now();
    assert_eq!(run(vec![Acts::Hangs, Acts::Hangs, Acts::Accepts]).await.0, ProbeOutcome::Success(2));
    assert!(begin.elapsed() < TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn all_addresses_together_take_one_timeout() {
    let begin = Instant::now();
    let (outcome, tried) = run(vec![Acts::Hangs, Acts::Fails(libc::ECONNREFUSED), Acts::Hangs]).await;
    assert!(matches!(outcome, ProbeOutcome::Timeout(_)), "{outcome:?}");
    assert_eq!(tried.len(), 3);
    assert!(begin.elapsed() >= TIMEOUT && begin.elapsed() < TIMEOUT + LATE);
}

#[tokio::test(start_paused = true)]
async fn what_this_process_lacks_is_not_the_backends_fault() {
    for error in [libc::EMFILE, libc::ENOBUFS, libc::EADDRNOTAVAIL, libc::EADDRINUSE, libc::EAGAIN] {
        assert!(matches!(run(vec![Acts::Fails(error)]).await.0, ProbeOutcome::Local(_)), "{error}");
    }
    // As `localhost` on a machine without IPv6: the other address did refuse.
    let acts = vec![Acts::Fails(libc::EADDRNOTAVAIL), Acts::Fails(libc::ECONNREFUSED)];
    assert!(matches!(run(acts).await.0, ProbeOutcome::Failure(_)));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_while_the_process_was_stopped_says_nothing() {
    let acts = vec![Acts::Stops(TIMEOUT * 2)];
    assert_eq!(run(acts).await.0, ProbeOutcome::Frozen);
}

/// Expects what nobody here says.
fn expecting() -> Question {
    Question::SendExpect(Arc::from([Step { send: None, expect: Some(b"hello".to_vec()) }]))
}

#[tokio::test(start_paused = true)]
async fn the_first_address_that_takes_a_connection_decides() {
    let acts = vec![Acts::Fails(libc::ECONNREFUSED), Acts::Accepts, Acts::Accepts];
    let (outcome, tried) = run_asking(acts, &expecting()).await;
    assert_eq!(tried, [0, 1]);
    let cause = "127.0.0.1:0: Connection refused; \
                 127.0.0.1:1: step 1: nothing instead of `hello`; the connection ended";
    assert_eq!(outcome, ProbeOutcome::Failure(cause.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn the_answer_has_what_the_connection_left_of_the_timeout() {
    let begin = Instant::now();
    let (outcome, _) = run_asking(vec![Acts::Hangs, Acts::IsSilent], &expecting()).await;
    let cause = "127.0.0.1:0: no answer in 3s; 127.0.0.1:1: step 1: nothing instead of `hello` in 6s";
    assert_eq!(outcome, ProbeOutcome::Timeout(cause.to_owned()));
    assert!(begin.elapsed() >= TIMEOUT && begin.elapsed() < TIMEOUT + LATE, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_missing_after_the_process_was_stopped_says_nothing() {
    let acts = vec![Acts::IsSilentAndStops(TIMEOUT * 2)];
    assert_eq!(run_asking(acts, &expecting()).await.0, ProbeOutcome::Frozen);
}

#[tokio::test]
async fn a_listening_tcp_socket_succeeds_and_a_closed_one_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = [Address::Tcp(listener.local_addr().unwrap())];
    assert_eq!(probe(&Sockets, &address, &Question::Tcp, None, TIMEOUT).await, ProbeOutcome::Success(0));
    let (mut accepted, _) = listener.accept().unwrap();
    assert_eq!(io::Read::read(&mut accepted, &mut [0]).unwrap(), 0, "a clean end, not a reset");
    drop((listener, accepted));
    let ProbeOutcome::Failure(cause) = probe(&Sockets, &address, &Question::Tcp, None, TIMEOUT).await else {
        panic!("it is closed")
    };
    assert!(cause.contains("refused") && cause.contains(&address[0].to_string()), "{cause}");
}

#[tokio::test]
async fn a_socket_file_succeeds_and_a_missing_or_full_one_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let address = [Address::Unix(path.clone())];
    assert!(matches!(
        probe(&Sockets, &address, &Question::Tcp, None, TIMEOUT).await,
        ProbeOutcome::Failure(_)
    ));
    let _listener = UnixListener::bind(&path).unwrap();
    assert_eq!(probe(&Sockets, &address, &Question::Tcp, None, TIMEOUT).await, ProbeOutcome::Success(0));
    let full = io::Error::from_raw_os_error(libc::EAGAIN);
    assert!(LocalFailure::of(&full, &address[0]).is_none(), "a full backlog is the backend's overload");
}
