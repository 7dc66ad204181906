//! Verifies the pages that every call depends on, before redb opens the file.
//!
//! redb keeps the checksum of each page in the page above it, and those of the roots in the header, but it looks at
//! them only after a crash. So damage of its own tables is not refused: it would hand out pages that are in use, or
//! panic in a commit, in ways that end the process. Here they are verified, with the rows that name all tables, and the
//! tables that are read whole at open. That reads little: redb's own tables take a few bits for each page of the file.
//!
//! Rows of the other tables have checksums of their own, and their damage concerns those who need them alone.

use redb::{StorageBackend, TableHandle};
use xxhash_rust::xxh3::xxh3_128;

use super::PAGE;
use super::tables::{HEADS, META, WORKSPACES};

/// Of the format of redb's files; others are left to redb.
const VERSION: u8 = 3;
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// The flags of the header, and their place.
const FLAGS: usize = 9;
const SECOND_SLOT: u8 = 1;
const RECOVERY_REQUIRED: u8 = 2;
const TWO_PHASE_COMMIT: u8 = 4;
/// Numbers of the header: how many pages a region has before those of trees, and how many of those.
const REGION_HEADER_PAGES: usize = 16;
const REGION_PAGES: usize = 20;
/// The slots of the last two commits.
const SLOTS: usize = 64;
const SLOT: usize = 128;
const USER_ROOT: usize = 8;
const SYSTEM_ROOT: usize = 40;
const TRANSACTION: usize = 104;
const SLOT_CHECKSUM: usize = 112;

/// A row that describes a table: its kind, whether it has a root, the root, and whether its keys and its values have a
/// fixed width, and which.
const PLAIN_TABLE: u8 = 3;
const HAS_ROOT: usize = 9;
const ROOT: usize = 10;
const KEY_WIDTH: usize = 42;
const VALUE_WIDTH: usize = 47;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// Of a branch, before the checksums of its children.
const BRANCH_HEADER: usize = 8;
const CHECKSUM: usize = 16;
const NUMBER: usize = 8;
/// Pages come in sizes of 4 KiB times a power of two up to this.
const LARGEST_ORDER: u64 = 20;

/// A tree of pages.
#[derive(Debug, Clone, Copy)]
struct Tree {
    root: Child,
    key_width: Option<usize>,
    value_width: Option<usize>,
}

/// A page, and the checksum that the page above has of it.
#[derive(Debug, Clone, Copy)]
struct Child {
    page: u64,
    checksum: u128,
}

struct Pages<'b, B> {
    file: &'b B,
    length: u64,
    region_header: u64,
    region_data: u64,
}

/// Verifies a file that redb would open without verifying it.
///
/// # Errors
/// What is damaged.
pub(super) fn verify(file: &impl StorageBackend) -> Result<(), &'static str> {
    let length = file.len().unwrap_or_default();
    if length < PAGE as u64 {
        return Ok(()); // redb refuses it, or it is new.
    }
    let mut header = [0; SLOTS + 2 * SLOT];
    file.read(0, &mut header).map_err(|_| "its header cannot be read")?;
    let flags = header[FLAGS];
    let (first, second) = header[SLOTS..].split_at(SLOT);
    let (primary, secondary) = if flags & SECOND_SLOT == 0 { (first, second) } else { (second, first) };
    if !header.starts_with(MAGIC) || flags & TWO_PHASE_COMMIT == 0 || primary[0] != VERSION || !is_sound(primary) {
        return Ok(()); // redb refuses it, or verifies all of it.
    }
    // Where the last process crashed, the newer slot may be of a commit that was broken off.
    let closed = flags & RECOVERY_REQUIRED == 0;
    if closed && is_sound(secondary) && number(secondary, TRANSACTION) > number(primary, TRANSACTION) {
        return Err("its header names a state that is not the latest");
    }
    let region = |at| number(&header, at).map(|pages| pages & u64::from(u32::MAX)).unwrap_or_default();
    let (region_header, region_data) = (region(REGION_HEADER_PAGES), region(REGION_PAGES));
    let pages = Pages { file, length, region_header, region_data };
    pages.tables(primary[2], &primary[SYSTEM_ROOT..], |_| true).ok_or("a page of its free space")?;
    let whole = [META.name(), WORKSPACES.name(), HEADS.name()];
    let read_at_open = |name: &[u8]| whole.iter().any(|table| table.as_bytes() == name);
    pages.tables(primary[1], &primary[USER_ROOT..], read_at_open).ok_or("a page that it cannot be opened without")
}

fn is_sound(slot: &[u8]) -> bool {
    slot[SLOT_CHECKSUM..] == xxh3_128(&slot[..SLOT_CHECKSUM]).to_le_bytes()
}

