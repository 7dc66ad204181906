//! The storm: writers, subscribers, and a server that is restarted under them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use super::audiences::Change;
use super::clients::Subscriber;
use super::log::Erasure;
use super::retention;
use super::seen::Seen;
use super::truth::Truth;
use super::validator::validate;
use super::violation::Violation;
use super::writers::write;
use crate::harness::*;

const WRITERS: usize = 4;
/// What a server may send of a stream before its client reads: some ten events. So it waits for slow clients.
const WINDOW_BYTES: u32 = 4 << 10;

/// How large a storm is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub seed: u64,
    pub clients: u64,
    /// How many streams each of them opens, besides the last, which reads to the end.
    pub streams: usize,
    /// How often each writer writes.
    pub writes: usize,
    pub restarts: usize,
}

impl Size {
    pub fn of(clients: u64) -> Self {
        Self { seed: 0, clients, streams: 8, writes: 300, restarts: 3 }
    }
}

/// Where the server is.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    addr: SocketAddr,
    /// Whether nothing more will be written.
    pub is_over: bool,
}

/// What writers and subscribers share.
#[derive(Clone)]
pub struct Shared {
    pub stages: Arc<watch::Sender<Stage>>,
    /// How many writes were made, and how many of them the reader of the truth has seen.
    pub writes: Arc<watch::Sender<usize>>,
    pub known: Arc<watch::Sender<usize>>,
    /// Writers hold it shared while they write, and those that erase exclusively.
    pub turn: Arc<RwLock<()>>,
    erasures: Arc<Mutex<Vec<Erasure>>>,
    changes: Arc<Mutex<Vec<Change>>>,
    /// Whether nobody subscribes any more. Memberships still end.
    pub is_read: Arc<AtomicBool>,
    written: Arc<Mutex<String>>,
    floor: Arc<AtomicU64>,
}

impl Shared {
    fn of(addr: SocketAddr) -> Self {
        Self {
            stages: Arc::new(watch::Sender::new(Stage { addr, is_over: false })),
            writes: Arc::default(),
            known: Arc::default(),
            turn: Arc::default(),
            erasures: Arc::default(),
            changes: Arc::default(),
            is_read: Arc::default(),
            written: Arc::default(),
            floor: Arc::default(),
        }
    }

    /// Counts a write, while its turn lasts: the next that erases waits until the reader of the truth has seen it.
    pub fn count_write(&self) {
        self.writes.send_modify(|writes| *writes += 1);
    }

    pub fn note_written(&self, cursor: String) {
        *self.written.lock().unwrap() = cursor;
    }

    /// The cursor of a recent write whose response has come.
    pub fn written(&self) -> String {
        self.written.lock().unwrap().clone()
    }

    pub fn note_erasure(&self, erasure: Erasure) {
        self.erasures.lock().unwrap().push(erasure);
    }

    /// All erasures so far, in order.
    pub fn erasures(&self) -> Vec<Erasure> {
        self.erasures.lock().unwrap().clone()
    }

    pub fn note_change(&self, change: Change) {
        self.changes.lock().unwrap().push(change);
    }

    /// All changes of audiences so far, in order.
    pub fn changes(&self) -> Vec<Change> {
        self.changes.lock().unwrap().clone()
    }

    pub fn note_floor(&self, floor: u64) {
        self.floor.fetch_max(floor, Ordering::SeqCst);
    }

    /// The sequence of the last event that is known to be gone.
    pub fn floor(&self) -> u64 {
        self.floor.load(Ordering::SeqCst)
    }
}

/// A connection that is made at the first call, which fails if the server is being restarted.
pub fn connect(stages: &mut watch::Receiver<Stage>) -> Client {
    let addr = stages.borrow_and_update().addr;
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap().initial_stream_window_size(WINDOW_BYTES);
    let channel = endpoint.connect_lazy();
    Client::on(channel)
}

/// A connection to the server that follows one that has gone. After the last there is no other.
pub async fn next_server(stages: &mut watch::Receiver<Stage>) -> Client {
    if !stages.borrow().is_over {
        within(stages.changed()).await.unwrap();
    }
    connect(stages)
}

/// Runs a storm, and validates what each of its subscribers recorded. The error says which one found what.
pub async fn storm(size: Size) -> Result<Seen, (String, Violation)> {
    let mut server = TestServer::start_with(retention::settings).await;
    let truth = Truth::begin(&server.client().await).await.map_err(of_the_log)?;
    let shared = Shared::of(server.addr);
    let truth = tokio::spawn(truth.read_all(shared.clone()));

    let mut writers = JoinSet::new();
    for (n, seed) in (0..WRITERS).zip(size.seed..) {
        writers.spawn(write(seed ^ ((n as u64) << 32), size.writes, shared.clone()));
    }
    let mut subscribers = JoinSet::new();
    for n in 0..size.clients {
        let subscriber = Subscriber::new(n, size.seed, shared.clone());
        subscribers.spawn(subscriber.run(size.streams));
    }
    for nth in 1..=size.restarts {
        let due = nth * size.writes * WRITERS / (size.restarts + 1);
        within(shared.writes.subscribe().wait_for(|writes| *writes >= due)).await.unwrap();
        server = TestServer::reopen_with(server.stop().await, retention::settings).await;
        shared.stages.send_modify(|stage| stage.addr = server.addr);
    }
    within(writers.join_all()).await;
    shared.stages.send_modify(|stage| stage.is_over = true);
    let recordings = within(subscribers.join_all()).await;
    shared.is_read.store(true, Ordering::SeqCst);
    let log = within(truth).await.unwrap().map_err(of_the_log)?;
    server.stop().await;
    let (deleted_audiences, named_audiences) = (log.audiences.deleted, log.audiences.named);
    let mut seen = Seen { deleted_audiences, named_audiences, ..Seen::default() };
    for (name, recording) in recordings {
        validate(&log, &recording).map_err(|violation| (name, violation))?;
        seen.count(&recording);
    }
    Ok(seen)
}

fn of_the_log(violation: Violation) -> (String, Violation) {
    ("the log".into(), violation)
}
