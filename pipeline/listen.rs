//! Open sockets, keyed by protocol and address. They outlive sources and their generations: a
//! reload swaps settings behind a socket, so nobody is refused meanwhile.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::{TcpListener, UdpSocket};

use crate::component::Listen;

/// Connections that the kernel holds while nobody accepts (a swap takes milliseconds).
const BACKLOG: i32 = 1024;
/// Receive buffer asked for on UDP sockets, in bytes: what arrives while a batch is decoded.
const UDP_BUFFER_BYTES: usize = 8 << 20;

/// The registry of open sockets.
#[derive(Debug, Default)]
pub struct Listeners {
    tcp: Mutex<HashMap<SocketAddr, Arc<TcpListener>>>,
    udp: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
    /// Why the last attempt to open an address failed.
    refused: Mutex<HashMap<Listen, String>>,
}

impl Listeners {
    /// The TCP socket at `address`, opened if it is not. Several holders may accept on it.
    ///
    /// # Errors
    /// If it cannot be bound (a port in use: that source is down and retried).
    pub fn tcp(&self, address: SocketAddr) -> io::Result<Arc<TcpListener>> {
        self.noted(Listen::Tcp(address), self.open_tcp(address))
    }

    fn open_tcp(&self, address: SocketAddr) -> io::Result<Arc<TcpListener>> {
        let mut open = self.tcp.lock();
        if let Some(listener) = open.get(&address) {
            return Ok(listener.clone());
        }
        let socket = socket(address, socket2::Type::STREAM)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = Arc::new(TcpListener::from_std(socket.into())?);
        open.insert(address, listener.clone());
        Ok(listener)
    }

    /// The UDP socket at `address`, opened if it is not.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub fn udp(&self, address: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        self.noted(Listen::Udp(address), self.open_udp(address))
    }

    fn noted<T>(&self, listen: Listen, opened: io::Result<T>) -> io::Result<T> {
        let mut refused = self.refused.lock();
        match &opened {
            Ok(_) => refused.remove(&listen),
            Err(error) => refused.insert(listen, error.to_string()),
        };
        opened
    }

    /// Why an address is not open.
    pub fn refused(&self, listen: Listen) -> Option<String> {
        self.refused.lock().get(&listen).cloned()
    }

    fn open_udp(&self, address: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        let mut open = self.udp.lock();
        if let Some(socket) = open.get(&address) {
            return Ok(socket.clone());
        }
        let socket = socket(address, socket2::Type::DGRAM)?;
        // The kernel caps this at rmem_max; less is no reason to fail.
        let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES);
        socket.bind(&address.into())?;
        let socket = Arc::new(UdpSocket::from_std(StdUdpSocket::from(socket))?);
        open.insert(address, socket.clone());
        Ok(socket)
    }

    /// Opens `listen` ahead of its use.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub fn open(&self, listen: Listen) -> io::Result<()> {
        match listen {
            Listen::Tcp(address) => self.tcp(address).map(drop),
            Listen::Udp(address) => self.udp(address).map(drop),
        }
    }

    /// Closes every socket that is not in `keep`, once its last holder lets go of it.
    pub fn retain(&self, keep: &[Listen]) {
        self.tcp.lock().retain(|a, _| keep.contains(&Listen::Tcp(*a)));
        self.udp.lock().retain(|a, _| keep.contains(&Listen::Udp(*a)));
        self.refused.lock().retain(|listen, _| keep.contains(listen));
    }

    /// The address that a socket is really bound to: differs from the asked one for port 0.
    pub fn bound(&self, listen: Listen) -> Option<SocketAddr> {
        match listen {
            Listen::Tcp(address) => self.tcp.lock().get(&address)?.local_addr().ok(),
            Listen::Udp(address) => self.udp.lock().get(&address)?.local_addr().ok(),
        }
    }
}

fn socket(address: SocketAddr, kind: socket2::Type) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
