//! The exchange of `type: redis`: PING, and a judgement of what is answered.
//!
//! Nobody is logged in. A server that wants a password says so before anything else (`NOAUTH`), which proves
//! that it serves. Any other error is one that clients get as well, and Redis itself refuses PING where
//! writes would be refused (`MISCONF`): such a server is down.
//!
//! Protocol: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use super::error::ExchangeError;
use super::talk::{self, Parsed, Talk, quoted};

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const QUIT: &[u8] = b"*1\r\n$4\r\nQUIT\r\n";
/// Longest answer, bytes. Redis has errors of 500 bytes (`DENIED`, in protected mode).
const LINE_BYTES_MAX: usize = 4 << 10;
/// Errors of a server that serves clients who log in.
const WANTS_LOGIN: [&[u8]; 2] = [b"-NOAUTH", b"-NOPERM"];

pub(super) async fn run(talk: &mut Talk) -> Result<(), ExchangeError> {
    talk.send(PING).await?;
    let answer = talk.receive("answer to PING", answer).await?;
    talk.leave(QUIT).await;
    judge(&answer).map_err(ExchangeError::of_backend)
}

/// An answer is one line: a status or an error.
fn answer(bytes: &[u8]) -> Parsed<Vec<u8>> {
    match bytes.first() {
        Some(b'+' | b'-') => Ok(talk::line(bytes, LINE_BYTES_MAX)?.map(|(line, end)| (line.to_vec(), end))),
        Some(_) => Err("no answer of Redis".to_owned()),
        None => Ok(None),
    }
}

fn judge(answer: &[u8]) -> Result<(), String> {
    let word = answer.split(|&byte| byte == b' ').next().unwrap_or_default();
    if answer == b"+PONG" || WANTS_LOGIN.contains(&word) {
        return Ok(());
    }
    Err(format!("PING was answered {}", quoted(answer)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::Question;
    use super::super::testing::*;
    use super::*;

    /// Asks a server that gives this answer to PING and sees QUIT and the end follow.
    async fn asked(said: &str) -> Result<(), String> {
        let serve = async |mut stream: TcpStream| {
            assert_eq!(read_to(&mut stream, b"PING\r\n").await, PING);
            stream.write_all(format!("{said}\r\n").as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, QUIT);
        };
        ask_to_the_end(&Question::Redis, serve).await.0
    }

    #[tokio::test]
    async fn a_server_that_pongs_or_wants_a_login_is_up() {
        for said in [
            "+PONG",
            "-NOAUTH Authentication required.",
            "-NOPERM User default has no permissions to run the 'ping' command",
        ] {
            assert_eq!(asked(said).await, Ok(()), "{said}");
        }
    }

    #[tokio::test]
    async fn a_server_that_refuses_its_clients_is_down_with_its_text() {
        for said in [
            "-LOADING Redis is loading the dataset in memory",
            "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "-MISCONF Redis is configured to save RDB snapshots",
            "-BUSY Redis is busy running a script.",
            "-ERR max number of clients reached",
            "-NOAUTHX",
            "+OK",
        ] {
            assert_eq!(asked(said).await, Err(format!("PING was answered `{said}`")));
        }
    }

    #[tokio::test]
    async fn what_is_no_redis_is_down() {
        let say = async |said: &[u8]| {
            ask_in_vain(&Question::Redis, async |mut stream| {
                read_to(&mut stream, PING).await;
                stream.write_all(said).await.unwrap();
            })
            .await
        };
        assert_eq!(say(b"HTTP/1.1 400\r\n").await, "no answer of Redis: `HTTP/1.1 400\\r\\n`");
        assert_eq!(say(b"+PO").await, "no answer to PING, only `+PO`; the connection ended");
        assert_eq!(say(b"").await, "no answer to PING; the connection ended");
        let long = say(&[b'+'; LINE_BYTES_MAX + 1]).await;
        assert!(long.starts_with("no end of a line in 4096 bytes: `++"), "{long}");
        assert_eq!(ask_in_vain(&Question::Redis, reset).await, "no answer to PING: Connection reset by peer");
        assert_eq!(ask_too_long(&Question::Redis, hang).await, "no answer to PING in 200ms");
    }

    #[tokio::test]
    async fn bytes_may_come_one_by_one() {
        let outcome = ask_by_bytes(&Question::Redis, async |mut stream| {
            read_to(&mut stream, PING).await;
            stream.write_all(b"+PONG\r\n").await.unwrap();
            read_to(&mut stream, QUIT).await;
        });
        assert_eq!(outcome.await, Ok(()));
    }

    #[test]
    fn cuts_do_not_matter() {
        assert_eq!(parsed_at_every_cut(answer, b"+PONG\r\n+OK\r\n", 7), b"+PONG");
        assert_eq!(parsed_at_every_cut(answer, b"-ERR x\n", 7), b"-ERR x");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some((found, length))) = answer(&bytes) {
                prop_assert!(length <= bytes.len());
                let _ = judge(&found);
            }
        }
    }
}
