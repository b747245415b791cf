//! Connections: the whole messages of what was read are one entry. While an entry is written the
//! next one is collected, up to a limit; then nothing more is read and the sender waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_pipeline::intake::now;
use weir_pipeline::tls::ServerTls;

use super::super::frames::Frames;
use super::super::framing::Framing;
use super::super::{Protocol, SyslogPlan};
use super::{Live, Serving};

/// Messages that one connection collects while others are written.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Read at a time.
const READ_BYTES: usize = 64 << 10;
/// A TLS handshake may take this long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection (no file left, for instance).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Idle connections are asked for a sign of life, so that dead ones go away.
const KEEPALIVE: Duration = Duration::from_secs(60);

pub(super) fn open(live: &Live, plan: &SyslogPlan) -> Result<Serving, String> {
    let tls = match &plan.tls {
        Some(tls) => Some(Arc::new(ServerTls::load(tls, &[]).map_err(|e| e.to_string())?)),
        None => None,
    };
    let listener = live.context.listeners.tcp(plan.listen).map_err(|e| e.to_string())?;
    let address = listener.local_addr().unwrap_or(plan.listen);
    let protocol = if tls.is_some() { "tls" } else { "tcp" };
    tracing::info!(source = %live.context.id, %address, protocol, "listening");
    let connections = plan.connections_max;
    Ok(Box::new(move |live, end| {
        let tls = Arc::new(Mutex::new(tls));
        accept(live, listener, tls, connections, end).boxed()
    }))
}

type Tls = Arc<Mutex<Option<Arc<ServerTls>>>>;

async fn accept(
    live: Live,
    listener: Arc<TcpListener>,
    tls: Tls,
    connections_max: usize,
    end: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(connections_max));
    let tasks = TaskTracker::new();
    loop {
        if room.available_permits() == 0 {
            let metrics = live.context.intake.metrics();
            let message = format!("{connections_max} connections are open, others wait");
            metrics.error(1, "connections", &message, now());
        }
        let accepted = tokio::select! {
            () = end.cancelled() => break,
            accepted = async {
                let permit = room.clone().acquire_owned().await;
                listener.accept().await.map(|accepted| (accepted, permit))
            } => accepted,
        };
        match accepted {
            Ok(((stream, peer), permit)) => {
                let tls = current_tls(&live, &tls);
                let connection = connection(live.clone(), stream, peer, tls, end.clone());
                tasks.spawn(async move {
                    let _permit = permit;
                    connection.await;
                });
            }
            Err(error) => {
                tracing::warn!(source = %live.context.id, %error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

/// The certificate of the settings in force; the old one where the new one is of no use.
fn current_tls(live: &Live, tls: &Tls) -> Option<Arc<ServerTls>> {
    let settings = live.settings();
    let wanted = settings.plan().filter(|p| p.protocol == Protocol::Tls)?.tls.as_ref();
    let mut tls = tls.lock();
    if let Some(wanted) = wanted
        && tls.as_ref().is_none_or(|tls| tls.options() != wanted)
    {
        match ServerTls::load(wanted, &[]) {
            Ok(new) => *tls = Some(Arc::new(new)),
            Err(e) => {
                tracing::error!(source = %live.context.id, error = %e, "keeping the old certificate");
                live.context.intake.metrics().error(1, "tls", &e.to_string(), now());
            }
        }
    }
    tls.clone()
}

async fn connection(
    live: Live,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<ServerTls>>,
    end: CancellationToken,
) {
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    // Only a help against dead peers.
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let peer = peer.to_string();
    let Some(tls) = tls else {
        return Connection::new(live, "tcp", peer, stream).run(end).await;
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.config());
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
    let handshake = tokio::select! {
        () = end.cancelled() => return,
        handshake = handshake => handshake,
    };
    match handshake {
        Ok(Ok(stream)) => Connection::new(live, "tls", peer, stream).run(end).await,
        Ok(Err(e)) => {
            let metrics = live.context.intake.metrics();
            metrics.rejected(1, "tls", &format!("{peer}: {e}"), now());
        }
        Err(_) => {
            let metrics = live.context.intake.metrics();
            metrics.rejected(1, "tls", &format!("{peer}: the handshake took too long"), now());
        }
    }
}

struct Connection<S> {
    live: Live,
    path: &'static str,
    peer: String,
    stream: S,
    framing: Framing,
    buffer: BytesMut,
    frames: Frames,
    appending: Option<BoxFuture<'static, ()>>,
}

impl<S: AsyncRead + Unpin> Connection<S> {
    fn new(live: Live, path: &'static str, peer: String, stream: S) -> Self {
        let framing = Framing::new(live.message_bytes_max());
        let (buffer, frames) = (BytesMut::new(), Frames::default());
        Self { live, path, peer, stream, framing, buffer, frames, appending: None }
    }

    async fn run(mut self, end: CancellationToken) {
        // Nothing more comes: the sender closed, or Weir stops.
        let mut ended = false;
        loop {
            self.collect(ended);
            if self.appending.is_none() && self.frames.messages() > 0 {
                let (messages, payload) = (self.frames.messages(), self.frames.take());
                let (live, peer) = (self.live.clone(), self.peer.clone());
                self.appending = Some(live.append(self.path, peer, messages, payload).boxed());
            }
            let idle = self.appending.is_none();
            if ended && idle {
                return;
            }
            let room = !ended && self.frames.bytes() < BATCH_BYTES_MAX;
            if room {
                self.buffer.reserve(READ_BYTES);
            }
            tokio::select! {
                () = end.cancelled(), if !ended => {
                    // A message that is not whole yet was not taken in.
                    while self.take_one() {}
                    self.buffer.clear();
                    ended = true;
                }
                () = wait(&mut self.appending), if !idle => self.appending = None,
                read = self.stream.read_buf(&mut self.buffer), if room => match read {
                    Ok(1..) => {}
                    // A sender that resets the connection has still sent what came before.
                    Ok(0) | Err(_) => ended = true,
                },
            }
        }
    }

    /// Moves whole messages from the buffer to the next entry; at the end of the stream the rest,
    /// too.
    fn collect(&mut self, ended: bool) {
        self.framing.set_limit(self.live.message_bytes_max());
        while self.frames.bytes() < BATCH_BYTES_MAX {
            if !self.take_one() {
                if ended && !self.buffer.is_empty() {
                    let frames = &mut self.frames;
                    self.framing.rest(&mut self.buffer, |m, cut| frames.push("", m, cut));
                }
                return;
            }
        }
    }

    fn take_one(&mut self) -> bool {
        let frames = &mut self.frames;
        self.framing.next(&mut self.buffer, |m, cut| frames.push("", m, cut))
    }
}

async fn wait(appending: &mut Option<BoxFuture<'static, ()>>) {
    match appending {
        Some(append) => append.await,
        None => std::future::pending().await,
    }
}
