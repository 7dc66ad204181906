//! The file of a backup: a magic number, then frames, each of which holds a `BackupPart`.
//!
//! A frame is the length of the part, a checksum of the length, a checksum of the part, and the part. The checksum of
//! the part before seeds both. So the last checksum covers the whole file, and a frame that is missing, repeated, or of
//! another backup is noticed like one in which a bit has changed. A damaged length is noticed before so much is read.
//! The first part is the header, and the last the trailer, after which the file ends.

use std::io::{ErrorKind, Read};

use prost::Message;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::super::rows::{FormatsRow, Kind};
use crate::proto::storage::backup_part::Content;
use crate::proto::storage::{BackupHeader, BackupPart, BackupRow, BackupTable, BackupTrailer};

/// How every backup begins. Its last byte is no version: that is in the header.
const MAGIC: &[u8; 8] = b"cameobk\n";
/// The version of the format that this version writes, and the latest that it reads.
pub(super) const FORMAT: u32 = 1;
/// Where each field of a frame begins: the length, its checksum, that of the part, and the part.
const LENGTH_CHECKSUM: usize = 4;
const PART_CHECKSUM: usize = 8;
const FRAME: usize = 16;

/// Why a file cannot be used as a backup.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum BadBackup {
    /// It begins otherwise.
    #[error("it is not a backup of cameo")]
    Foreign,
    /// A newer version made it.
    #[error("a newer version of cameo, {version}, made it: restore it with that version")]
    Newer { version: String },
    /// A checksum does not match.
    #[error("it is damaged at byte {at}, or in the part of the file that begins there")]
    Damaged { at: u64 },
    /// The end is missing.
    #[error("it is not whole: it ends at byte {at}, before the end of the backup")]
    Truncated { at: u64 },
    /// There is something after the end.
    #[error("it has more bytes than the backup, which ends at byte {at}")]
    Longer { at: u64 },
    /// It was made of a store with a damaged page.
    #[error("it lacks rows of the table {table}: the store that it was made of was damaged")]
    Incomplete { table: &'static str },
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

/// Writes frames.
#[derive(Debug)]
pub(super) struct Frames {
    /// The checksum of the frame before.
    checksum: u64,
}

impl Frames {
    /// Begins a backup. Returns its first bytes too.
    pub fn begin(header: BackupHeader) -> (Self, Vec<u8>) {
        let mut frames = Self { checksum: 0 };
        let mut file = MAGIC.to_vec();
        frames.put(Content::Header(header), &mut file);
        (frames, file)
    }

    /// Appends a frame.
    pub fn put(&mut self, content: Content, file: &mut Vec<u8>) {
        let part = BackupPart { content: Some(content) };
        let begin = file.len();
        file.extend_from_slice(&[0; FRAME]);
        part.encode(file).expect("a Vec takes any length");
        let frame = &mut file[begin..];
        let length = u32::try_from(frame.len() - FRAME).expect("a part is far smaller").to_le_bytes();
        frame[..LENGTH_CHECKSUM].copy_from_slice(&length);
        frame[LENGTH_CHECKSUM..PART_CHECKSUM].copy_from_slice(&length_checksum(length, self.checksum));
        self.checksum = xxh3_64_with_seed(&frame[FRAME..], self.checksum);
        frame[PART_CHECKSUM..FRAME].copy_from_slice(&self.checksum.to_le_bytes());
    }
}

fn length_checksum(length: [u8; 4], seed: u64) -> [u8; 4] {
    *xxh3_64_with_seed(&length, seed).to_le_bytes().first_chunk().expect("four of eight bytes")
}

/// A part after the header.
#[derive(Debug)]
pub(super) enum Part {
    Rows(Kind, Vec<BackupRow>),
    Trailer(BackupTrailer),
}

/// Whether a row says that tables have a newer format. Their rows would not verify.
fn is_newer(BackupRow { key, value }: &BackupRow) -> bool {
    let formats = value.as_ref().filter(|_| key == FormatsRow::KEY);
    formats.is_some_and(|formats| matches!(FormatsRow::unknown(formats), Ok(Some(_))))
}

/// Reads the parts of a backup.
pub(super) struct Parts<R> {
    from: R,
    version: String,
    checksum: u64,
    /// Where the current frame begins, and where it ends.
    begin: u64,
    end: u64,
}

impl<R: Read> Parts<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`BadBackup`].
    pub fn open(mut from: R) -> Result<(Self, BackupHeader), BadBackup> {
        let mut magic = [0; MAGIC.len()];
        match from.read_exact(&mut magic) {
            Ok(()) if magic == *MAGIC => {}
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => return Err(BadBackup::Foreign),
        }
        let end = MAGIC.len() as u64;
        let mut parts = Self { from, version: String::new(), checksum: 0, begin: end, end };
        let Content::Header(header) = parts.content()? else { return Err(parts.damaged()) };
        parts.version.clone_from(&header.cameo_version);
        if header.format > FORMAT { Err(parts.newer()) } else { Ok((parts, header)) }
    }

    /// Reads the next part. The trailer is the last, and the file must end after it.
    ///
    /// # Errors
    /// [`BadBackup`].
    pub fn next(&mut self) -> Result<Part, BadBackup> {
        match self.content()? {
            Content::Header(_) => Err(self.damaged()),
            Content::Rows(rows) => {
                let kind = Kind::ALL.into_iter().find(|kind| u32::from(*kind as u8) == rows.table);
                let kind = kind.ok_or_else(|| self.newer())?;
                if kind == Kind::Meta && rows.rows.iter().any(is_newer) {
                    Err(self.newer())
                } else {
                    Ok(Part::Rows(kind, rows.rows))
                }
            }
            Content::Trailer(trailer) => match self.from.read(&mut [0])? {
                0 => Ok(Part::Trailer(trailer)),
                _ => Err(BadBackup::Longer { at: self.end }),
            },
        }
    }

    /// Fails unless what was checked of the current part is right.
    ///
    /// # Errors
    /// [`BadBackup::Damaged`].
    pub fn check(&self, is_right: bool) -> Result<(), BadBackup> {
        if is_right { Ok(()) } else { Err(self.damaged()) }
    }

    /// Fails unless the restored tables have as many rows as the backup says.
    ///
    /// # Errors
    /// [`BadBackup::Incomplete`].
    pub fn check_counts(found: &[BackupTable], trailer: &BackupTrailer) -> Result<(), BadBackup> {
        let rows = |tables: &[BackupTable], kind: Kind| {
            let table = tables.iter().find(|table| table.table == u32::from(kind as u8));
            table.map_or(0, |table| table.rows)
        };
        let differs = |kind: &Kind| rows(found, *kind) != rows(&trailer.tables, *kind);
        let differing = Kind::ALL.into_iter().find(differs);
        differing.map_or(Ok(()), |kind| Err(BadBackup::Incomplete { table: kind.name() }))
    }

    fn damaged(&self) -> BadBackup {
        BadBackup::Damaged { at: self.begin }
    }

    fn newer(&self) -> BadBackup {
        BadBackup::Newer { version: self.version.clone() }
    }

    fn content(&mut self) -> Result<Content, BadBackup> {
        self.begin = self.end;
        let frame = self.take(FRAME as u64)?;
        let length: [u8; 4] = frame[..LENGTH_CHECKSUM].try_into().expect("four bytes");
        self.check(frame[LENGTH_CHECKSUM..PART_CHECKSUM] == length_checksum(length, self.checksum))?;
        let checksum = u64::from_le_bytes(frame[PART_CHECKSUM..].try_into().expect("eight bytes"));
        let part = self.take(u32::from_le_bytes(length).into())?;
        self.checksum = xxh3_64_with_seed(&part, self.checksum);
        self.check(self.checksum == checksum)?;
        let part = BackupPart::decode(&*part).ok().and_then(|part| part.content);
        part.ok_or_else(|| self.newer()) // The checksum is right, so this version does not know the part.
    }

    /// Reads so many bytes.
    fn take(&mut self, length: u64) -> Result<Vec<u8>, BadBackup> {
        let mut bytes = Vec::new();
        let found = (&mut self.from).take(length).read_to_end(&mut bytes)? as u64;
        self.end += found;
        if found == length { Ok(bytes) } else { Err(BadBackup::Truncated { at: self.end }) }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::{RestoreError, restore};
    use super::*;
    use crate::proto::storage::BackupRows;

    /// Why a backup of this format with these parts is not restored.
    fn refused(format: u32, parts: impl IntoIterator<Item = Content>) -> BadBackup {
        let header = BackupHeader { format, cameo_version: "9.9.9".into(), ..BackupHeader::default() };
        let (mut frames, mut file) = Frames::begin(header);
        parts.into_iter().for_each(|part| frames.put(part, &mut file));
        let directory = TempDir::new().unwrap();
        let Err(RestoreError::Backup(bad)) = restore(&*file, directory.path(), |_| {}) else { panic!("restored") };
        assert!(directory.path().read_dir().unwrap().next().is_none(), "and nothing is left");
        bad
    }

    fn trailer(table: u32, rows: u64) -> Content {
        Content::Trailer(BackupTrailer { time: None, tables: vec![BackupTable { table, rows }] })
    }

    /// The store that it was made of had hidden rows.
    #[test]
    fn a_backup_with_fewer_rows_than_its_store_is_not_restored() {
        let bad = refused(FORMAT, [trailer((Kind::Profile as u8).into(), 1)]);
        assert!(matches!(bad, BadBackup::Incomplete { table: "profile" }), "{bad:?}");
    }

    #[test]
    fn a_backup_of_a_newer_version_is_refused_with_the_version() {
        let rows = |table, key: &[u8], value: &[u8]| {
            let rows = vec![BackupRow { key: key.to_vec(), value: Some(value.to_vec()) }];
            Content::Rows(BackupRows { table, rows })
        };
        let bad = [refused(FORMAT + 1, []), refused(FORMAT, [rows(99, b"key", b"row")])];
        let is_newer = |bad: &BadBackup| matches!(bad, BadBackup::Newer { version } if version == "9.9.9");
        assert!(bad.iter().all(is_newer), "{bad:?}");
    }

    #[test]
    fn a_row_that_does_not_verify_is_not_restored_although_the_frames_do() {
        let row = BackupRow { key: b"log".to_vec(), value: Some(b"no seal".to_vec()) };
        let rows = BackupRows { table: (Kind::Meta as u8).into(), rows: vec![row] };
        let bad = refused(FORMAT, [Content::Rows(rows), trailer((Kind::Meta as u8).into(), 1)]);
        assert!(matches!(bad, BadBackup::Damaged { .. }), "{bad:?}");
    }
}
