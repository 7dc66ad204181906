//! The rows of the tables, as a backup holds them: the bytes of the key and of the value.

use std::ops::Bound;

use redb::{Key, ReadTransaction, ReadableTableMetadata, TableDefinition, Value};

use super::super::error::StoreError;
use super::super::rows::Kind;
use super::super::tables::guarded;
use super::super::visit::{Visit, visit};
use crate::proto::storage::{BackupRow, BackupRows, BackupTable};

/// How far a backup has come with the tables.
#[derive(Debug)]
pub(super) struct Walk {
    /// The table, as an index into [`Kind::ALL`].
    table: usize,
    /// The key of the last row of the table that was read. `None` at its start.
    after: Option<Vec<u8>>,
    /// Rows that were read.
    pub rows: u64,
}

impl Walk {
    pub const START: Self = Self { table: 0, after: None, rows: 0 };

    /// Reads the next rows: so many bytes of one table. `None` after the last table.
    pub fn next(&mut self, from: &ReadTransaction, bytes: usize) -> Result<Option<BackupRows>, StoreError> {
        while let Some(&kind) = Kind::ALL.get(self.table) {
            let step = Step { from, kind, after: self.after.as_deref(), most: bytes };
            let (rows, has_more) = guarded(kind, || visit(kind, step))?;
            self.rows += rows.len() as u64;
            self.after = rows.last().filter(|_| has_more).map(|row| row.key.clone());
            self.table += usize::from(!has_more);
            if !rows.is_empty() {
                return Ok(Some(BackupRows { table: (kind as u8).into(), rows }));
            }
        }
        Ok(None)
    }
}

/// Reads rows of one table.
struct Step<'s> {
    from: &'s ReadTransaction,
    kind: Kind,
    after: Option<&'s [u8]>,
    /// The bytes of rows after which it ends.
    most: usize,
}

impl Visit for Step<'_> {
    /// The rows, and whether more may follow.
    type Result = Result<(Vec<BackupRow>, bool), StoreError>;

    fn table<K: Key + 'static, V: Value + 'static>(
        self,
        table: TableDefinition<'static, K, V>,
        is_sound: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> bool,
    ) -> Self::Result {
        let table = self.from.open_table(table)?;
        let from = self.after.map_or(Bound::Unbounded, |after| Bound::Excluded(K::from_bytes(after)));
        let (mut rows, mut bytes) = (Vec::<BackupRow>::new(), 0);
        for row in table.range::<K::SelfType<'_>>((from, Bound::Unbounded))? {
            if bytes >= self.most {
                return Ok((rows, true));
            }
            let (key, value) = row?;
            let last = rows.last().map(|row| &*row.key).or(self.after);
            let read = encoded::<K, V>(&key.value(), &value.value());
            let follows = last.is_none_or(|last| K::compare(last, &read.key).is_lt());
            if !follows || !is_sound(key.value(), value.value()) {
                return Err(self.kind.corrupt());
            }
            bytes += read.key.len() + read.value.as_ref().map_or(0, Vec::len);
            rows.push(read);
        }
        Ok((rows, false))
    }
}

fn encoded<K: Key, V: Value>(key: &K::SelfType<'_>, value: &V::SelfType<'_>) -> BackupRow {
    BackupRow { key: K::as_bytes(key).as_ref().to_vec(), value: Some(V::as_bytes(value).as_ref().to_vec()) }
}

/// Whether a row of a backup has the form of its table, and its value verifies.
pub(super) fn is_sound(kind: Kind, row: &BackupRow) -> bool {
    guarded(kind, || Ok(visit(kind, Sound(row)))).unwrap_or(false)
}

struct Sound<'r>(&'r BackupRow);

impl Visit for Sound<'_> {
    type Result = bool;

    fn table<K: Key + 'static, V: Value + 'static>(
        self,
        _: TableDefinition<'static, K, V>,
        is_sound: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> bool,
    ) -> bool {
        let BackupRow { key, value } = self.0;
        let fits = |width: Option<usize>, bytes: &[u8]| width.is_none_or(|width| width == bytes.len());
        let value = value.as_deref();
        fits(K::fixed_width(), key)
            && value
                .is_none_or(|value| fits(V::fixed_width(), value) && is_sound(K::from_bytes(key), V::from_bytes(value)))
    }
}

/// Counts the rows of each table that has any.
pub(super) fn count(state: &ReadTransaction) -> Result<Vec<BackupTable>, StoreError> {
    let mut tables = Vec::new();
    for kind in Kind::ALL {
        let rows = guarded(kind, || visit(kind, Count(state)))?;
        tables.push(BackupTable { table: (kind as u8).into(), rows });
    }
    tables.retain(|table| table.rows > 0);
    Ok(tables)
}

struct Count<'s>(&'s ReadTransaction);

impl Visit for Count<'_> {
    type Result = Result<u64, StoreError>;

    fn table<K: Key + 'static, V: Value + 'static>(
        self,
        table: TableDefinition<'static, K, V>,
        _: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> bool,
    ) -> Self::Result {
        Ok(self.0.open_table(table)?.len()?)
    }
}
