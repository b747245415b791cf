//! Datagrams: what is there is one entry; what comes while that is written is the next one.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use weir_pipeline::intake::now;

use super::super::SyslogPlan;
use super::super::decode::ip_text;
use super::super::frames::Frames;
use super::{Live, Serving};

/// Messages that may wait while others are written.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// Datagrams taken before others get their turn.
const DRAIN_MAX: usize = 1_000;
/// Longest datagram.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

pub(super) fn open(live: &Live, plan: &SyslogPlan) -> Result<Serving, String> {
    let socket = live.context.listeners.udp(plan.listen).map_err(|e| e.to_string())?;
    let address = socket.local_addr().unwrap_or(plan.listen);
    tracing::info!(source = %live.context.id, %address, protocol = "udp", "listening");
    Ok(Box::new(move |live, end| Receiver::new(live, socket).run(end).boxed()))
}

struct Receiver {
    live: Live,
    socket: Arc<UdpSocket>,
    buffer: Vec<u8>,
    frames: Frames,
    /// Text of the last sender.
    peer: Option<(IpAddr, String)>,
    appending: Option<BoxFuture<'static, ()>>,
}

impl Receiver {
    fn new(live: Live, socket: Arc<UdpSocket>) -> Self {
        let buffer = vec![0; DATAGRAM_BYTES_MAX];
        Self { live, socket, buffer, frames: Frames::default(), peer: None, appending: None }
    }

    async fn run(mut self, end: CancellationToken) {
        while !end.is_cancelled() {
            if self.appending.is_none() && self.frames.messages() > 0 {
                let (messages, payload) = (self.frames.messages(), self.frames.take());
                let append = self.live.clone().append("udp", String::new(), messages, payload);
                self.appending = Some(append.boxed());
            }
            let socket = self.socket.clone();
            tokio::select! {
                () = end.cancelled() => {}
                () = wait(&mut self.appending) => self.appending = None,
                ready = socket.readable() => match ready {
                    Ok(()) => self.drain(),
                    Err(e) => self.failed(&e),
                },
            }
        }
        // What the kernel already has, and what waits.
        self.drain();
        wait_done(self.appending.take()).await;
        if self.frames.messages() > 0 {
            let (messages, payload) = (self.frames.messages(), self.frames.take());
            self.live.append("udp", String::new(), messages, payload).await;
        }
    }

    fn drain(&mut self) {
        let limit = self.live.message_bytes_max();
        let mut dropped = 0;
        for _ in 0..DRAIN_MAX {
            let (length, from) = match self.socket.try_recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    self.failed(&e);
                    break;
                }
            };
            if length == 0 {
                continue;
            }
            if self.frames.bytes() + length > PENDING_BYTES_MAX {
                dropped += 1;
                continue;
            }
            let kept = length.min(limit);
            if self.peer.as_ref().is_none_or(|(ip, _)| *ip != from.ip()) {
                self.peer = Some((from.ip(), ip_text(from.ip())));
            }
            let peer = self.peer.as_ref().map_or("", |(_, text)| text);
            self.frames.push(peer, &self.buffer[..kept], kept < length);
        }
        if dropped > 0 {
            let metrics = self.live.context.intake.metrics();
            let message = "datagrams came faster than they could be written";
            metrics.rejected(dropped, "overflow", message, now());
        }
    }

    /// An error of one datagram (ICMP port unreachable, for instance): the socket goes on.
    fn failed(&self, error: &io::Error) {
        let metrics = self.live.context.intake.metrics();
        metrics.error(1, "receive", &error.to_string(), now());
    }
}

/// The end of an append that is under way.
async fn wait(appending: &mut Option<BoxFuture<'static, ()>>) {
    match appending {
        Some(append) => append.await,
        None => std::future::pending().await,
    }
}

async fn wait_done(appending: Option<BoxFuture<'static, ()>>) {
    if let Some(append) = appending {
        append.await;
    }
}
