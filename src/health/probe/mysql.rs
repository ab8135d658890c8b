//! The exchange of `type: mysql`: a login without a password, and a judgement of what is answered.
//!
//! MySQL and MariaDB count a client that leaves before it has answered the greeting, and after
//! `max_connect_errors` of them they block its address. A login that they deny is not counted there (measured
//! with MariaDB 10.11), so one is always tried, and brought to an end.
//!
//! Protocol: <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>, and
//! <https://mariadb.com/kb/en/connection/>.

use super::error::ExchangeError;
use super::talk::{Parsed, Talk, quoted};

/// COM_QUIT as the first packet of a command.
const QUIT: &[u8] = &[1, 0, 0, 0, 1];
/// Who asks if nobody is named, and who need not exist.
const ANYBODY: &str = "ringway";
/// Length of three bytes and a number.
const HEAD_BYTES: usize = 4;
/// Longest packet, bytes, without its head.
const PACKET_BYTES_MAX: usize = 16 << 10;
const PROTOCOL: u8 = 10;
/// Longest packet that this client takes, as it says; it takes none of a query.
const CLIENT_PACKET_BYTES: u32 = 1 << 24;
const UTF8: u8 = 33;
/// Packets of a server in one login, beside the last. There are two in practice.
const ROUNDS_MAX: usize = 4;

// Capabilities.
const LONG_PASSWORD: u32 = 1;
const PROTOCOL_41: u32 = 1 << 9;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;

/// Errors that refuse the user, of the many that there are: access denied, the same for want of a password,
/// and no login without TLS, for which MariaDB denies access. The others refuse everybody: too many
/// connections (1040), an address that is blocked (1129) or not allowed (1130).
const REFUSES_USER: [u16; 3] = [1045, 1698, 3159];

/// Who logs in, and whether the login has to succeed.
#[derive(Debug)]
pub(crate) struct Login {
    user: String,
    is_strict: bool,
}

impl Login {
    pub(super) fn new(user: Option<&str>) -> Self {
        Self { user: user.unwrap_or(ANYBODY).to_owned(), is_strict: user.is_some() }
    }

    pub(super) async fn run(&self, talk: &mut Talk) -> Result<(), ExchangeError> {
        let greeting = talk.receive("greeting", packet).await?;
        let greeting = match Greeting::read(&greeting.body) {
            Ok(greeting) => greeting,
            Err(why) => return Err(ExchangeError::of_backend(why)),
        };
        talk.send(&in_packet(1, &self.response(&greeting))).await?;
        for _ in 0..=ROUNDS_MAX {
            let answer = talk.receive("answer to the login", packet).await?;
            match answer.body.split_first() {
                Some((&OK, _)) => {
                    talk.leave(QUIT).await;
                    return Ok(());
                }
                Some((&ERROR, rest)) => return self.judge(&ServerError::read(rest)),
                Some((&SWITCH, rest)) => {
                    talk.send(&in_packet(answer.number.wrapping_add(1), no_password(rest))).await?;
                }
                Some((&MORE, &[WANTS_PASSWORD])) => {
                    talk.send(&in_packet(answer.number.wrapping_add(1), &[0])).await?;
                }
                // The server checks, and says what it found next.
                Some((&MORE, _)) => {}
                _ => break,
            }
        }
        Err(ExchangeError::of_backend("no answer to the login that is known here".to_owned()))
    }

    /// HandshakeResponse41 with an empty password, by the plugin that the server named.
    fn response(&self, greeting: &Greeting) -> Vec<u8> {
        let wanted = LONG_PASSWORD | PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH;
        let capabilities = wanted & (greeting.capabilities | LONG_PASSWORD);
        let mut response = capabilities.to_le_bytes().to_vec();
        response.extend(CLIENT_PACKET_BYTES.to_le_bytes());
        response.push(UTF8);
        response.extend([0; 23]);
        response.extend(self.user.as_bytes());
        // The end of the user, and a password of no bytes.
        response.extend([0, 0]);
        if capabilities & PLUGIN_AUTH != 0 {
            response.extend(&greeting.plugin);
            response.push(0);
        }
        response
    }

    fn judge(&self, error: &ServerError) -> Result<(), ExchangeError> {
        if REFUSES_USER.contains(&error.code) && !self.is_strict {
            return Ok(());
        }
        Err(ExchangeError::of_backend(error.cause()))
    }
}

