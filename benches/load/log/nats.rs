//! NATS JetStream: a stream in files that syncs every message, and one ordered consumer for each subscriber.
//!
//! An ordered consumer is what its clients call a push consumer without acknowledgements, with flow control and in
//! memory. Its client checks that no message is missing.

use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::{HEARTBEAT, Last, Log, Reader, Spread, Start, Tally, Writer};
use crate::child::{Child, free_addr, is_installed, patiently, spawn};
use crate::fixture::Fixture;
use crate::lines::Lines;
use crate::profiles::Dice;

const PROGRAM: &str = "nats-server";
/// The stream, and the subject of its messages.
const STREAM: &str = "events";
/// The subject that the responses to a connection's requests come to.
const INBOX: &str = "inbox";
/// The subscription of the inbox. Those of consumers follow it.
const INBOX_SID: usize = 0;
/// Consumers of the stream. Its default of 1,000 is less than the subscribers.
const MAX_CONSUMERS: u32 = 50_000;
/// Messages in flight while it is filled.
const IN_FLIGHT: u64 = 1_000;

pub struct Nats {
    server: Child,
    _files: TempDir,
    messages: Arc<[Bytes]>,
}

impl Nats {
    /// `None` if it is not installed.
    pub async fn start(fixture: &Fixture, messages: &[Bytes]) -> anyhow::Result<Option<Self>> {
        if !is_installed(PROGRAM) {
            return Ok(None);
        }
        let files = TempDir::new_in(fixture.dir())?;
        let server = serve(&files, "always").await?;
        create_stream(server.addr).await?;
        Ok(Some(Self { server, _files: files, messages: messages.into() }))
    }

    /// Starts one that holds as many events. They are written without a sync for each, which would take minutes.
    pub async fn filled(fixture: &Fixture, messages: &[Bytes], events: u64) -> anyhow::Result<Option<Self>> {
        if !is_installed(PROGRAM) {
            return Ok(None);
        }
        let files = TempDir::new_in(fixture.dir())?;
        let server = serve(&files, "\"1m\"").await?;
        create_stream(server.addr).await?;
        fill(server.addr, messages, events).await?;
        server.stop().await?;
        let server = serve(&files, "always").await?;
        Ok(Some(Self { server, _files: files, messages: messages.into() }))
    }
}

/// Starts a server. `sync_interval` is how often it syncs its files.
async fn serve(files: &TempDir, sync_interval: &str) -> anyhow::Result<Child> {
    let addr = free_addr()?;
    let store = files.path().join("store");
    let settings = files.path().join("settings");
    std::fs::write(
        &settings,
        format!(
            "listen: \"{addr}\"\njetstream {{ store_dir: \"{}\", sync_interval: {sync_interval} }}\n",
            store.display()
        ),
    )?;
    let mut command = Command::new(PROGRAM);
    command.arg("--config").arg(&settings).arg("--log").arg(files.path().join("log"));
    let server = Child::at(addr, spawn(&mut command)?)?;
    patiently(PROGRAM, async || Connection::open(addr).await).await?;
    Ok(server)
}

async fn create_stream(addr: SocketAddr) -> anyhow::Result<()> {
    let mut control = Connection::open(addr).await?;
    let config = json!({
        "name": STREAM,
        "subjects": [STREAM],
        "storage": "file",
        "num_replicas": 1,
        "max_consumers": MAX_CONSUMERS,
    });
    control.ask(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &config).await?;
    Ok(())
}

