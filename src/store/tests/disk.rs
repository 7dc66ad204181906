//! A disk in memory that can lose power at any moment, and that a test can make fail.
//!
//! - The disk keeps a journal of every call that changes it. A [`Replay`] plays the journal up to some call, and makes
//!   the disks that a crash at that moment may leave.
//! - Synced bytes are on all of these disks. Unsynced bytes may be there, or not, or in part.
//! - A crash changes no byte that was not being written. redb assumes the same of a real disk.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use redb::StorageBackend;

/// Bytes of a chunk: the unit in which images share memory.
const CHUNK: usize = 4_096;
/// Bytes that a disk writes as one.
const SECTOR: usize = 512;

/// The bytes of a file. Copies share the chunks that are equal, so thousands of copies are cheap.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// `None` for a chunk of zeros.
    chunks: Vec<Option<Arc<[u8; CHUNK]>>>,
    len: usize,
}

/// A call that changes the disk.
#[derive(Debug, Clone)]
pub enum Operation {
    Write { offset: usize, data: Arc<[u8]> },
    SetLen(usize),
    Sync,
}

/// What becomes of the calls since the last sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// All are lost.
    LoseAll,
    /// None is lost: the process ends, but the machine keeps running.
    KeepAll,
    /// Some are lost, and the others take effect in another order.
    Scatter,
    /// As `Scatter`, and a part of one write is lost.
    Tear,
}

/// Which calls a disk refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Reads,
    Writes,
    Syncs,
    /// Each call that changes the disk, after this many such calls.
    ChangesFrom(usize),
}

/// The disk. Clones are handles to the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    written: Image,
    /// What is left after a power loss that keeps nothing unsynced.
    synced: Image,
    journal: Vec<Operation>,
    fault: Option<Fault>,
}

/// A disk at one moment of its past.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    synced: Image,
    unsynced: Vec<Operation>,
}

