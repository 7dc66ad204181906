//! `ImportProfiles` into an empty store, compared with bare redb that [`crate::inserts`] the same rows; and the memory
//! of the server during an import.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use cameo::config::StoreConfig;
use cameo::proto::v1::profile_key::Key;
use cameo::proto::v1::{ImportProfilesRequest, ImportProfilesResponse, ProfileKey, ProfilePatch};
use futures_util::{Stream, stream};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::block_in_place;
use tonic::Request;
use tonic::client::Grpc;

use crate::bare::transactions;
use crate::child::Child;
use crate::client::{RawCodec, connect};
use crate::figures::{count, float, median, micros_of};
use crate::fixture::Fixture;
use crate::inserts::insert_all;
use crate::plan::Plan;
use crate::profiles::{WORKSPACE, mpid, profile};
use crate::report::Report;

/// A limit for the rounds: a round takes minutes for a million profiles.
const MAX_ROUNDS: u32 = 3;
/// Records per commit of bare redb: the most that Cameo puts into a commit of single calls, and of imports.
const BATCHES: [usize; 2] = [512, 4_096];
/// The cache of the import that shows whether memory grows, in bytes.
const SMALL_CACHE: usize = 64 << 20;
/// How often the memory is measured during an import.
const SAMPLES: usize = 10;

/// The encoded records, in order.
type Records = Arc<[Bytes]>;

/// The results of an import.
struct Import {
    answer: ImportProfilesResponse,
    elapsed: Duration,
    /// CPU time of the server per record, in microseconds.
    processor: f64,
    /// The number of commits.
    commits: u64,
    /// Resident memory of the server in KiB: before the import, and after each tenth of the records was sent.
    resident: Vec<u32>,
}

/// A round, on a new store.
struct Round {
    cameo: Import,
    /// A second import of the same records.
    again: Import,
    /// The records per commit of bare redb, and its time: first as many as Cameo, then [`BATCHES`].
    bare: Vec<(usize, Duration)>,
}

impl Round {
    /// Cameo's records per second, relative to those of bare redb.
    fn to_bare(&self, nth: usize) -> f64 {
        self.bare[nth].1.div_duration_f64(self.cameo.elapsed)
    }

    /// The same, relative to bare redb at its fastest.
    fn to_best(&self) -> f64 {
        (0..self.bare.len()).map(|nth| self.to_bare(nth)).fold(f64::INFINITY, f64::min)
    }
}

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("encoding {} records", fixture.profiles);
    let records: Records = (0..fixture.profiles).map(record).collect();
    let dir = fixture.dir().join("import");
    let store = StoreConfig { data_dir: dir.join("data"), ..StoreConfig::default() };
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds.min(MAX_ROUNDS) {
        rounds.push(one_round(&store, &dir, &records).await?);
        std::fs::remove_dir_all(&dir)?;
    }
    let small = StoreConfig { cache_bytes: SMALL_CACHE, ..store.clone() };
    let (small, _) = import_twice(&small, &records).await?;
    std::fs::remove_dir_all(&dir)?;
    tell_rates(&rounds, &small, records.len(), report);
    tell_memory(&rounds, store.cache_bytes, &small, report);
    Ok(())
}

/// The record that creates a profile.
fn record(index: u64) -> Bytes {
    let profile = profile(index);
    let patch = ProfilePatch {
        set_user_attributes: profile.user_attributes,
        add_identities: [profile.device_identities, profile.user_identities].concat(),
        join_audiences: profile.audience_memberships,
        ..ProfilePatch::default()
    };
    let record = ImportProfilesRequest {
        workspace: if index == 0 { WORKSPACE.into() } else { String::new() },
        key: Some(ProfileKey { key: Some(Key::Mpid(mpid(index))) }),
        patch: Some(patch),
        ..ImportProfilesRequest::default()
    };
    record.encode_to_vec().into()
}

async fn one_round(store: &StoreConfig, dir: &Path, records: &Records) -> anyhow::Result<Round> {
    let (cameo, again) = import_twice(store, records).await?;
    let mut bare = Vec::new();
    for batch in [per_commit(&cameo, records.len())].into_iter().chain(BATCHES) {
        let (from, to) = (store_file(store), dir.join("bare.redb"));
        bare.push((batch, block_in_place(|| insert_all(&from, &to, batch, store.cache_bytes))?));
    }
    Ok(Round { cameo, again, bare })
}

fn store_file(store: &StoreConfig) -> PathBuf {
    store.data_dir.join("cameo.redb")
}

/// The mean number of records per commit, rounded.
fn per_commit(import: &Import, records: usize) -> usize {
    let commits = usize::try_from(import.commits).expect("a file holds fewer commits");
    (records + commits / 2) / commits
}

/// Starts a server on an empty store, and imports the records twice.
async fn import_twice(store: &StoreConfig, records: &Records) -> anyhow::Result<(Import, Import)> {
    let server = Child::cameo(store).await?;
    let (file, expected) = (store_file(store), i64::try_from(records.len())?);
    let first = import(&server, &file, records).await?;
    ensure!(first.answer.created == expected && first.commits > 0, "each record created a profile");
    let again = import(&server, &file, records).await?;
    ensure!(again.answer.unchanged == expected && again.commits == 0, "no record changed its profile");
    server.stop().await?;
    Ok((first, again))
}

