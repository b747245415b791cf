//! A cluster of Fluvio of one controller and one SPU, as far as clients see it: topics, batches as they
//! came, streams that end wherever their bytes end and go on when the client says so. It speaks the
//! protocol by Fluvio's own crates. What it acknowledged is in its folder, whenever it is killed.

mod connection;
mod controller;
mod disk;
mod spu;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use weir_pipeline::config::TlsServer;
use weir_pipeline::tls::server_config;

use self::disk::Disk;
use crate::harness::{Program, free_port};

/// Where the peer that this process shall be has its files; else it runs tests.
const FOLDER: &str = "WEIR_FLUVIO_FOLDER";
/// Its ports: of the controller, and of the SPU.
const PORTS: &str = "WEIR_FLUVIO_PORTS";
/// Whether it wants TLS, with the certificates in its folder.
const TLS: &str = "WEIR_FLUVIO_TLS";

/// What connections share.
struct Peer {
    disk: Mutex<Disk>,
    spu_port: u16,
    /// Something was written or created.
    changed: watch::Sender<()>,
}

/// A peer that runs, in a process of its own.
pub(super) struct Running {
    folder: PathBuf,
    ports: (u16, u16),
    tls: bool,
    program: Option<Program>,
}

impl Running {
    pub(super) fn start(folder: &Path, tls: bool) -> Self {
        let ports = (free_port(), free_port());
        let mut running = Self { folder: folder.to_owned(), ports, tls, program: None };
        running.restart();
        running
    }

    pub(super) fn restart(&mut self) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "queues::fluvio::the_peer_speaks_to_the_client_of_fluvio"])
            .arg("--nocapture")
            .env(FOLDER, &self.folder)
            .env(PORTS, format!("{} {}", self.ports.0, self.ports.1));
        if self.tls {
            command.env(TLS, "1");
        }
        self.program = Some(Program::start("peer", &mut command, &self.folder.join("log")));
        for port in [self.ports.0, self.ports.1] {
            crate::harness::wait("the peer listens", || {
                std::net::TcpStream::connect(("127.0.0.1", port)).ok()
            });
        }
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        drop(self.program.take());
    }

    /// Of the controller.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.0)
    }

    /// Takes the oldest batches of a partition away, as retention does. Not while it runs.
    pub(super) fn forget(&self, topic: &str, number: u32, batches: usize) {
        assert!(self.program.is_none(), "the peer runs");
        Disk::open(&self.folder).forget(topic, number, batches);
    }

    /// How many batches a partition has. Not while it runs.
    pub(super) fn batches(&self, topic: &str, number: u32) -> usize {
        assert!(self.program.is_none(), "the peer runs");
        Disk::open(&self.folder).log(topic, number).unwrap().batches()
    }
}

/// Is the peer, for ever, if this process was started to be one.
pub(super) fn serve_if_asked() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let ports = std::env::var(PORTS).unwrap();
    let (controller, spu) = ports.split_once(' ').unwrap();
    let tls = std::env::var_os(TLS).map(|_| {
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        let options = TlsServer { cert, key, client_ca: None };
        TlsAcceptor::from(Arc::new(server_config(&options, &[]).unwrap()))
    });
    let peer = Arc::new(Peer {
        disk: Mutex::new(Disk::open(&folder)),
        spu_port: spu.parse().unwrap(),
        changed: watch::channel(()).0,
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let listen = async |port: &str| TcpListener::bind(format!("127.0.0.1:{port}")).await;
        let (controllers, spus) = (listen(controller).await.unwrap(), listen(spu).await.unwrap());
        loop {
            let (stream, of_controller) = tokio::select! {
                accepted = controllers.accept() => (accepted.unwrap().0, true),
                accepted = spus.accept() => (accepted.unwrap().0, false),
            };
            let (peer, tls) = (peer.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => connection::serve(peer, stream, of_controller).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            connection::serve(peer, stream, of_controller).await;
                        }
                    }
                }
            });
        }
    });
}
