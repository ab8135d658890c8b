//! The exchange of `type: smtp`: the greeting, EHLO or else HELO, and QUIT, by RFC 5321.

use std::net::IpAddr;

use super::error::ExchangeError;
use super::talk::{self, Parsed, Talk, quoted};

const QUIT: &[u8] = b"QUIT\r\n";
/// Longest line, bytes. RFC 5321, 4.5.3.1.5, has 512; servers do not all count.
const LINE_BYTES_MAX: usize = 2 << 10;
const CODE_BYTES: usize = 3;
const READY: u16 = 220;
const DONE: u16 = 250;
/// Codes of a server that does not know the command, which EHLO may be to it.
const UNKNOWN_COMMAND: std::ops::RangeInclusive<u16> = 500..=504;

/// The name that the check gives.
#[derive(Debug)]
pub(crate) struct Greeting(String);

impl Greeting {
    /// An IP address becomes a literal, RFC 5321, 4.1.3.
    pub(super) fn new(host: &str) -> Self {
        Self(match host.parse() {
            Ok(IpAddr::V4(ip)) => format!("[{ip}]"),
            Ok(IpAddr::V6(ip)) => format!("[IPv6:{ip}]"),
            Err(_) => host.to_owned(),
        })
    }

    /// A server that refuses is told goodbye as well, which RFC 5321, 3.1, asks for.
    pub(super) async fn run(&self, talk: &mut Talk) -> Result<(), ExchangeError> {
        let asked = self.ask(talk).await;
        talk.leave(QUIT).await;
        asked
    }

    async fn ask(&self, talk: &mut Talk) -> Result<(), ExchangeError> {
        let greeting = talk.receive("greeting", reply).await?;
        greeting.expect(READY, "greeted with")?;
        let name = &self.0;
        talk.send(format!("EHLO {name}\r\n").as_bytes()).await?;
        let answer = talk.receive("answer to EHLO", reply).await?;
        if !UNKNOWN_COMMAND.contains(&answer.code) {
            return answer.expect(DONE, "EHLO was answered");
        }
        talk.send(format!("HELO {name}\r\n").as_bytes()).await?;
        talk.receive("answer to HELO", reply).await?.expect(DONE, "HELO was answered")
    }
}

/// A reply of one line or of several, which all have its code.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    code: u16,
    /// The last line with its code.
    text: Vec<u8>,
}

impl Reply {
    fn expect(&self, code: u16, what: &str) -> Result<(), ExchangeError> {
        if self.code == code {
            return Ok(());
        }
        Err(ExchangeError::of_backend(format!("{what} {}", quoted(&self.text))))
    }
}

fn reply(bytes: &[u8]) -> Parsed<Reply> {
    let mut begin = 0;
    while let Some((line, length)) = talk::line(&bytes[begin..], LINE_BYTES_MAX)? {
        begin += length;
        let code = line.get(..CODE_BYTES).and_then(code).ok_or("no reply of SMTP")?;
        match line.get(CODE_BYTES) {
            Some(b'-') => {}
            Some(b' ') | None => return Ok(Some((Reply { code, text: line.to_vec() }, begin))),
            Some(_) => return Err("no reply of SMTP".to_owned()),
        }
    }
    Ok(None)
}

