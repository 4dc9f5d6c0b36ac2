//! The admin socket in the data folder: the same routes for root and the node's own user, who need
//! neither password nor certificate.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

use super::backend::Principal;
use super::server::{GRACE, HEADER_TIME, MAX_HEAD, ServerCounters, stopped};

/// Its name in the data folder.
pub const SOCKET_FILE: &str = "roost.sock";

/// Connections at once: people and their scripts.
pub const MAX_LOCAL_CONNECTIONS: usize = 64;

/// The socket, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Opens it in `data`, which this process holds: one that is there already is left over from a
    /// node that was killed. A node without it serves all the same.
    pub(super) fn open(data: &Path) -> Option<Self> {
        let path = data.join(SOCKET_FILE);
        match bind(&path) {
            Ok(listener) => Some(Self { listener, path }),
            Err(error) => {
                tracing::warn!(
                    event = "socket.unavailable", file = %path.display(), err = %error,
                    "there is no admin socket: commands on this machine need --addr and a login; a \
                     path of at most 107 bytes is needed, in a folder that can be written"
                );
                None
            }
        }
    }

    /// Serves `router` until `stop` turns true.
    pub(super) async fn serve(
        self,
        router: Router,
        counters: Arc<ServerCounters>,
        mut stop: watch::Receiver<bool>,
    ) {
        let own = rustix::process::geteuid().as_raw();
        let limit = Arc::new(Semaphore::new(MAX_LOCAL_CONNECTIONS));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_ended) = connections.join_next(), if !connections.is_empty() => continue,
                () = stopped(&mut stop) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(err = %error, "a local connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            counters.connections.fetch_add(1, Ordering::Relaxed);
            // The folder and the mode keep others out; this holds whatever became of them.
            let peer = stream.peer_cred().map(|peer| peer.uid());
            if !peer.is_ok_and(|uid| uid == 0 || uid == own) {
                counters.socket_peer.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let Ok(permit) = limit.clone().try_acquire_owned() else {
                counters.over_limit.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (router, stop) = (router.clone(), stop.clone());
            connections.spawn(async move {
                answer(stream, router, stop).await;
                drop(permit);
            });
        }
        let finish = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, finish).await.is_err() {
            connections.shutdown().await;
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // The folder is this process's until it ends: nobody else's socket is there.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("something else is in its place; remove it")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn answer(stream: UnixStream, router: Router, mut stop: watch::Receiver<bool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Principal::local());
            let answered: Result<_, Infallible> = router.oneshot(request).await;
            answered
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEAD);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::http::fake::FakeMesh;
    use crate::http::router;

    async fn ask(path: &Path) -> io::Result<String> {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(b"GET /api/v1/cluster HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_socket_replaces_a_stale_one_is_private_and_goes_with_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SOCKET_FILE);
        // As a killed node leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let mesh = FakeMesh::start(1).await;
        let router = router(mesh.node(0), Arc::default());
        let socket = AdminSocket::open(folder.path()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (stop, stopped) = watch::channel(false);
        let counters = Arc::new(ServerCounters::default());
        let serving = tokio::spawn(socket.serve(router, counters.clone(), stopped));
        let answer = ask(&path).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        stop.send_replace(true);
        serving.await.unwrap();
        assert!(!path.exists());
        assert_eq!(counters.socket_peer.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_or_taken_is_done_without() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(100));
        std::fs::create_dir(&long).unwrap();
        assert!(AdminSocket::open(&long).is_none());
        std::fs::write(folder.path().join(SOCKET_FILE), "mine").unwrap();
        assert!(AdminSocket::open(folder.path()).is_none());
        assert_eq!(std::fs::read(folder.path().join(SOCKET_FILE)).unwrap(), b"mine");
    }
}
