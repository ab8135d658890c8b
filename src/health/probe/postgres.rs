//! The exchange of `type: postgres`: a start of a session, and a judgement of what is answered.
//!
//! A server that asks for a password serves, and is left without one: PostgreSQL takes the end of a connection
//! there for a client that has to ask its user first, and logs nothing. A message instead of the end,
//! Terminate too, would be logged as an error. A server that lets the user in is told Terminate once it is
//! ready.
//!
//! Protocol: <https://www.postgresql.org/docs/current/protocol-flow.html>, version 3.0.

use super::error::ExchangeError;
use super::talk::{Parsed, Talk, quoted};
use crate::config::PostgresCheck;

const TERMINATE: &[u8] = b"X\0\0\0\x04";
const VERSION: [u8; 4] = [0, 3, 0, 0];
/// Who asks if nobody is named, and who need not exist.
const ANYBODY: &str = "ringway";
/// The kind of a message and its length.
const HEAD_BYTES: usize = 5;
/// Longest message, bytes, without its kind.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
const AUTHENTICATION_OK: [u8; 4] = [0; 4];
/// Classes of errors that refuse the user or the database, of the many that there are: invalid authorization,
/// no such database, and no right to connect to it. The others refuse everybody: too many clients (53), the
/// server starts, stops or recovers (57).
const REFUSES_USER: [&[u8]; 3] = [b"28", b"3D", b"42"];

/// The first message, and whether its user has to be taken.
#[derive(Debug)]
pub(crate) struct Startup {
    message: Vec<u8>,
    is_strict: bool,
}

impl Startup {
    pub(super) fn new(check: &PostgresCheck) -> Self {
        let user = check.user.as_deref().unwrap_or(ANYBODY);
        let mut body = VERSION.to_vec();
        for text in ["user", user, "database", &check.database, ""] {
            body.extend(text.as_bytes());
            body.push(0);
        }
        // Names are shorter by far than the length could say.
        let length = (body.len() + size_of::<u32>()) as u32;
        Self { message: [&length.to_be_bytes()[..], &body].concat(), is_strict: check.user.is_some() }
    }

    pub(super) async fn run(&self, talk: &mut Talk) -> Result<(), ExchangeError> {
        talk.send(&self.message).await?;
        let first = talk.receive("answer to the start of a session", message).await?;
        match first {
            Message::LetIn => {}
            Message::WantsLogin => return Ok(()),
            Message::Error(error) => return self.judge(&error),
            Message::Ready | Message::Other => {
                return Err(ExchangeError::of_backend("no answer to the start of a session".to_owned()));
            }
        }
        loop {
            match talk.receive("end of the login", message).await? {
                Message::Ready => break,
                Message::Error(error) => return self.judge(&error),
                Message::LetIn | Message::WantsLogin | Message::Other => {}
            }
        }
        talk.leave(TERMINATE).await;
        Ok(())
    }

    fn judge(&self, error: &ServerError) -> Result<(), ExchangeError> {
        let is_of_user = REFUSES_USER.iter().any(|class| error.code.starts_with(class));
        if is_of_user && !self.is_strict {
            return Ok(());
        }
        let (code, text) = (quoted(&error.code), quoted(&error.text));
        Err(ExchangeError::of_backend(format!("refused with {code} {text}")))
    }
}

/// What a server says, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    LetIn,
    /// Asks for a password or whatever else proves who the user is.
    WantsLogin,
    Ready,
    Error(ServerError),
    Other,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct ServerError {
    /// SQLSTATE.
    code: Vec<u8>,
    text: Vec<u8>,
}

fn message(bytes: &[u8]) -> Parsed<Message> {
    let no_message = || "no message of PostgreSQL".to_owned();
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if !kind.is_ascii_alphabetic() {
        return Err(no_message());
    }
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if !(HEAD_BYTES - 1..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(no_message());
    }
    let Some(body) = rest.get(..length + 1 - HEAD_BYTES) else { return Ok(None) };
    let message = match kind {
        b'R' if body == AUTHENTICATION_OK => Message::LetIn,
        b'R' if body.len() >= AUTHENTICATION_OK.len() => Message::WantsLogin,
        b'R' => return Err(no_message()),
        b'Z' => Message::Ready,
        b'E' => Message::Error(error(body)),
        _ => Message::Other,
    };
    Ok(Some((message, length + 1)))
}