fn code(digits: &[u8]) -> Option<u16> {
    digits
        .iter()
        .try_fold(0, |code, digit| digit.is_ascii_digit().then(|| code * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

    use super::super::Question;
    use super::super::testing::*;
    use super::*;

    fn question() -> Question {
        Question::Smtp(Greeting::new("lb.example"))
    }

    /// Says the first text, answers each line that comes with the next one, and returns what came.
    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, says: &[&str]) -> Vec<u8> {
        let mut heard = Vec::new();
        for said in says {
            stream.write_all(said.as_bytes()).await.unwrap();
            heard.extend(read_to(&mut stream, b"\r\n").await);
        }
        // Without a socket, nobody is left to read it.
        let _ = stream.write_all(b"221 bye\r\n").await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        heard.extend(rest);
        heard
    }

    #[tokio::test]
    async fn a_server_that_takes_the_name_is_up() {
        for says in [
            &["220 mx ESMTP\r\n", "250-mx\r\n250-PIPELINING\r\n250 8BITMIME\r\n"][..],
            &["220-one\r\n220-two\r\n220 three\r\n", "250\r\n"],
            &["220 mx\n", "502 what?\r\n", "250 mx\r\n"],
            &["220\r\n", "500-what\r\n500 ever\r\n", "250-mx\r\n250 fine\r\n"],
        ] {
            let (asked, heard) = ask_to_the_end(&question(), async |stream| serve(stream, says).await).await;
            assert_eq!(asked, Ok(()), "{says:?}");
            let commands: &[u8] = match says.len() {
                2 => b"EHLO lb.example\r\nQUIT\r\n",
                _ => b"EHLO lb.example\r\nHELO lb.example\r\nQUIT\r\n",
            };
            assert_eq!(heard.escape_ascii().to_string(), commands.escape_ascii().to_string());
        }
    }

    #[tokio::test]
    async fn a_server_that_refuses_is_down_with_its_text_and_told_goodbye() {
        for (says, expected) in [
            (&["421 4.3.2 too busy\r\n"][..], "greeted with `421 4.3.2 too busy`"),
            (&["554-no\r\n554 not you\r\n"], "greeted with `554 not you`"),
            (&["250 odd\r\n"], "greeted with `250 odd`"),
            (&["220 mx\r\n", "421 shutting down\r\n"], "EHLO was answered `421 shutting down`"),
            (&["220 mx\r\n", "550 bad name\r\n"], "EHLO was answered `550 bad name`"),
            (&["220 mx\r\n", "500 what?\r\n", "501 no\r\n"], "HELO was answered `501 no`"),
        ] {
            let (asked, heard) = ask_to_the_end(&question(), async |stream| serve(stream, says).await).await;
            assert_eq!(asked, Err(expected.to_owned()));
            assert!(heard.ends_with(QUIT), "{}", heard.escape_ascii());
        }
    }

    #[tokio::test]
    async fn what_is_no_smtp_is_down() {
        let say = async |said: &[u8]| {
            ask_in_vain(&question(), async |mut stream| stream.write_all(said).await.unwrap()).await
        };
        assert_eq!(say(b"SSH-2.0-x\r\n").await, "no reply of SMTP: `SSH-2.0-x\\r\\n`");
        assert_eq!(say(b"2200\r\n").await, "no reply of SMTP: `2200\\r\\n`");
        assert_eq!(say(b"220-half\r\n").await, "no greeting, only `220-half\\r\\n`; the connection ended");
        assert_eq!(ask_too_long(&question(), hang).await, "no greeting in 200ms");
        let endless = async |mut stream: tokio::net::TcpStream| {
            while stream.write_all(&b"220-and\r\n".repeat(100)).await.is_ok() {}
        };
        let cause = ask_in_vain(&question(), endless).await;
        assert!(cause.ends_with("… in 65536 bytes"), "{cause}");
    }

    #[tokio::test]
    async fn bytes_may_come_one_by_one() {
        let says = ["220-a\r\n220 b\r\n", "502 no\r\n", "250-a\r\n250 b\r\n"];
        let asked = ask_by_bytes(&question(), async |stream| drop(serve(stream, &says).await)).await;
        assert_eq!(asked, Ok(()));
    }

    #[test]
    fn addresses_are_given_as_literals() {
        for (host, name) in [("a.b", "a.b"), ("10.0.0.1", "[10.0.0.1]"), ("::1", "[IPv6:::1]")] {
            assert_eq!(Greeting::new(host).0, name);
        }
    }

    #[test]
    fn cuts_do_not_matter() {
        let found = parsed_at_every_cut(reply, b"250-a\r\n250-\r\n250 b\r\n250 c\r\n", 20);
        assert_eq!(found, Reply { code: 250, text: b"250 b".to_vec() });
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_break_it(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'2'), Just(b'-')], 0..300),
        ) {
            if let Ok(Some((_, length))) = reply(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