impl Disk {
    /// A disk that holds this image, synced.
    pub fn holding(image: Image) -> Self {
        let state = State { written: image.clone(), synced: image, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The disk after a power loss at this moment, if only synced bytes have reached it.
    pub fn after_power_loss(&self) -> Self {
        Self::holding(self.state().synced.clone())
    }

    /// Makes calls fail from now on. `None` ends the fault.
    pub fn refuse(&self, fault: impl Into<Option<Fault>>) {
        self.state().fault = fault.into();
    }

    /// How many calls have changed the disk so far.
    pub fn operations(&self) -> usize {
        self.state().journal.len()
    }

    /// Every call that has changed the disk so far, in order.
    pub fn journal(&self) -> Vec<Operation> {
        self.state().journal.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn change(&self, operation: Operation) -> Result<(), io::Error> {
        let mut state = self.state();
        if state.refuses(&operation) {
            return Err(refused());
        }
        operation.apply(&mut state.written);
        if matches!(operation, Operation::Sync) {
            state.synced = state.written.clone();
        }
        state.journal.push(operation);
        Ok(())
    }
}

impl State {
    fn refuses(&self, operation: &Operation) -> bool {
        match self.fault {
            Some(Fault::Syncs) => matches!(operation, Operation::Sync),
            Some(Fault::Writes) => !matches!(operation, Operation::Sync),
            Some(Fault::ChangesFrom(first)) => self.journal.len() >= first,
            Some(Fault::Reads) | None => false,
        }
    }
}

fn refused() -> io::Error {
    io::Error::other("the disk refuses")
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.state().written.len as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let state = self.state();
        if state.fault == Some(Fault::Reads) {
            return Err(refused());
        }
        state.written.read(index(offset), out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.change(Operation::SetLen(index(len)))
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.change(Operation::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.change(Operation::Write { offset: index(offset), data: data.into() })
    }
}

impl Replay {
    /// Begins with a disk that holds this image, synced.
    pub fn of(image: Image) -> Self {
        Self { synced: image, unsynced: Vec::new() }
    }

    /// Plays the first calls of a disk that was empty.
    pub fn up_to(disk: &Disk, operations: usize) -> Self {
        let mut replay = Self::default();
        disk.journal()[..operations].iter().for_each(|operation| replay.play(operation));
        replay
    }

    pub fn play(&mut self, operation: &Operation) {
        match operation {
            Operation::Sync => self.unsynced.drain(..).for_each(|operation| operation.apply(&mut self.synced)),
            operation => self.unsynced.push(operation.clone()),
        }
    }

    /// Whether a crash could lose nothing.
    pub fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// What a crash at this moment leaves.
    pub fn crash(&self, crash: Crash, random: &mut StdRng) -> Image {
        let mut image = self.synced.clone();
        for operation in self.surviving(crash, random) {
            operation.apply(&mut image);
        }
        image
    }

    fn surviving(&self, crash: Crash, random: &mut StdRng) -> Vec<Operation> {
        match crash {
            Crash::LoseAll => Vec::new(),
            Crash::KeepAll => self.unsynced.clone(),
            Crash::Scatter => some_of(&self.unsynced, random),
            Crash::Tear => self.torn(random),
        }
    }

    fn torn(&self, random: &mut StdRng) -> Vec<Operation> {
        let is_write = |at: &usize| matches!(self.unsynced[*at], Operation::Write { .. });
        let writes: Vec<_> = (0..self.unsynced.len()).filter(is_write).collect();
        let Some(&torn) = writes.choose(random) else { return some_of(&self.unsynced, random) };
        let mut others = self.unsynced.clone();
        let part = others.remove(torn).part(random);
        some_of(&others, random).into_iter().chain(part).collect()
    }
}

/// A random share of the operations, in any order.
fn some_of(operations: &[Operation], random: &mut StdRng) -> Vec<Operation> {
    let share = random.random_range(0.0..=1.0);
    let mut some: Vec<_> = operations.iter().filter(|_| random.random_bool(share)).cloned().collect();
    some.shuffle(random);
    some
}

impl Operation {
    fn apply(&self, image: &mut Image) {
        match self {
            Self::Write { offset, data } => image.write(*offset, data),
            Self::SetLen(len) => image.set_len(*len),
            Self::Sync => {}
        }
    }

    /// A part of a write: its first bytes, or some of its sectors.
    fn part(&self, random: &mut StdRng) -> Vec<Self> {
        let Self::Write { offset, data } = self else { return Vec::new() };
        let write = |part: Range<usize>| Self::Write { offset: offset + part.start, data: data[part].into() };
        if random.random_bool(0.5) {
            return vec![write(0..random.random_range(0..data.len()))];
        }
        let sectors = (0..data.len()).step_by(SECTOR).map(|start| start..data.len().min(start + SECTOR));
        sectors.filter(|_| random.random_bool(0.5)).map(write).collect()
    }
}

impl Image {
    fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), io::Error> {
        if offset + out.len() > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (chunk, of_chunk, of_out) in pieces(offset, out.len()) {
            match &self.chunks[chunk] {
                Some(bytes) => out[of_out].copy_from_slice(&bytes[of_chunk]),
                None => out[of_out].fill(0),
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        if offset + data.len() > self.len {
            self.set_len(offset + data.len());
        }
        for (chunk, of_chunk, of_data) in pieces(offset, data.len()) {
            let bytes = self.chunks[chunk].get_or_insert_with(|| Arc::new([0; CHUNK]));
            Arc::make_mut(bytes)[of_chunk].copy_from_slice(&data[of_data]);
        }
    }

    fn set_len(&mut self, len: usize) {
        self.chunks.resize(len.div_ceil(CHUNK), None);
        if let Some(Some(last)) = self.chunks.last_mut().filter(|_| len < self.len && !len.is_multiple_of(CHUNK)) {
            Arc::make_mut(last)[len % CHUNK..].fill(0); // So that bytes that are cut off do not come back.
        }
        self.len = len;
    }
}

/// The chunks that `len` bytes at `offset` lie in. Each comes with its range in the chunk, and its range in the bytes
/// that are read or written.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let end = offset + len;
    let chunks = offset / CHUNK..end.div_ceil(CHUNK);
    chunks.map(move |chunk| {
        let (from, to) = (offset.max(chunk * CHUNK), end.min((chunk + 1) * CHUNK));
        (chunk, from - chunk * CHUNK..to - chunk * CHUNK, from - offset..to - offset)
    })
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("the disks of tests are small")
}

mod tests {
    use rand::SeedableRng;

    use super::*;

    /// A page of ones is synced, then overwritten with nines. A crash leaves only ones and nines.
    #[test]
    fn a_crash_keeps_synced_bytes_and_may_lose_any_part_of_the_others() {
        let disk = Disk::default();
        disk.write(100, &[1; CHUNK]).unwrap();
        disk.sync_data().unwrap();
        disk.write(100, &[9; CHUNK]).unwrap();
        let replay = Replay::up_to(&disk, disk.operations());
        let nines = |crash, seed| {
            let disk = Disk::holding(replay.crash(crash, &mut StdRng::seed_from_u64(seed)));
            let mut page = [0; CHUNK];
            disk.read(100, &mut page).unwrap();
            assert!(page.iter().all(|byte| [1, 9].contains(byte)));
            page.into_iter().filter(|byte| *byte == 9).count()
        };

        assert_eq!(nines(Crash::LoseAll, 0), 0);
        assert_eq!(nines(Crash::KeepAll, 0), CHUNK);
        let scattered: Vec<_> = (0..20).map(|seed| nines(Crash::Scatter, seed)).collect();
        assert!(scattered.contains(&0) && scattered.contains(&CHUNK), "{scattered:?}");
        let torn: Vec<_> = (0..20).map(|seed| nines(Crash::Tear, seed)).collect();
        assert!(torn.iter().any(|nines| nines % SECTOR > 0), "to the byte: {torn:?}");
        assert!(torn.iter().any(|nines| *nines > 0 && nines % SECTOR == 0), "by sectors: {torn:?}");
    }

    #[test]
    fn bytes_that_are_cut_off_a_file_do_not_come_back() {
        let disk = Disk::default();
        disk.write(0, &[1; 2 * CHUNK]).unwrap();
        disk.set_len(10).unwrap();
        disk.set_len(20).unwrap();
        let mut bytes = [7; 20];
        disk.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [[1; 10], [0; 10]].concat()[..]);
        assert!(disk.read(1, &mut bytes).is_err(), "past its end");
    }
}
