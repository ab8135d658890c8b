//! One connection: its bounds in time and size.
//!
//! A connection ends when it is silent (`SILENCE_MAX`), when a request takes its time (`HEADER_PATIENCE`), and at the
//! latest a moment after `AGE_MAX`, so whoever holds a slot gives it back, however little he sends or reads.

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
    let answer = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.answer(peer, request).await) }
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
