//! One connection: its bounds in time and size.
//!
//! A connection ends when it is silent (`SILENCE_MAX`) while no answer is being worked out, when a request takes its time
//! (`HEADER_PATIENCE`), and at the latest a moment after `AGE_MAX`, so whoever holds a slot gives it back, however little
//! he sends or reads.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};

use super::access::Peer;
use super::api::Api;

/// How long a request may take to its first line, and to the end of its headers.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// The same while others wait for a slot, or soon will.
const HURRIED_HEADER_PATIENCE: Duration = Duration::from_secs(2);
/// How long no byte may move in either direction; looked at in steps.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const SILENCE_STEP: Duration = Duration::from_secs(5);
/// How long a connection may live, and how long the answer that it then waits for may still take.
const AGE_MAX: Duration = Duration::from_secs(300);
const LAST_ANSWER: Duration = Duration::from_secs(30);
/// Largest head of a request, bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Maximum number of headers.
const HEADERS_MAX: usize = 100;

/// Serves a connection to its end.
pub(super) async fn serve<S>(stream: S, peer: Peer, api: Arc<Api>, is_crowded: bool)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let moves = Arc::new(AtomicU32::new(0));
    let stream = TokioIo::new(Watched { stream, moves: Arc::clone(&moves) });
    let at_work = Arc::clone(&moves);
    let answer = service_fn(move |request| {
        let (api, at_work) = (Arc::clone(&api), Arc::clone(&at_work));
        async move {
            let _answering = api.under_way.begin();
            Ok::<_, Infallible>(while_moving(&at_work, api.answer(peer, request)).await)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(if is_crowded { HURRIED_HEADER_PATIENCE } else { HEADER_PATIENCE })
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(stream, answer)
    );
    let is_too_old = tokio::select! {
        // What a client does wrong concerns nobody else.
        result = connection.as_mut() => return log_end(peer, result),
        () = silence(&moves) => false,
        () = sleep(AGE_MAX) => true,
    };
    if is_too_old {
        connection.as_mut().graceful_shutdown();
        let last = async {
            tokio::select! {
                result = connection => log_end(peer, result),
                () = silence(&moves) => {}
            }
        };
        // What is still on its way then is cut.
        let _ = timeout(LAST_ANSWER, last).await;
    }
}

fn log_end(peer: Peer, result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        log::debug!("admin: the connection of {peer} ended: {error}");
    }
}

/// Works an answer out. Meanwhile it is not the client that is silent, and each answer has a time limit of its own.
async fn while_moving<T>(moves: &AtomicU32, answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    loop {
        tokio::select! {
            answer = answer.as_mut() => return answer,
            () = sleep(SILENCE_STEP) => { moves.fetch_add(1, Ordering::Relaxed); }
        }
    }
}

/// Returns once no byte has moved for `SILENCE_MAX`.
async fn silence(moves: &AtomicU32) {
    let (mut seen, mut silent) = (moves.load(Ordering::Relaxed), Duration::ZERO);
    while silent < SILENCE_MAX {
        sleep(SILENCE_STEP).await;
        let now = moves.load(Ordering::Relaxed);
        silent = if now == seen { silent + SILENCE_STEP } else { Duration::ZERO };
        seen = now;
    }
}

/// A stream whose moves are counted.
struct Watched<S> {
    stream: S,
    moves: Arc<AtomicU32>,
}

impl<S> Watched<S> {
    fn note(&self, has_moved: bool) {
        if has_moved {
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.note(buffer.filled().len() > before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.note(written > 0);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.note(written > 0);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::super::testing::Fake;
    use super::super::under_way::UnderWay;
    use super::*;

    /// A client's end of a connection that holds 64 bytes on their way, and the server's task.
    fn connected(is_crowded: bool) -> (DuplexStream, JoinHandle<()>) {
        let (client, stream) = duplex(64);
        let api = Arc::new(Api::new(Arc::new(Fake::default()), UnderWay::default()));
        (client, tokio::spawn(serve(stream, Peer::Socket { uid: None }, api, is_crowded)))
    }

    const REQUEST: &[u8] = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n";

    /// Runs `client` while the connection lives, and returns how long that was.
    async fn life(is_crowded: bool, client: impl AsyncFnOnce(&mut DuplexStream)) -> Duration {
        let begin = Instant::now();
        let (mut stream, server) = connected(is_crowded);
        tokio::select! {
            ended = server => ended.unwrap(),
            () = async { client(&mut stream).await; std::future::pending().await } => {}
        }
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn reader_that_stands_still_is_cut_off() {
        let life = life(false, async |stream| stream.write_all(REQUEST).await.unwrap()).await;
        assert!(life >= SILENCE_MAX && life <= SILENCE_MAX + SILENCE_STEP * 2, "{life:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn reader_that_takes_a_byte_now_and_then_is_cut_off_in_the_end() {
        // At this pace one answer takes longer than a connection may live.
        let drip = async |stream: &mut DuplexStream| {
            stream.write_all(REQUEST).await.unwrap();
            while let Ok(1) = stream.read(&mut [0]).await {
                sleep(Duration::from_secs(4)).await;
            }
        };
        let life = life(false, drip).await;
        assert!(life >= AGE_MAX && life <= AGE_MAX + LAST_ANSWER, "{life:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn header_that_trickles_in_is_not_waited_for_long_and_less_in_a_crowd() {
        for (is_crowded, patience) in [(false, HEADER_PATIENCE), (true, HURRIED_HEADER_PATIENCE)] {
            let trickle = async |stream: &mut DuplexStream| {
                for byte in REQUEST {
                    if stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(500)).await;
                }
            };
            let life = life(is_crowded, trickle).await;
            assert!(life >= patience && life <= patience + Duration::from_secs(1), "{life:?}");
        }
    }

    /// An order may take longer than a client may be silent.
    #[tokio::test(start_paused = true)]
    async fn order_that_takes_its_time_is_waited_for() {
        let (mut stream, _server) = connected(false);
        let request = b"POST /v1/reload HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 503") && text.contains("not done after 120s"), "{text}");
    }

    /// A process that does not answer is answered for.
    #[tokio::test(start_paused = true)]
    async fn question_without_an_answer_is_given_up() {
        let (mut stream, _server) = connected(false);
        let begin = Instant::now();
        stream.write_all(b"GET /v1/sessions HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 503") && text.contains("did not answer within 10s"), "{text}");
        assert_eq!(begin.elapsed().as_secs(), 10);
    }
}
