//! Redis, which batches are compared with.
//!
//! It holds the same bytes: the key is the mpid as decimal text, and the value is the encoded profile. The client
//! speaks the protocol directly on the connection. Of a response it reads only the number and the lengths of the
//! values.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use cameo::store::Store;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::child::{Child, free_addr, is_installed, patiently, spawn};
use crate::client::{Outcome, gather};
use crate::figures::{Latency, latency};
use crate::fixture::{Fixture, Stored};
use crate::lines::Lines;
use crate::profiles::{Dice, mpid};
use crate::side::Calls;

const PROGRAM: &str = "redis-server";
/// Values that are set before the responses are read. The buffers of the connection must hold the responses.
const PIPELINED: u64 = 1_000;

/// Starts a Redis that holds the profiles of the store, which no process may have open. `None` if Redis is not
/// installed.
pub async fn start(fixture: &Fixture) -> anyhow::Result<Option<Child>> {
    if !is_installed(PROGRAM) {
        return Ok(None);
    }
    let addr = free_addr()?;
    let mut command = Command::new(PROGRAM);
    command.args(["--bind", "127.0.0.1", "--port", &addr.port().to_string(), "--loglevel", "warning"]);
    command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(fixture.dir());
    let redis = Child::at(addr, spawn(&mut command)?)?;
    fill(&mut patiently(PROGRAM, async || Connection::open(addr).await).await?, fixture).await?;
    Ok(Some(redis))
}

async fn fill(redis: &mut Connection, fixture: &Fixture) -> anyhow::Result<()> {
    eprintln!("filling Redis");
    let store = Store::open(&fixture.store, |_, _| {})?;
    let stored = Stored::of(&store)?;
    for first in (0..fixture.profiles).step_by(usize::try_from(PIPELINED)?) {
        let indexes = first..fixture.profiles.min(first + PIPELINED);
        let mut request = Vec::new();
        for index in indexes.clone() {
            let key = mpid(index).to_string();
            put_command(&[b"SET", key.as_bytes(), &stored.profile(index)?], &mut request);
        }
        redis.lines.send(&request).await?;
        for _ in indexes {
            ensure!(redis.lines.line().await? == b"+OK", "Redis set the value");
        }
    }
    drop(stored);
    store.close().await;
    Ok(())
}

/// `MGET` of random keys in a closed loop: each connection has its share of the calls in flight.
pub struct Mget {
    pub addr: SocketAddr,
    pub batch: u32,
    pub connections: usize,
    pub in_flight: usize,
    pub profile_bytes: Arc<[u32]>,
}

#[tonic::async_trait]
impl Calls for Mget {
    async fn run(&self, duration: Duration, seed: u64) -> anyhow::Result<Outcome> {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(self.addr).await?);
        }
        let start = Instant::now();
        let mut running = JoinSet::new();
        for (client, connection) in (0..).zip(connections) {
            let draw = Draw { batch: self.batch, profile_bytes: Arc::clone(&self.profile_bytes) };
            let (dice, in_flight) = (Dice::new((seed << 32) + client), self.in_flight / self.connections);
            running.spawn(connection.keep_busy(draw, dice, in_flight, start + duration));
        }
        gather(start, running).await
    }
}

/// Chooses the keys of a request.
struct Draw {
    batch: u32,
    profile_bytes: Arc<[u32]>,
}

impl Draw {
    /// A request, and the total length of the values that it asks for.
    fn request(&self, dice: &mut Dice) -> (Vec<u8>, usize) {
        let mut expected = 0;
        let mut keys = Vec::new();
        for _ in 0..self.batch {
            let index = dice.below(self.profile_bytes.len() as u64);
            expected += self.profile_bytes[usize::try_from(index).expect("an index")] as usize;
            keys.push(mpid(index).to_string());
        }
        let mut words: Vec<&[u8]> = vec![b"MGET"];
        words.extend(keys.iter().map(String::as_bytes));
        let mut request = Vec::new();
        put_command(&words, &mut request);
        (request, expected)
    }
}

fn put_command(words: &[&[u8]], out: &mut Vec<u8>) {
    put_number('*', words.len(), out);
    for word in words {
        put_number('$', word.len(), out);
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn put_number(kind: char, number: usize, out: &mut Vec<u8>) {
    write!(out, "{kind}{number}\r\n").expect("writing to a Vec cannot fail");
}

struct Connection {
    lines: Lines,
}

impl Connection {
    async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { lines: Lines::open(addr).await? })
    }

    async fn keep_busy(
        mut self,
        draw: Draw,
        mut dice: Dice,
        in_flight: usize,
        end: Instant,
    ) -> anyhow::Result<Latency> {
        let mut latency = latency();
        let mut waiting = VecDeque::new();
        loop {
            while waiting.len() < in_flight && Instant::now() < end {
                let began = Instant::now();
                let (request, expected) = draw.request(&mut dice);
                self.lines.send(&request).await?;
                waiting.push_back((began, expected));
            }
            let Some((began, expected)) = waiting.pop_front() else { return Ok(latency) };
            let (count, bytes) = self.values().await?;
            ensure!((count, bytes) == (draw.batch as usize, expected), "Redis sent {count} values of {bytes} bytes");
            latency.record(began.elapsed().as_micros().try_into()?)?;
        }
    }

    /// Skips an array of values. Returns their number and their total length.
    async fn values(&mut self) -> anyhow::Result<(usize, usize)> {
        let count = self.number(b'*').await?;
        let mut bytes = 0;
        for _ in 0..count {
            let length = self.number(b'$').await?; // -1 for a missing value, which fails to parse.
            self.lines.skip(length + 2).await?;
            bytes += length;
        }
        Ok((count, bytes))
    }

    async fn number(&mut self, kind: u8) -> anyhow::Result<usize> {
        let line = self.lines.line().await?;
        ensure!(line.first() == Some(&kind), "Redis responded {:?}", String::from_utf8_lossy(line));
        Ok(std::str::from_utf8(&line[1..])?.parse()?)
    }
}