// First bytes of a packet in a login.
const OK: u8 = 0;
const MORE: u8 = 1;
const SWITCH: u8 = 0xfe;
const ERROR: u8 = 0xff;
/// What `caching_sha2_password` says if it does not know the user yet.
const WANTS_PASSWORD: u8 = 4;

/// What the plugin that is switched to, whose name a zero ends, takes for no password, or for a wrong one. To
/// an answer of another length some plugins say that the handshake went wrong, which the server counts.
fn no_password(switch: &[u8]) -> &'static [u8] {
    let name = switch.split(|&byte| byte == 0).next().unwrap_or_default();
    match name {
        b"mysql_native_password" => &[],
        // A signature.
        b"client_ed25519" => &[0; 64],
        _ => &[0],
    }
}

/// A packet with its number.
#[derive(Debug, PartialEq, Eq)]
struct Packet {
    number: u8,
    body: Vec<u8>,
}

fn packet(bytes: &[u8]) -> Parsed<Packet> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
    if !(1..=PACKET_BYTES_MAX).contains(&length) {
        return Err("no packet of MySQL".to_owned());
    }
    let body = rest.get(..length);
    Ok(body.map(|body| (Packet { number: head[3], body: body.to_vec() }, HEAD_BYTES + length)))
}

fn in_packet(number: u8, body: &[u8]) -> Vec<u8> {
    // What is sent is shorter by far than three bytes could say.
    let [low, middle, high, ..] = (body.len() as u32).to_le_bytes();
    [&[low, middle, high, number][..], body].concat()
}

/// The greeting, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Greeting {
    capabilities: u32,
    plugin: Vec<u8>,
}

impl Greeting {
    /// Reads a greeting; else why there is none, or why it will not do.
    fn read(body: &[u8]) -> Result<Self, String> {
        match body.split_first() {
            Some((&PROTOCOL, rest)) => {
                let greeting = Self::fields(rest).ok_or("a greeting of MySQL that is cut")?;
                match greeting.capabilities & (PROTOCOL_41 | SECURE_CONNECTION) {
                    0 => Err("the server is older than MySQL 4.1".to_owned()),
                    _ => Ok(greeting),
                }
            }
            Some((&ERROR, rest)) => Err(ServerError::read(rest).cause()),
            _ => Err("no greeting of MySQL, protocol 10".to_owned()),
        }
    }