async fn fill(addr: SocketAddr, messages: &[Bytes], events: u64) -> anyhow::Result<()> {
    let mut connection = Connection::open(addr).await?;
    let dice = &mut Dice::new(0);
    for first in (0..events).step_by(usize::try_from(IN_FLIGHT)?) {
        let count = IN_FLIGHT.min(events - first);
        let mut batch = Vec::new();
        for _ in 0..count {
            put_message(STREAM, &connection.inbox, dice.choose::<Bytes>(messages), &mut batch);
        }
        connection.lines.send(&batch).await?;
        for _ in 0..count {
            connection.answer().await?;
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl Log for Nats {
    fn name(&self) -> &'static str {
        "NATS JetStream"
    }

    fn server(&self) -> &Child {
        &self.server
    }

    async fn readers(&self, start: Start, spread: Spread) -> anyhow::Result<Vec<Box<dyn Reader>>> {
        let mut control = Connection::open(self.server.addr).await?;
        let info = control.ask(&format!("$JS.API.STREAM.INFO.{STREAM}"), &json!({})).await?;
        let head = info["state"]["last_seq"].as_u64().context("a last sequence")?;
        let after = if start == Start::Now { head } else { 0 };
        let mut readers: Vec<Box<dyn Reader>> = Vec::new();
        for subscribers in spread.shares() {
            let connection = Connection::open(self.server.addr).await?;
            let mut consumers = Consumers { connection, sequences: vec![after; subscribers] };
            consumers.open(&mut control, start).await?;
            readers.push(Box::new(consumers));
        }
        Ok(readers)
    }

    async fn writers(&self, writers: usize) -> anyhow::Result<Vec<Box<dyn Writer>>> {
        let mut all: Vec<Box<dyn Writer>> = Vec::new();
        for _ in 0..writers {
            let connection = Connection::open(self.server.addr).await?;
            all.push(Box::new(Publisher { connection, messages: Arc::clone(&self.messages) }));
        }
        Ok(all)
    }

    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        self.server.stop().await
    }
}

/// The consumers of a connection.
struct Consumers {
    connection: Connection,
    /// The sequence of the latest event of each of them.
    sequences: Vec<u64>,
}

impl Consumers {
    /// Subscribes to a subject for each consumer, and creates the consumers by another connection, so that nothing
    /// but their messages arrives on this one.
    async fn open(&mut self, control: &mut Connection, start: Start) -> anyhow::Result<()> {
        let inbox = self.connection.inbox.clone();
        let subject = |consumer: usize| format!("{inbox}.{consumer}");
        let mut subscribe = String::new();
        for consumer in 0..self.sequences.len() {
            write!(subscribe, "SUB {} {}\r\n", subject(consumer), sid(consumer))?;
        }
        self.connection.lines.send(subscribe.as_bytes()).await?;
        self.connection.synchronize().await?;
        for consumer in 0..self.sequences.len() {
            let config = json!({
                "deliver_subject": subject(consumer),
                "deliver_policy": if start == Start::Now { "new" } else { "all" },
                "ack_policy": "none",
                "max_deliver": 1,
                "flow_control": true,
                "idle_heartbeat": u64::try_from(HEARTBEAT.as_nanos())?,
                "mem_storage": true,
                "num_replicas": 1,
            });
            let request = json!({ "stream_name": STREAM, "config": config });
            control.ask(&format!("$JS.API.CONSUMER.CREATE.{STREAM}"), &request).await?;
        }
        Ok(())
    }
}

/// The subscription of a consumer.
fn sid(consumer: usize) -> usize {
    INBOX_SID + 1 + consumer
}

#[tonic::async_trait]
impl Reader for Consumers {
    async fn receive(&mut self, last: &Last, tally: &mut Tally) -> anyhow::Result<()> {
        let mut behind = self.sequences.iter().filter(|sequence| last.is_after(**sequence)).count();
        while behind > 0 {
            let ControlFlow::Break(message) = self.connection.next().await? else { continue };
            self.connection.lines.skip(message.length + 2).await?;
            let latest = message.sid.checked_sub(sid(0)).and_then(|consumer| self.sequences.get_mut(consumer));
            let latest = latest.context("a message of a consumer")?;
            let sequence = message.sequence.context("a message of the stream")?;
            tally.took(sequence, *latest)?;
            *latest = sequence;
            behind -= usize::from(!last.is_after(sequence));
        }
        Ok(())
    }
}

struct Publisher {
    connection: Connection,
    messages: Arc<[Bytes]>,
}

#[tonic::async_trait]
impl Writer for Publisher {
    async fn write(&mut self, dice: &mut Dice) -> anyhow::Result<u64> {
        let mut request = Vec::new();
        put_message(STREAM, &self.connection.inbox, dice.choose::<Bytes>(&self.messages), &mut request);
        self.connection.lines.send(&request).await?;
        self.connection.answer().await?["seq"].as_u64().context("a sequence")
    }
}

struct Connection {
    lines: Lines,
    /// Of its own: all connections share the subjects of the server.
    inbox: String,
}

/// A message that has begun to arrive.
struct Message {
    sid: usize,
    /// Its sequence, if it comes from the stream.
    sequence: Option<u64>,
    /// The bytes that follow, without the end of the line.
    length: usize,
}

impl Connection {
    async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let mut lines = Lines::open(addr).await?;
        ensure!(lines.line().await?.starts_with(b"INFO "), "NATS introduced itself");
        let inbox = format!("{INBOX}.{}", uuid::Uuid::now_v7().simple());
        let options = json!({ "verbose": false, "pedantic": false, "headers": true, "lang": "rust", "version": "0" });
        lines.send(format!("CONNECT {options}\r\nSUB {inbox} {INBOX_SID}\r\n").as_bytes()).await?;
        let mut connection = Self { lines, inbox };
        connection.synchronize().await?;
        Ok(connection)
    }

    /// Waits until the server has done what was sent.
    async fn synchronize(&mut self) -> anyhow::Result<()> {
        self.lines.send(b"PING\r\n").await?;
        let answer = self.lines.line().await?;
        ensure!(answer == b"PONG", "NATS answered {:?}", String::from_utf8_lossy(answer));
        Ok(())
    }

    /// Makes a request of JetStream's API.
    async fn ask(&mut self, subject: &str, request: &Value) -> anyhow::Result<Value> {
        let mut message = Vec::new();
        put_message(subject, &self.inbox, request.to_string().as_bytes(), &mut message);
        self.lines.send(&message).await?;
        self.answer().await
    }

    /// The next response to a request.
    async fn answer(&mut self) -> anyhow::Result<Value> {
        loop {
            if let ControlFlow::Break(message) = self.next().await? {
                let answer: Value = serde_json::from_slice(&self.lines.bytes(message.length).await?)?;
                ensure!(answer.get("error").is_none(), "NATS answered {}", answer["error"]);
                return Ok(answer);
            }
        }
    }

    /// Reads the start of the next message, or does what the server asks for.
    async fn next(&mut self) -> anyhow::Result<ControlFlow<Message>> {
        let line = std::str::from_utf8(self.lines.line().await?)?;
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("MSG") => return Ok(ControlFlow::Break(Message::parse(words)?)),
            Some("HMSG") => {
                let control = Control::parse(words)?;
                self.obey(control).await?;
            }
            Some("PING") => self.lines.send(b"PONG\r\n").await?,
            Some("PONG" | "INFO") => {}
            _ => bail!("NATS sent {line:?}"),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Answers flow control, without which the consumer stops. A heartbeat may carry it too.
    async fn obey(&mut self, control: Control) -> anyhow::Result<()> {
        let headers = String::from_utf8(self.lines.bytes(control.length).await?)?;
        let stalled = headers.lines().find_map(|line| line.strip_prefix("Nats-Consumer-Stalled: "));
        if let Some(reply) = control.reply.as_deref().or(stalled) {
            self.lines.send(format!("PUB {reply} 0\r\n\r\n").as_bytes()).await?;
        }
        Ok(())
    }
}

impl Message {
    /// `subject sid [reply] length`.
    fn parse<'a>(mut words: impl Iterator<Item = &'a str>) -> anyhow::Result<Self> {
        let sid = words.nth(1).context("a subscription")?.parse()?;
        let (second, third) = (words.next().context("a length")?, words.next());
        let (reply, length) = third.map_or((None, second), |length| (Some(second), length));
        Ok(Self { sid, sequence: reply.map(stream_sequence).transpose()?, length: length.parse()? })
    }
}

/// `$JS.ACK.stream.consumer.deliveries.stream sequence.consumer sequence.time.pending`.
fn stream_sequence(reply: &str) -> anyhow::Result<u64> {
    let tokens: Vec<&str> = reply.split('.').collect();
    let [_, _, .., sequence, _, _, _] = tokens[..] else { bail!("a subject of a delivery") };
    Ok(sequence.parse()?)
}

/// A message with headers, which only control messages have here.
struct Control {
    reply: Option<String>,
    length: usize,
}

impl Control {
    /// `subject sid [reply] length-of-headers length`.
    fn parse<'a>(words: impl Iterator<Item = &'a str>) -> anyhow::Result<Self> {
        let words: Vec<&str> = words.collect();
        let (reply, length) = match words[..] {
            [_, _, _, length] => (None, length),
            [_, _, reply, _, length] => (Some(reply.to_owned()), length),
            _ => bail!("NATS sent {words:?}"),
        };
        Ok(Self { reply, length: length.parse()? })
    }
}

fn put_message(subject: &str, reply: &str, message: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("PUB {subject} {reply} {}\r\n", message.len()).as_bytes());
    out.extend_from_slice(message);
    out.extend_from_slice(b"\r\n");
}
