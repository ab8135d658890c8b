//! The exchange of `type: send_expect`: bytes that are sent, and bytes that have to come.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::base::limits;
use crate::config::Step;

use super::connection::Connection;
use super::error::ExchangeError;
use super::talk::shown;

/// Room for one read.
const READ_BYTES: usize = 2 << 10;

/// The steps, and how far they came.
pub(super) struct Dialogue<'a> {
    steps: &'a [Step],
    /// Position of the step that is under way.
    at: usize,
    /// What came and was not expected yet; at most `limits::CHECK_RECEIVED_BYTES_MAX`.
    received: Vec<u8>,
}

impl<'a> Dialogue<'a> {
    pub(super) fn new(steps: &'a [Step]) -> Self {
        Self { steps, at: 0, received: Vec::new() }
    }

    /// Sends and expects; a step is over when its bytes have come. What came behind them is left to the next
    /// one.
    pub(super) async fn run(&mut self, connection: &mut Connection) -> Result<(), ExchangeError> {
        for (at, step) in self.steps.iter().enumerate() {
            self.at = at;
            if let Some(send) = &step.send {
                let sent = connection.write_all(send).await;
                sent.map_err(|error| ExchangeError::of_socket(&format!("step {}: sending", at + 1), &error))?;
            }
            if let Some(expect) = &step.expect {
                self.read_until(connection, expect).await?;
            }
        }
        Ok(())
    }

    async fn read_until(&mut self, connection: &mut Connection, expect: &[u8]) -> Result<(), ExchangeError> {
        let mut looked = 0;
        loop {
            let found = self.received[looked..].windows(expect.len()).position(|window| window == expect);
            if let Some(found) = found {
                self.received.drain(..looked + found + expect.len());
                return Ok(());
            }
            // The last bytes may be the beginning of what is expected.
            looked = self.received.len().saturating_sub(expect.len() - 1);
            let room = limits::CHECK_RECEIVED_BYTES_MAX - self.received.len();
            if room == 0 {
                return Err(ExchangeError::of_backend(format!(
                    "{} in {} bytes",
                    self.missing(),
                    self.received.len()
                )));
            }
            self.received.reserve(READ_BYTES.min(room));
            let mut bounded = connection.take(room as u64);
            let read = bounded.read_buf(&mut self.received).await;
            match read.map_err(|error| ExchangeError::of_socket(&self.missing(), &error))? {
                0 => {
                    return Err(ExchangeError::of_backend(format!(
                        "{}; the connection ended",
                        self.missing()
                    )));
                }
                _ => {
                    debug_assert!(self.received.len() <= limits::CHECK_RECEIVED_BYTES_MAX, "within the bound")
                }
            }
        }
    }

    /// What the step under way lacks, and what came instead.
    pub(super) fn missing(&self) -> String {
        let number = self.at + 1;
        let Some(expect) = self.steps.get(self.at).and_then(|step| step.expect.as_deref()) else {
            return format!("step {number}: not all was sent");
        };
        let came = match &self.received[..] {
            [] => "nothing".to_owned(),
            came => shown(came),
        };
        format!("step {number}: {came} instead of {}", shown(expect))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio::net::TcpStream;

    use super::super::talk::SHOWN_BYTES;
    use super::super::testing::*;
    use super::super::{ProbeOutcome, Question};
    use super::*;

    fn send(bytes: &[u8]) -> Step {
        Step { send: Some(bytes.to_vec()), expect: None }
    }

    fn expect(bytes: &[u8]) -> Step {
        Step { send: None, expect: Some(bytes.to_vec()) }
    }

    fn both(send: &[u8], expect: &[u8]) -> Step {
        Step { send: Some(send.to_vec()), expect: Some(expect.to_vec()) }
    }

    fn question(steps: Vec<Step>) -> Question {
        Question::SendExpect(Arc::from(steps))
    }

    /// Greets, and answers two lines.
    async fn converse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        assert_eq!(read_to(stream, b"\r\n").await, b"NOOP\r\n");
        stream.write_all(b"250 fine\r\n").await.unwrap();
        assert_eq!(read_to(stream, b"\r\n").await, b"QUIT\r\n");
        stream.write_all(b"221 ").await.unwrap();
    }

    fn conversation() -> Vec<Step> {
        vec![expect(b"y\r\n"), both(b"NOOP\r\n", b"fine\r\n"), send(b"QUIT"), both(b"\r\n", b"221 ")]
    }

    #[tokio::test]
    async fn steps_follow_one_another() {
        let outcome = ask(&question(conversation()), async |mut stream| converse(&mut stream).await).await;
        assert_eq!(outcome, ProbeOutcome::Success(0));
    }