/// Fields, each a letter and a text that a zero ends.
fn error(body: &[u8]) -> ServerError {
    let mut error = ServerError::default();
    for field in body.split(|&byte| byte == 0) {
        match field.split_first() {
            Some((b'C', code)) => error.code = code.to_vec(),
            Some((b'M', text)) => error.text = text.to_vec(),
            _ => {}
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

    use super::super::Question;
    use super::super::testing::*;
    use super::*;

    const STARTUP: &[u8] = b"\0\0\0\x28\0\x03\0\0user\0ringway\0database\0postgres\0\0";
    const LET_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x0aa\0bcd\0K\0\0\0\x0c12345678Z\0\0\0\x05I";
    const SCRAM: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";

    fn question(user: Option<&str>) -> Question {
        Question::Postgres(startup(user))
    }

    fn startup(user: Option<&str>) -> Startup {
        Startup::new(&crate::config::PostgresCheck {
            user: user.map(str::to_owned),
            database: "postgres".to_owned(),
        })
    }

    fn refusal(code: &str, text: &str) -> Vec<u8> {
        let body = format!("SFATAL\0VFATAL\0C{code}\0M{text}\0Fa.c\0\0");
        [b"E", &(body.len() as u32 + 4).to_be_bytes()[..], body.as_bytes()].concat()
    }

    /// Answers the start with this, and returns what comes then to the end.
    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, said: &[u8]) -> Vec<u8> {
        read_to(&mut stream, b"postgres\0\0").await;
        stream.write_all(said).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        rest
    }

    #[test]
    fn the_start_names_user_and_database() {
        assert_eq!(startup(None).message, STARTUP);
        let other = startup(Some("a")).message;
        assert_eq!(other, b"\0\0\0\x22\0\x03\0\0user\0a\0database\0postgres\0\0");
    }

    /// What comes of a check as this user, and what the server hears behind the start.
    async fn asked(user: Option<&str>, said: &[u8]) -> (Result<(), String>, Vec<u8>) {
        ask_to_the_end(&question(user), async |stream| serve(stream, said).await).await
    }

    #[tokio::test]
    async fn a_server_that_lets_in_is_up_and_told_goodbye() {
        for user in [None, Some("check")] {
            assert_eq!(asked(user, LET_IN).await, (Ok(()), TERMINATE.to_vec()));
        }
    }

    #[tokio::test]
    async fn a_server_that_asks_for_a_password_is_up_and_gets_no_message() {
        for user in [None, Some("check")] {
            for said in [SCRAM, b"R\0\0\0\x0c\0\0\0\x05salt", b"R\0\0\0\x08\0\0\0\x03"] {
                assert_eq!(asked(user, said).await, (Ok(()), Vec::new()), "{}", said.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn a_refusal_of_the_user_counts_if_the_user_is_named() {
        for (code, text) in [("28000", "no such role"), ("3D000", "no database"), ("42501", "no right")] {
            for before in [&b""[..], &LET_IN[..9]] {
                let said = [before, &refusal(code, text)].concat();
                assert_eq!(asked(None, &said).await, (Ok(()), Vec::new()), "{code}");
                let cause = format!("refused with `{code}` `{text}`");
                assert_eq!(asked(Some("check"), &said).await, (Err(cause), Vec::new()));
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_refuses_everybody_is_down_with_its_text() {
        for (code, text) in [
            ("57P03", "the database system is starting up"),
            ("57P01", "terminating connection"),
            ("53300", "sorry, too many clients already"),
            ("08P01", "no such server"),
        ] {
            for before in [&b""[..], &LET_IN[..9]] {
                let said = [before, &refusal(code, text)].concat();
                let cause = format!("refused with `{code}` `{text}`");
                assert_eq!(asked(None, &said).await, (Err(cause), Vec::new()));
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_postgres_is_down() {
        let say = async |said: &[u8]| {
            ask_in_vain(&question(None), async |mut stream| {
                read_to(&mut stream, b"postgres\0\0").await;
                // The check may have seen enough.
                let _ = stream.write_all(said).await;
            })
            .await
        };
        assert_eq!(say(b"+OK\r\n").await, "no message of PostgreSQL: `+OK\\r\\n`");
        assert_eq!(say(b"HTTP/1.1 400").await, "no message of PostgreSQL: `HTTP/1.1 400`");
        assert_eq!(say(b"Z\0\0\0\x05I").await, "no answer to the start of a session");
        assert_eq!(say(b"R\0\0\0\x04").await, "no message of PostgreSQL: `R\\x00\\x00\\x00\\x04`");
        assert_eq!(say(b"").await, "no answer to the start of a session; the connection ended");
        assert_eq!(say(&LET_IN[..9]).await, "no end of the login; the connection ended");
        assert_eq!(ask_too_long(&question(None), hang).await, "no answer to the start of a session in 200ms");
        let endless = [&LET_IN[..9], &LET_IN[9..20].repeat(7_000)].concat();
        let cause = say(&endless).await;
        assert!(cause.ends_with(" in 65536 bytes"), "{cause}");
    }

    #[tokio::test]
    async fn bytes_may_come_one_by_one() {
        for said in [LET_IN, SCRAM] {
            let asked = ask_by_bytes(&question(None), async |stream| drop(serve(stream, said).await)).await;
            assert_eq!(asked, Ok(()));
        }
    }

    #[test]
    fn cuts_do_not_matter() {
        assert_eq!(parsed_at_every_cut(message, SCRAM, SCRAM.len()), Message::WantsLogin);
        assert_eq!(parsed_at_every_cut(message, LET_IN, 9), Message::LetIn);
        let refusal = refusal("57P03", "text");
        let expected = ServerError { code: b"57P03".to_vec(), text: b"text".to_vec() };
        assert_eq!(parsed_at_every_cut(message, &refusal, refusal.len()), Message::Error(expected));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_break_it(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(b'E'), Just(b'R')], 0..300),
        ) {
            if let Ok(Some((_, length))) = message(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