impl<B: StorageBackend> Pages<'_, B> {
    /// Verifies a tree whose rows describe tables, and those of its tables that are `wanted`.
    fn tables(&self, has_root: u8, root: &[u8], wanted: impl Fn(&[u8]) -> bool) -> Option<()> {
        if has_root == 0 {
            return Some(());
        }
        let mut tables = Vec::new();
        self.tree(Tree { root: Child::of_root(root)?, key_width: None, value_width: None }, |leaf| {
            for (name, row) in Rows::of(leaf)? {
                if wanted(name) && row.first() == Some(&PLAIN_TABLE) && *row.get(HAS_ROOT)? != 0 {
                    tables.push(Tree::of_row(row)?);
                }
            }
            Some(())
        })?;
        tables.into_iter().try_for_each(|table| self.tree(table, |_| Some(())))
    }

    /// Verifies a tree, and shows its leaves. `None` if a page is damaged.
    fn tree(&self, tree: Tree, mut leaf: impl FnMut(&[u8]) -> Option<()>) -> Option<()> {
        let mut left = vec![tree.root];
        while let Some(child) = left.pop() {
            let page = self.page(child.page)?;
            let used = page.get(..tree.used(&page)?)?;
            if xxh3_128(used) != child.checksum {
                return None;
            }
            if page[0] == LEAF {
                leaf(used)?;
            } else {
                left.extend(children(used)?);
            }
        }
        Some(())
    }

    fn page(&self, number: u64) -> Option<Vec<u8>> {
        let order = number >> 59;
        let (region, index) = (number >> 20 & 0xf_ffff, number & (0xf_ffff >> order.min(LARGEST_ORDER)));
        let page = PAGE as u64;
        let regions = region * (self.region_header + self.region_data) * page;
        let start = page + regions + self.region_header * page + index * (page << order.min(LARGEST_ORDER));
        if order > LARGEST_ORDER || start + (page << order) > self.length {
            return None;
        }
        let mut bytes = vec![0; PAGE << order];
        self.file.read(start, &mut bytes).ok()?;
        Some(bytes)
    }
}

impl Child {
    /// A page's number, its checksum, and the number of rows below.
    fn of_root(root: &[u8]) -> Option<Self> {
        Some(Self { page: number(root, 0)?, checksum: checksum(root, NUMBER)? })
    }
}

impl Tree {
    fn of_row(row: &[u8]) -> Option<Self> {
        let width = |at: usize| Some((*row.get(at)? != 0).then_some(short(row, at + 1, 4)?));
        let root = Child::of_root(row.get(ROOT..)?)?;
        Some(Self { root, key_width: width(KEY_WIDTH)?, value_width: width(VALUE_WIDTH)? })
    }

    /// How much of a page its checksum is of.
    fn used(&self, page: &[u8]) -> Option<usize> {
        let count = short(page, 2, 2)?;
        let last = count.checked_sub(1)?;
        match *page.first()? {
            LEAF => {
                let ends = |width: Option<usize>| if width.is_none() { 4 * count } else { 0 };
                let key_ends = ends(self.key_width);
                let keys = 4 + key_ends + ends(self.value_width);
                match (self.key_width, self.value_width) {
                    (_, None) => short(page, 4 + key_ends + 4 * last, 4),
                    (Some(key), Some(value)) => Some(keys + (key + value) * count),
                    (None, Some(value)) => Some(short(page, 4 + 4 * last, 4)? + value * count),
                }
            }
            BRANCH => {
                let keys = BRANCH_HEADER + (CHECKSUM + NUMBER) * (count + 1);
                match self.key_width {
                    Some(width) => Some(keys + width * count),
                    None => short(page, keys + 4 * last, 4),
                }
            }
            _ => None,
        }
    }
}

fn children(branch: &[u8]) -> Option<Vec<Child>> {
    let count = short(branch, 2, 2)? + 1;
    let numbers = BRANCH_HEADER + CHECKSUM * count;
    let child = |n| {
        let checksum = checksum(branch, BRANCH_HEADER + CHECKSUM * n)?;
        Some(Child { page: number(branch, numbers + NUMBER * n)?, checksum })
    };
    (0..count).map(child).collect()
}

/// The rows of a leaf whose keys and values have no fixed width.
struct Rows<'a> {
    leaf: &'a [u8],
    count: usize,
    next: usize,
    key: usize,
    value: usize,
}

impl<'a> Rows<'a> {
    fn of(leaf: &'a [u8]) -> Option<Self> {
        let count = short(leaf, 2, 2)?;
        let value = short(leaf, 4 + 4 * count.checked_sub(1)?, 4)?;
        Some(Self { leaf, count, next: 0, key: 4 + 8 * count, value })
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.count {
            return None;
        }
        let key_end = short(self.leaf, 4 + 4 * self.next, 4)?;
        let value_end = short(self.leaf, 4 + 4 * (self.count + self.next), 4)?;
        let row = (self.leaf.get(self.key..key_end)?, self.leaf.get(self.value..value_end)?);
        (self.next, self.key, self.value) = (self.next + 1, key_end, value_end);
        Some(row)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + NUMBER)?.try_into().ok()?))
}

fn checksum(bytes: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_le_bytes(bytes.get(at..at + CHECKSUM)?.try_into().ok()?))
}

/// A number of a few bytes.
fn short(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}