    #[tokio::test]
    async fn what_comes_byte_by_byte_is_found() {
        // Room for a single byte at a time.
        let (ours, mut theirs) = tokio::io::duplex(1);
        let steps = conversation();
        let (mut dialogue, mut connection): (_, Connection) = (Dialogue::new(&steps), Box::new(ours));
        let (done, ()) = tokio::join!(dialogue.run(&mut connection), async {
            converse(&mut theirs).await;
        });
        done.unwrap();
    }

    #[tokio::test]
    async fn what_came_behind_the_expected_bytes_is_left_to_the_next_step() {
        let serve = async |mut stream: TcpStream| {
            stream.write_all(b"--one--two").await.unwrap();
            hang(stream).await;
        };
        let outcome = ask(&question(vec![expect(b"one"), expect(b"--"), expect(b"two")]), serve).await;
        assert_eq!(outcome, ProbeOutcome::Success(0));
        let cause = ask_too_long(&question(vec![expect(b"one"), expect(b"one")]), serve).await;
        assert_eq!(cause, "step 2: `--two` instead of `one` in 200ms");
    }

    #[tokio::test]
    async fn any_bytes_can_be_sent_and_expected() {
        let all: Vec<u8> = (0..=255).collect();
        let echo = async |mut stream: TcpStream| {
            let mut bytes = [0; 256];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        };
        let outcome = ask(&question(vec![both(&all, &all[200..])]), echo).await;
        assert_eq!(outcome, ProbeOutcome::Success(0));
    }

    #[tokio::test]
    async fn an_end_names_the_step_and_what_came() {
        let serve = async |mut stream: TcpStream| {
            read_to(&mut stream, b"\r\n").await;
            stream.write_all(b"-ERR \x1b[2Jwho?\r\n").await.unwrap();
        };
        let cause = ask_in_vain(&question(vec![send(b"PING"), both(b"\r\n", b"+PONG")]), serve).await;
        assert_eq!(cause, "step 2: `-ERR \\x1b[2Jwho?\\r\\n` instead of `+PONG`; the connection ended");
        let cause = ask_in_vain(&question(vec![expect(b"+")]), async |stream| drop(stream)).await;
        assert_eq!(cause, "step 1: nothing instead of `+`; the connection ended");
    }

    #[tokio::test]
    async fn a_reset_names_the_step() {
        let cause = ask_in_vain(&question(vec![both(b"PING", b"+")]), reset).await;
        assert_eq!(cause, "step 1: nothing instead of `+`: Connection reset by peer");
    }

    #[tokio::test]
    async fn more_than_the_bound_without_a_match_fails() {
        let serve = async |mut stream: TcpStream| while stream.write_all(&[b'x'; 1 << 10]).await.is_ok() {};
        let cause = ask_in_vain(&question(vec![expect(b"y")]), serve).await;
        let shown = "x".repeat(SHOWN_BYTES);
        assert_eq!(cause, format!("step 1: `{shown}`… instead of `y` in 65536 bytes"));
    }

    #[tokio::test]
    async fn silence_and_a_backend_that_does_not_read_run_into_the_timeout() {
        let cause = ask_too_long(&question(vec![both(b"PING\r\n", b"+PONG")]), hang).await;
        assert_eq!(cause, "step 1: nothing instead of `+PONG` in 200ms");
        // More than the kernel takes.
        let much: Vec<Step> = vec![send(&[0; 16 << 20])];
        assert_eq!(ask_too_long(&question(much), hang).await, "step 1: not all was sent in 200ms");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// However the bytes are cut, a step succeeds if and only if the expected ones are among them.
        #[test]
        fn cuts_do_not_matter(
            bytes in prop::collection::vec(0..2_u8, 0..60),
            wanted in prop::collection::vec(0..2_u8, 1..8),
            room in 1..10_usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let is_among = bytes.windows(wanted.len()).any(|window| window == wanted);
            let done = runtime.block_on(async {
                let (ours, mut theirs) = tokio::io::duplex(room);
                let steps = [expect(&wanted)];
                let (mut dialogue, mut connection): (_, Connection) = (Dialogue::new(&steps), Box::new(ours));
                // Drops its end after the last byte; whoever has found what it wanted reads no more.
                let sending = async move {
                    let _ = theirs.write_all(&bytes).await;
                };
                let finding = async move { dialogue.run(&mut connection).await.is_ok() };
                tokio::join!(finding, sending).0
            });
            prop_assert_eq!(done, is_among);
        }
    }
}