async fn import(server: &Child, file: &Path, records: &Records) -> anyhow::Result<Import> {
    let mut grpc = Grpc::new(connect(server.addr, 1).await?.remove(0));
    grpc.ready().await?;
    let (progress, mut tenths) = unbounded_channel();
    let mut resident = vec![server.resident_kib()?];
    let (before, processor) = (transactions(file)?, server.processor_time()?);

    let start = Instant::now();
    let path = PathAndQuery::from_static("/cameo.v1.ProfileService/ImportProfiles");
    let request = Request::new(sending(Arc::clone(records), progress));
    let sample = async {
        while let Some(()) = tenths.recv().await {
            resident.push(server.resident_kib()?);
        }
        anyhow::Ok(())
    };
    let (answer, sampled) = tokio::join!(grpc.client_streaming(request, path, RawCodec), sample);
    let elapsed = start.elapsed();

    sampled?;
    let answer = ImportProfilesResponse::decode(answer?.into_inner())?;
    let processor = micros_of(server.processor_time()?.saturating_sub(processor)) / float(records.len() as u64);
    Ok(Import { answer, elapsed, processor, commits: transactions(file)? - before, resident })
}

/// The records as a stream that reports when each tenth was sent. Flow control holds it back, so the server has read
/// nearly as much.
fn sending(records: Records, progress: UnboundedSender<()>) -> impl Stream<Item = Bytes> {
    let tenth = move |sent: usize, records: &Records| sent * SAMPLES / records.len();
    stream::iter((0..records.len()).map(move |index| {
        if tenth(index + 1, &records) > tenth(index, &records) {
            let _ = progress.send(()); // A receiver that is gone has failed, and returns its own error.
        }
        records[index].clone()
    }))
}

fn tell_rates(rounds: &[Round], small: &Import, records: usize, report: &mut Report) {
    let rate = |elapsed: Duration| float(records as u64) / elapsed.as_secs_f64();
    let cameo_row = |name: &str, imports: &[&Import]| {
        let elapsed = imports.iter().map(|import| rate(import.elapsed));
        let processor = median(imports.iter().map(|import| import.processor));
        vec![name.to_owned(), count(median(elapsed)), String::new(), format!("{processor:.1} µs")]
    };
    let first: Vec<_> = rounds.iter().map(|round| &round.cameo).collect();
    let again: Vec<_> = rounds.iter().map(|round| &round.again).collect();
    let mut rows = vec![
        cameo_row("Cameo, into an empty store", &first),
        cameo_row(&format!("Cameo, into an empty store, with a cache of {}", mebibytes(SMALL_CACHE)), &[small]),
        cameo_row("Cameo, the same records again, which change nothing", &again),
    ];
    for nth in 0..=BATCHES.len() {
        let bare = || rounds.iter().map(|round| &round.bare[nth]);
        let batch = count(median(bare().map(|(batch, _)| float(*batch as u64))));
        let name = format!("bare redb, {batch} per commit{}", if nth == 0 { " (as many as Cameo)" } else { "" });
        let rate = count(median(bare().map(|(_, elapsed)| rate(*elapsed))));
        let ratio = median(rounds.iter().map(|round| round.to_bare(nth)));
        rows.push(vec![name, rate, format!("{ratio:.2}"), String::new()]);
    }
    let alike = median(rounds.iter().map(|round| round.to_bare(0)));
    let best = median(rounds.iter().map(Round::to_best));
    let claim = "Import into an empty store: records/s, relative to bare redb that inserts the same rows";
    report.claim(
        format!("{claim}, as many per commit as suits it best"),
        format!("{best:.2} ({} records/s)", rows[0][1]),
        "≥ 0.70",
    );
    report.claim(format!("{claim}, as many per commit as Cameo"), format!("{alike:.2}"), "");
    report.claim("Import of the same records again, which change nothing", format!("{} records/s", rows[2][1]), "");
    let columns = ["Writer", "records/s", "Cameo relative to this", "server CPU per record"];
    report.table(&format!("Imports of {} profiles", count(float(records as u64))), &columns, &rows);
}

fn tell_memory(rounds: &[Round], cache_bytes: usize, small: &Import, report: &mut Report) {
    let kib = |import: &Import| import.resident.iter().map(|&kib| f64::from(kib)).collect::<Vec<_>>();
    let of_rounds: Vec<_> = rounds.iter().map(|round| kib(&round.cameo)).collect();
    let default = (0..=SAMPLES).map(|sample| median(of_rounds.iter().map(|round| round[sample]))).collect();
    let row = |cache, resident: Vec<f64>| {
        let resident = resident.into_iter().map(|kib| count(kib / 1024.0));
        [mebibytes(cache)].into_iter().chain(resident).collect::<Vec<_>>()
    };
    let rows = [row(cache_bytes, default), row(SMALL_CACHE, kib(small))];
    let columns: Vec<_> = (1..=SAMPLES).map(|tenth| format!("{} %", tenth * 100 / SAMPLES)).collect();
    let columns: Vec<_> = ["Cache", "before"].into_iter().chain(columns.iter().map(String::as_str)).collect();
    report.table(
        "Resident memory of the server during an import, by the share of records sent, in MiB",
        &columns,
        &rows,
    );

    let [half, all] = [1 + SAMPLES / 2, 1 + SAMPLES].map(|column| &rows[1][column]);
    let name = format!("Server memory during an import, with a cache of {}", mebibytes(SMALL_CACHE));
    report.claim(name, format!("{half} MiB after half of the records, {all} MiB after all"), "no growth");
}

fn mebibytes(bytes: usize) -> String {
    format!("{} MiB", count(float(bytes as u64 >> 20)))
}
