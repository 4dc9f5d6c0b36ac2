//! The TCP port: TLS or, from this machine only, plain HTTP, told apart by the first byte.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::auth::Peer;
use super::problem::Problem;

/// Connections at once. A viewer's page holds one or two; media does not pass here.
pub const MAX_CONNECTIONS: usize = 4096;

/// Time for the first byte, and then for the TLS handshake: several round trips on any path.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// Time for the headers of a request, and between requests on one connection.
pub const HEADER_TIME: Duration = Duration::from_secs(30);

/// Largest head of a request, in bytes: browsers stay far below.
pub const MAX_HEAD: usize = 16 * 1024;

/// Requests at once on one HTTP/2 connection.
pub const MAX_STREAMS: u32 = 64;

/// What connections get to finish when the server stops; event streams never finish.
pub const GRACE: Duration = Duration::from_millis(500);

/// First byte of a TLS record that starts a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Totals since the node started.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections closed at once because there were too many.
    pub over_limit: AtomicU64,
    /// Connections that sent no byte, or no complete TLS handshake.
    pub no_handshake: AtomicU64,
    /// Requests refused because they came in clear text from another machine.
    pub clear_text: AtomicU64,
    /// Connections to the admin socket of somebody who is neither root nor the node's own user.
    pub socket_peer: AtomicU64,
}

/// Serves `router` on `listener` until `stop` turns true; then connections get [`GRACE`].
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    counters: Arc<ServerCounters>,
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => continue,
            () = stopped(&mut stop) => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: trying again at once would only burn the core.
                tracing::warn!(err = %error, "a TCP connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        counters.connections.fetch_add(1, Ordering::Relaxed);
        let Ok(permit) = limit.clone().try_acquire_owned() else {
            counters.over_limit.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        // Answers are small and wanted at once; a socket that refuses is closing anyway.
        let _ = stream.set_nodelay(true);
        let connection = Connection {
            address,
            acceptor: acceptor.clone(),
            router: router.clone(),
            counters: counters.clone(),
            stop: stop.clone(),
        };
        connections.spawn(async move {
            connection.run(stream).await;
            drop(permit);
        });
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finish).await.is_err() {
        connections.shutdown().await;
    }
}

struct Connection {
    address: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    counters: Arc<ServerCounters>,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let mut first = [0];
        let peeked = tokio::time::timeout(HANDSHAKE_TIME, stream.peek(&mut first)).await;
        if !matches!(peeked, Ok(Ok(1))) {
            self.counters.no_handshake.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if first != [TLS_HANDSHAKE] {
            let local = self.address.ip().to_canonical().is_loopback();
            return self.serve(TokioIo::new(stream), false, local, false).await;
        }
        let handshake = self.acceptor.accept(stream);
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIME, handshake).await else {
            self.counters.no_handshake.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.serve(TokioIo::new(stream), true, true, h2).await;
    }

    async fn serve<I>(self, io: I, secure: bool, allowed: bool, h2: bool)
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        let Self { address, router, counters, mut stop, .. } = self;
        let service = service_fn(move |request: Request<Incoming>| {
            let (router, counters) = (router.clone(), counters.clone());
            async move {
                if !allowed {
                    counters.clear_text.fetch_add(1, Ordering::Relaxed);
                    return Ok(clear_text().into_response());
                }
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(Peer { address, secure });
                let answered: Result<_, Infallible> = router.oneshot(request).await;
                answered
            }
        });
        // The protocol is known: guessing would wait for bytes without a time limit.
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder = if h2 { builder.http2_only() } else { builder.http1_only() };
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(MAX_HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .keep_alive_interval(HEADER_TIME)
            .keep_alive_timeout(HANDSHAKE_TIME);
        let connection = builder.serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        // How a connection ends is the client's affair; requests have been answered or not.
        tokio::select! {
            _ended = connection.as_mut() => {}
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                let _ended = connection.await;
            }
        }
    }
}

/// Ends when the server stops, also by losing whoever could say so.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn clear_text() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "plain HTTP is answered on this machine only; use https:// with the same host and port",
    )
}
