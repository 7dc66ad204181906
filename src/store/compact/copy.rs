//! Copies the rows of every table, in the order of their keys.
//!
//! - Every row is verified before it is copied. A damaged one ends the copy: a store must not lose rows silently.
//! - A step copies a few rows in one transaction of either file, so a copy needs little memory.
//! - The steps may read different states of the old file: see the module above.

use std::ops::Bound;

use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    TableHandle, Value, WriteTransaction,
};

use super::super::error::StoreError;
use super::super::migrate;
use super::super::rows::Kind;
use super::super::tables::{Tables, guarded};
use super::super::visit::{Visit, visit};
use super::tail::Batch;
use super::{Bounds, CompactError};

/// How far a copy has come.
pub(super) struct Position {
    /// The table, as an index into [`Kind::ALL`].
    table: usize,
    /// The key of the last row of the table that was copied. `None` at its start.
    after: Option<Vec<u8>>,
}

/// One step of a copy.
struct Step<'s> {
    from: &'s ReadTransaction,
    to: &'s WriteTransaction,
    kind: Kind,
    after: Option<&'s [u8]>,
    /// Rows and bytes that the step may still copy.
    rows: usize,
    bytes: usize,
}

impl Position {
    pub const START: Self = Self { table: 0, after: None };

    /// Copies the next rows to `to`, in one durable transaction. Returns whether more follow.
    pub fn advance(&mut self, from: &ReadTransaction, to: &Database, bounds: &Bounds) -> Result<bool, StoreError> {
        let transaction = begin(to)?;
        if self.table == 0 && self.after.is_none() {
            guarded(Kind::Meta, || migrate::copy_former_meta(from, &transaction))?;
        }
        let (mut rows, mut bytes) = (bounds.step_rows, bounds.step_bytes);
        while rows > 0
            && bytes > 0
            && let Some(&kind) = Kind::ALL.get(self.table)
        {
            let mut step = Step { from, to: &transaction, kind, after: self.after.as_deref(), rows, bytes };
            let after = guarded(kind, || visit(kind, &mut step))?;
            (rows, bytes) = (step.rows, step.bytes);
            self.table += usize::from(after.is_none());
            self.after = after;
        }
        transaction.commit()?;
        Ok(self.table < Kind::ALL.len())
    }
}

/// Begins a transaction whose commit is durable, and whole or not at all.
fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Ok(transaction)
}

impl Visit for &mut Step<'_> {
    type Result = Result<Option<Vec<u8>>, StoreError>;

    /// Copies rows of the table. Returns the key of the last one if more may follow.
    fn table<K: Key + 'static, V: Value + 'static>(
        self,
        table: TableDefinition<'static, K, V>,
        is_sound: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> bool,
    ) -> Self::Result {
        let (from, mut to) = (self.from.open_table(table)?, self.to.open_table(table)?);
        let rows = match self.after {
            Some(after) => from.range::<K::SelfType<'_>>((Bound::Excluded(K::from_bytes(after)), Bound::Unbounded))?,
            None => from.iter()?,
        };
        let mut last = self.after.map(<[u8]>::to_vec);
        for row in rows {
            if self.rows == 0 || self.bytes == 0 {
                return Ok(last);
            }
            let (key, row) = row?;
            let bytes = K::as_bytes(&key.value()).as_ref().to_vec();
            let follows = last.as_ref().is_none_or(|last| K::compare(last, &bytes).is_lt());
            if !follows || !is_sound(key.value(), row.value()) {
                return Err(self.kind.corrupt());
            }
            to.insert(key.value(), row.value())?;
            self.rows -= 1;
            self.bytes = self.bytes.saturating_sub(bytes.len() + V::as_bytes(&row.value()).as_ref().len());
            last = Some(bytes);
        }
        Ok(None)
    }
}

/// Applies what the writer has committed meanwhile, in one durable transaction.
pub(super) fn apply(batches: &[Batch], to: &Database) -> Result<(), StoreError> {
    if batches.is_empty() {
        return Ok(());
    }
    let transaction = begin(to)?;
    {
        let mut tables = Tables::open(&transaction)?;
        for batch in batches {
            batch.effects.iter().try_for_each(|effects| tables.write(effects))?;
            batch.heads.iter().try_for_each(|(workspace, head)| tables.set_head(*workspace, head))?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Checks that the new file has every table of the old one, and in each as many rows. A damaged page of the old file
/// can hide rows from a copy, but redb counts them apart.
pub(super) fn compare(old: &Database, new: &Database) -> Result<(), CompactError> {
    let (old, new) = (old.begin_read().map_err(StoreError::from)?, new.begin_read().map_err(StoreError::from)?);
    let tables = guarded(Kind::Meta, || Ok(old.list_tables()?.collect::<Vec<_>>()))?;
    for table in tables {
        let rows = |transaction: &ReadTransaction| -> Result<u64, StoreError> {
            Ok(transaction.open_untyped_table(table.clone())?.len()?)
        };
        if rows(&new).ok() != Some(guarded(Kind::Meta, || rows(&old))?) {
            return Err(CompactError::Damaged { table: table.name().to_owned() });
        }
    }
    Ok(())
}
