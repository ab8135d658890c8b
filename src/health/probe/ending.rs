//! The end of a check's connection: a FIN, and then what the backend still says, until its own FIN.
//!
//! A close with unread bytes is a reset, tcp(7). So a connection that is dropped goes on for a moment in a
//! task of its own, which the verdict does not wait for.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::time;

use crate::base::limits;

/// How long a backend may take to end the connection too.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connections that end, of all checks; what is more is closed at once.
static ENDING: AtomicUsize = AtomicUsize::new(0);

/// A stream whose drop ends it in order.
pub(super) struct Ending<S: Tail>(Option<S>);

/// What a stream needs for that.
pub(super) trait Tail: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static> Tail for T {}

impl<S: Tail> Ending<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Some(stream))
    }

    fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(self.0.as_mut().expect("there until the drop"))
    }
}

/// One of the permits that [`ENDING`] counts.
struct Permit;

impl Permit {
    fn take() -> Option<Self> {
        let is_free = ENDING.fetch_add(1, Relaxed) < limits::PROBES_ENDING_MAX;
        // Dropped where there is none, which gives back what was just added.
        Some(Self).filter(|_| is_free)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        ENDING.fetch_sub(1, Relaxed);
    }
}

impl<S: Tail> Drop for Ending<S> {
    fn drop(&mut self) {
        let (Some(stream), Some(permit), Ok(runtime)) =
            (self.0.take(), Permit::take(), Handle::try_current())
        else {
            return;
        };
        // Whoever has ended the connection by now needs no FIN.
        let _ = SockRef::from(&stream).shutdown(Shutdown::Write);
        runtime.spawn(async move {
            let _permit = permit;
            // Whatever fails, the connection is closed then.
            let _ = time::timeout(PATIENCE, drain(stream)).await;
        });
    }
}

/// Reads to the backend's FIN, as much as a check reads at most.
async fn drain(mut stream: impl Tail) -> io::Result<()> {
    let mut left = limits::CHECK_RECEIVED_BYTES_MAX;
    let mut bytes = [0; 4 << 10];
    while left > 0 {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            break;
        }
        left = left.saturating_sub(read);
    }
    Ok(())
}

impl<S: Tail> AsyncRead for Ending<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl<S: Tail> AsyncWrite for Ending<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    /// TLS writes its last words once: all of them or the first piece, and an alert is not the first.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    const AMPLE: Duration = Duration::from_secs(30);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let connect = TcpStream::connect(listener.local_addr().expect("it is bound"));
        let (ours, theirs) = tokio::join!(connect, listener.accept());
        (ours.expect("it connects"), theirs.expect("it accepts").0)
    }

    #[tokio::test]
    async fn unread_words_of_a_backend_are_answered_with_a_fin() {
        let (ours, mut theirs) = pair().await;
        theirs.write_all(&[b'x'; 30_000]).await.expect("there is room");
        ours.readable().await.expect("they come");
        drop(Ending::new(ours));
        let mut bytes = Vec::new();
        let read = timeout(AMPLE, theirs.read_to_end(&mut bytes)).await.expect("it ends");
        assert_eq!(read.expect("with a FIN, not a reset"), 0);
        // What the backend says after that is still taken.
        theirs.write_all(b"421 bye").await.expect("no reset");
        theirs.shutdown().await.expect("no reset");
    }

    #[tokio::test]
    async fn a_backend_that_never_ends_is_waited_for_but_a_moment() {
        let (ours, mut theirs) = pair().await;
        drop(Ending::new(ours));
        let babble = async { while theirs.write_all(&[b'x'; 4 << 10]).await.is_ok() {} };
        timeout(AMPLE, babble).await.expect("the connection is closed");
    }
}
