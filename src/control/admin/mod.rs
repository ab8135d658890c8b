//! The admin API: HTTP/1.1 on a TCP address, which changes nothing and shows no clients, and on a Unix socket,
//! which shows and changes everything.
//!
//! The endpoints are bound before the process serves (`bind`) and served on the control thread, where nothing
//! waits for anything but tokio (`serve`, `connection`). A request passes who may ask (`access`), what there is
//! (`route`), its parameters (`query`), and then the process is asked (`api`) or told what to change (`orders`), which
//! gives an `answer`.
//!
//! Invariants: at most `limits::ADMIN_TCP_CONNECTIONS_MAX` and `ADMIN_SOCKET_CONNECTIONS_MAX` connections, none of which
//! lives on without moving bytes; no request makes a shard wait, and what takes long to write is written on other
//! threads, few at a time; nothing but the Unix socket changes anything, and every change is logged.
//!
//! Left out: what the answers say, which is [`Process`](super::process::Process).

mod access;
mod answer;
mod api;
mod bind;
mod connection;
mod orders;
mod query;
mod route;
mod serve;
#[cfg(test)]
mod testing;
mod under_way;

pub use bind::{BindError, Endpoints, bind, fallback_socket};
pub use serve::serve;
pub use under_way::UnderWay;

/// For fuzzing: serves a connection that has come over the Unix socket to its end.
#[doc(hidden)]
pub async fn converse<S>(stream: S, process: std::sync::Arc<dyn super::process::Process>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let api = std::sync::Arc::new(api::Api::new(process, UnderWay::default()));
    connection::serve(stream, access::Peer::Socket { uid: None }, api, false).await;
}