    fn fields(rest: &[u8]) -> Option<Self> {
        let end = rest.iter().position(|&byte| byte == 0)?;
        // Version; number of the connection (4), first part of the nonce and a zero (9).
        let rest = rest.get(end + 1 + 4 + 9..)?;
        let (&[low0, low1], rest) = rest.split_first_chunk::<2>()?;
        let Some((&[_charset, _status0, _status1, high0, high1, nonce], rest)) =
            rest.split_first_chunk::<6>()
        else {
            // Older servers say no more.
            return Some(Self { capabilities: u32::from_le_bytes([low0, low1, 0, 0]), plugin: Vec::new() });
        };
        let capabilities = u32::from_le_bytes([low0, low1, high0, high1]);
        // Ten bytes of no meaning, then the second part of the nonce: what is left of it, but at least 13.
        let second = usize::from(nonce).saturating_sub(8).max(13);
        let plugin = rest.get(10 + second..).unwrap_or_default();
        let plugin = plugin.split(|&byte| byte == 0).next().unwrap_or_default();
        Some(Self { capabilities, plugin: plugin.to_vec() })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct ServerError {
    code: u16,
    text: Vec<u8>,
}

impl ServerError {
    /// Reads what follows the first byte: the code, an SQLSTATE behind `#` except before the login, the text.
    fn read(rest: &[u8]) -> Self {
        let (code, text) = rest.split_first_chunk::<2>().unwrap_or((&[0, 0], rest));
        let text = match text {
            [b'#', _, _, _, _, _, text @ ..] => text,
            text => text,
        };
        Self { code: u16::from_le_bytes(*code), text: text.to_vec() }
    }

    fn cause(&self) -> String {
        format!("refused with {} {}", self.code, quoted(&self.text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

    use super::super::Question;
    use super::super::testing::*;
    use super::*;

    /// What MariaDB 10.11 said.
    const MARIADB: &[u8] =
        b"\x0a5.5.5-10.11.19-MariaDB-0+deb12u1\0\x04\0\0\0abcdefgh\0\xfe\xf7\x2d\x02\0\xff\x81\x15\
        \0\0\0\0\0\0\x1d\0\0\0abcdefghijkl\0mysql_native_password\0";
    /// As MySQL 8.4 does.
    const MYSQL: &[u8] = b"\x0a8.4.3\0\x08\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15\
        \0\0\0\0\0\0\0\0\0\0abcdefghijkl\0caching_sha2_password\0";
    const TAKEN: &[u8] = b"\0\0\0\x02\0\0\0";
    const DENIED: &[u8] = b"\xff\x15\x04#28000Access denied for user 'x'@'y' (using password: NO)";
    const TO_CACHING: &[u8] = b"\xfecaching_sha2_password\0abcdefghijklmnopqrst\0";
    const TO_NATIVE: &[u8] = b"\xfemysql_native_password\0abcdefghijklmnopqrst\0";

    fn question(user: Option<&str>) -> Question {
        Question::Mysql(Login::new(user))
    }

    async fn hear(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Packet {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.unwrap();
        let mut body = vec![0; usize::from(head[0])];
        stream.read_exact(&mut body).await.unwrap();
        Packet { number: head[3], body }
    }

    /// Says each of these packets, hears one after each but those of `MORE`, and returns the last ones.
    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, says: &[&[u8]]) -> Vec<Packet> {
        let mut heard = Vec::new();
        let mut number = 0;
        for (at, said) in says.iter().enumerate() {
            stream.write_all(&in_packet(number, said)).await.unwrap();
            let is_last = at + 1 == says.len();
            if said[0] == MORE && said[1] != WANTS_PASSWORD {
                number += 1;
            } else if !is_last {
                heard.push(hear(&mut stream).await);
                assert_eq!(heard.last().unwrap().number, number + 1);
                number += 2;
            }
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        if let Ok(Some((packet, length))) = packet(&rest) {
            assert_eq!(length, rest.len());
            heard.push(packet);
        }
        heard
    }

    async fn asked(user: Option<&str>, says: &[&[u8]]) -> (Result<(), String>, Vec<Packet>) {
        ask_to_the_end(&question(user), async |stream| serve(stream, says).await).await
    }

    fn quit() -> Packet {
        Packet { number: 0, body: vec![1] }
    }

    #[tokio::test]
    async fn a_server_that_takes_the_login_is_up_and_told_goodbye() {
        for says in [
            &[MARIADB, TAKEN][..],
            &[MYSQL, TAKEN],
            &[MYSQL, b"\x01\x03", TAKEN],
            &[MYSQL, TO_NATIVE, TAKEN],
            &[MARIADB, TO_CACHING, TAKEN],
            &[MARIADB, TO_CACHING, b"\x01\x03", TAKEN],
        ] {
            for user in [None, Some("check")] {
                let (asked, mut heard) = asked(user, says).await;
                assert_eq!((asked, heard.pop()), (Ok(()), Some(quit())), "{says:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_login_names_the_user_and_the_plugin_of_the_server() {
        for (greeting, plugin) in [(MARIADB, "mysql_native_password"), (MYSQL, "caching_sha2_password")] {
            let (asked, heard) = asked(Some("check"), &[greeting, TAKEN]).await;
            assert_eq!((asked, heard.len()), (Ok(()), 2));
            assert_eq!(heard[0].body[..4], [1, 0x82, 8, 0]);
            assert!(heard[0].body.ends_with(format!("check\0\0{plugin}\0").as_bytes()), "{heard:?}");
        }
    }

    #[tokio::test]
    async fn a_switch_is_answered_with_what_the_plugin_takes_for_no_password() {
        for (switch, expected) in [
            (TO_CACHING, &b"\0"[..]),
            (TO_NATIVE, b""),
            (b"\xfeclient_ed25519\0nonce", &[0; 64]),
            (b"\xfeparsec\0nonce", b"\0"),
            (b"\xfe", b"\0"),
            (b"\x01\x04", b"\0"),
        ] {
            let (asked, heard) = asked(None, &[MARIADB, switch, TAKEN]).await;
            assert_eq!(asked, Ok(()));
            assert_eq!(heard[1..], [Packet { number: 3, body: expected.to_vec() }, quit()]);
        }
    }

    #[tokio::test]
    async fn a_denied_login_counts_if_the_user_is_named() {
        for says in [&[MARIADB, DENIED][..], &[MARIADB, TO_NATIVE, DENIED]] {
            assert_eq!(asked(None, says).await.0, Ok(()));
            let cause = "refused with 1045 `Access denied for user 'x'@'y' (using password: NO)`";
            assert_eq!(asked(Some("check"), says).await.0, Err(cause.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_server_that_refuses_everybody_is_down_with_its_text() {
        for (says, expected) in [
            (&[&b"\xff\x10\x04Too many connections"[..]][..], "refused with 1040 `Too many connections`"),
            (&[b"\xff\x69\x04Host '10.0.0.9' is blocked"], "refused with 1129 `Host '10.0.0.9' is blocked`"),
            (&[b"\xff\x6a\x04#HY000Host 'a' is not allowed"], "refused with 1130 `Host 'a' is not allowed`"),
            (
                &[MYSQL, b"\xff\x1d\x04#08S01Server shutdown in progress"],
                "refused with 1053 `Server shutdown in progress`",
            ),
        ] {
            assert_eq!(asked(None, says).await.0, Err(expected.to_owned()));
        }
    }

    #[tokio::test]
    async fn what_is_no_mysql_is_down() {
        let say = async |said: &[u8]| {
            ask_in_vain(&question(None), async |mut stream| stream.write_all(said).await.unwrap()).await
        };
        assert_eq!(say(b"SSH-2.0-x\r\n").await, "no packet of MySQL: `SSH-2.0-x\\r\\n`");
        assert_eq!(say(b"\x02\0\0\0\x09x").await, "no greeting of MySQL, protocol 10");
        assert_eq!(say(b"\x02\0\0\0\x0ax").await, "a greeting of MySQL that is cut");
        assert_eq!(
            say(b"\x02\0\0\0\x0a").await,
            "no greeting, only `\\x02\\x00\\x00\\x00\\n`; the connection ended"
        );
        let old = [b"\x0a3.23\0\x01\0\0\0abcdefgh\0\x0c\0", &[0; 16][..]].concat();
        assert_eq!(say(&in_packet(0, &old)).await, "the server is older than MySQL 4.1");
        assert_eq!(ask_too_long(&question(None), hang).await, "no greeting in 200ms");
        let odd = async |stream| drop(serve(stream, &[MARIADB, b"\x07"]).await);
        assert_eq!(ask_in_vain(&question(None), odd).await, "no answer to the login that is known here");
        let for_ever = [MARIADB, TO_NATIVE, TO_NATIVE, TO_NATIVE, TO_NATIVE, TO_NATIVE];
        let switching = async |stream| drop(serve(stream, &for_ever).await);
        assert_eq!(
            ask_in_vain(&question(None), switching).await,
            "no answer to the login that is known here"
        );
    }

    #[tokio::test]
    async fn bytes_may_come_one_by_one() {
        for says in [&[MARIADB, TAKEN][..], &[MYSQL, TO_NATIVE, TAKEN]] {
            let asked = ask_by_bytes(&question(None), async |stream| drop(serve(stream, says).await)).await;
            assert_eq!(asked, Ok(()));
        }
    }

    #[test]
    fn greetings_give_capabilities_and_plugin() {
        let greeting =
            |body: &[u8]| Greeting::read(body).map(|greeting| (greeting.capabilities, greeting.plugin));
        assert_eq!(greeting(MARIADB), Ok((0x81ff_f7fe, b"mysql_native_password".to_vec())));
        assert_eq!(greeting(MYSQL), Ok((0xdfff_ffff, b"caching_sha2_password".to_vec())));
        // No plugin, as of MySQL 5.1, and no end of one, as of some 5.5.
        assert_eq!(greeting(&MYSQL[..MYSQL.len() - 22]), Ok((0xdfff_ffff, Vec::new())));
        assert_eq!(greeting(&MYSQL[..MYSQL.len() - 1]), Ok((0xdfff_ffff, b"caching_sha2_password".to_vec())));
        for cut in 0..MYSQL.len() {
            let _ = greeting(&MYSQL[..cut]);
        }
    }

    #[test]
    fn cuts_do_not_matter() {
        let bytes = [in_packet(0, MARIADB), in_packet(2, TAKEN)].concat();
        let found = parsed_at_every_cut(packet, &bytes, MARIADB.len() + 4);
        assert_eq!(found, Packet { number: 0, body: MARIADB.to_vec() });
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(10)], 0..300)) {
            if let Ok(Some((_, length))) = packet(&bytes) {
                prop_assert!(length <= bytes.len());
            }
            let _ = Greeting::read(&bytes);
            let _ = no_password(&bytes);
            let _ = ServerError::read(&bytes).cause();
        }
    }
}
