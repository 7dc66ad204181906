//! Verifies the pages that every call depends on, before redb opens the file.
//!
//! redb keeps the checksum of each page in the page above it, and the checksums of the roots in the header. But it
//! checks them only after a crash. With damage in its own tables it would hand out pages that are in use, or panic
//! during a commit, and end the process.
//!
//! So these pages are verified here: redb's own tables, the rows that name all tables, and the tables that `open` reads
//! completely. That reads little, because redb's own tables take a few bits for each page of the file.
//!
//! Deliberately absent: the pages of the other tables. Their rows have checksums of their own, and damage there affects
//! only the calls that need those rows.

use redb::{StorageBackend, TableHandle};
use xxhash_rust::xxh3::xxh3_128;

use super::PAGE;
use super::tables::{HEADS, META, WORKSPACES};

/// The version of redb's file format that is verified here. Other versions are left to redb.
const VERSION: u8 = 3;
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// Offset of the flags in the header, and the flags.
const FLAGS: usize = 9;
const SECOND_SLOT: u8 = 1;
const RECOVERY_REQUIRED: u8 = 2;
const TWO_PHASE_COMMIT: u8 = 4;
/// Offsets of two numbers in the header: the pages of a region's header, and its pages for trees.
const REGION_HEADER_PAGES: usize = 16;
const REGION_PAGES: usize = 20;
/// Offset of the slots of the last two commits, and bytes of each slot.
const SLOTS: usize = 64;
const SLOT: usize = 128;
/// Offsets in a slot.
const SLOT_VERSION: usize = 0;
const HAS_USER_ROOT: usize = 1;
const HAS_SYSTEM_ROOT: usize = 2;
const USER_ROOT: usize = 8;
const SYSTEM_ROOT: usize = 40;
const TRANSACTION: usize = 104;
const SLOT_CHECKSUM: usize = 112;

/// The first byte of a row that describes a plain table.
const PLAIN_TABLE: u8 = 3;
/// Offsets in such a row. A width is preceded by a byte that says whether it is fixed.
const HAS_ROOT: usize = 9;
const ROOT: usize = 10;
const KEY_WIDTH: usize = 42;
const VALUE_WIDTH: usize = 47;

/// The first byte of a page.
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// Offset in a page of the number of its keys, and the bytes of that number.
const COUNT: usize = 2;
const COUNT_BYTES: usize = 2;
/// Bytes of a leaf before the ends of its keys.
const LEAF_HEADER: usize = 4;
/// Bytes of the end of a key or a value, which is an offset in the page. Widths have as many.
const END: usize = 4;
/// Bytes of a branch before the checksums of its children.
const BRANCH_HEADER: usize = 8;
/// Bytes of a checksum and of a page's number.
const CHECKSUM: usize = 16;
const NUMBER: usize = 8;

/// A page's number holds, from the low bits up, its index in the region, the region, and the order of its size.
const INDEX_BITS: u64 = 0xf_ffff;
const REGION_SHIFT: u32 = 20;
const REGION_BITS: u64 = 0xf_ffff;
const ORDER_SHIFT: u32 = 59;
/// A page of order n has 4 KiB times two to the power of n. This is the largest order.
const LARGEST_ORDER: u64 = 20;

/// A tree of pages.
#[derive(Debug, Clone, Copy)]
struct Tree {
    root: Child,
    /// `None` if the keys vary in width.
    key_width: Option<usize>,
    /// `None` if the values vary in width.
    value_width: Option<usize>,
}

/// A page, and its checksum in the page above.
#[derive(Debug, Clone, Copy)]
struct Child {
    page: u64,
    checksum: u128,
}

/// The file, and how its pages are laid out.
struct Pages<'b, B> {
    file: &'b B,
    length: u64,
    /// Pages of a region's header.
    region_header: u64,
    /// Pages of a region that belong to trees.
    region_data: u64,
}

/// Verifies a file that redb would open without verifying it.
///
/// # Errors
/// Says what is damaged.
pub(super) fn verify(file: &impl StorageBackend) -> Result<(), &'static str> {
    let length = file.len().unwrap_or_default();
    if length < PAGE as u64 {
        return Ok(()); // The file is new, or redb refuses it.
    }
    let mut header = [0; SLOTS + 2 * SLOT];
    file.read(0, &mut header).map_err(|_| "its header cannot be read")?;
    let flags = header[FLAGS];
    let (first, second) = header[SLOTS..].split_at(SLOT);
    let (primary, secondary) = if flags & SECOND_SLOT == 0 { (first, second) } else { (second, first) };
    let is_known = header.starts_with(MAGIC) && primary[SLOT_VERSION] == VERSION;
    if !is_known || flags & TWO_PHASE_COMMIT == 0 || !is_sound(primary) {
        return Ok(()); // redb refuses the file, or verifies all of it.
    }
    // If the last process crashed, the newer slot may be that of an unfinished commit.
    let closed = flags & RECOVERY_REQUIRED == 0;
    if closed && is_sound(secondary) && number(secondary, TRANSACTION) > number(primary, TRANSACTION) {
        return Err("its header names a state that is not the latest");
    }
    let region = |at| number(&header, at).map(|pages| pages & u64::from(u32::MAX)).unwrap_or_default();
    let (region_header, region_data) = (region(REGION_HEADER_PAGES), region(REGION_PAGES));
    let pages = Pages { file, length, region_header, region_data };
    pages.tables(primary[HAS_SYSTEM_ROOT], &primary[SYSTEM_ROOT..], |_| true).ok_or("a page of its free space")?;
    let whole = [META.name(), WORKSPACES.name(), HEADS.name()];
    let read_at_open = |name: &[u8]| whole.iter().any(|table| table.as_bytes() == name);
    let user_tables = pages.tables(primary[HAS_USER_ROOT], &primary[USER_ROOT..], read_at_open);
    user_tables.ok_or("a page that it cannot be opened without")
}

fn is_sound(slot: &[u8]) -> bool {
    slot[SLOT_CHECKSUM..] == xxh3_128(&slot[..SLOT_CHECKSUM]).to_le_bytes()
}

impl<B: StorageBackend> Pages<'_, B> {
    /// Verifies a tree whose rows describe tables, and those of these tables that are `wanted`. `None` if a page is
    /// damaged.
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

    /// Verifies a tree, and calls `leaf` with each of its leaves. `None` if a page is damaged.
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

    /// Reads a page. `None` if it would not lie in the file.
    fn page(&self, number: u64) -> Option<Vec<u8>> {
        let order = number >> ORDER_SHIFT;
        let region = number >> REGION_SHIFT & REGION_BITS;
        let index = number & (INDEX_BITS >> order.min(LARGEST_ORDER));
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
    /// Reads a root: its page number and its checksum. The number of rows below follows, and is not used.
    fn of_root(root: &[u8]) -> Option<Self> {
        Some(Self { page: number(root, 0)?, checksum: checksum(root, NUMBER)? })
    }
}

impl Tree {
    fn of_row(row: &[u8]) -> Option<Self> {
        let width = |at: usize| Some((*row.get(at)? != 0).then_some(short(row, at + 1, END)?));
        let root = Child::of_root(row.get(ROOT..)?)?;
        Some(Self { root, key_width: width(KEY_WIDTH)?, value_width: width(VALUE_WIDTH)? })
    }

    /// Returns how many bytes of a page its checksum covers.
    fn used(&self, page: &[u8]) -> Option<usize> {
        let count = count(page)?;
        let last = count.checked_sub(1)?;
        match *page.first()? {
            LEAF => {
                let ends = |width: Option<usize>| if width.is_none() { END * count } else { 0 };
                let key_ends = ends(self.key_width);
                let keys = LEAF_HEADER + key_ends + ends(self.value_width);
                match (self.key_width, self.value_width) {
                    (_, None) => short(page, LEAF_HEADER + key_ends + END * last, END),
                    (Some(key), Some(value)) => Some(keys + (key + value) * count),
                    (None, Some(value)) => Some(short(page, LEAF_HEADER + END * last, END)? + value * count),
                }
            }
            BRANCH => {
                let keys = BRANCH_HEADER + (CHECKSUM + NUMBER) * (count + 1);
                match self.key_width {
                    Some(width) => Some(keys + width * count),
                    None => short(page, keys + END * last, END),
                }
            }
            _ => None,
        }
    }
}

/// Returns the number of keys in a page.
fn count(page: &[u8]) -> Option<usize> {
    short(page, COUNT, COUNT_BYTES)
}

/// Returns the children of a branch: one more than it has keys.
fn children(branch: &[u8]) -> Option<Vec<Child>> {
    let count = count(branch)? + 1;
    let numbers = BRANCH_HEADER + CHECKSUM * count;
    let child = |n| {
        let checksum = checksum(branch, BRANCH_HEADER + CHECKSUM * n)?;
        Some(Child { page: number(branch, numbers + NUMBER * n)?, checksum })
    };
    (0..count).map(child).collect()
}

/// The rows of a leaf whose keys and values vary in width.
struct Rows<'a> {
    leaf: &'a [u8],
    count: usize,
    /// The index of the next row.
    next: usize,
    /// Where its key begins.
    key: usize,
    /// Where its value begins.
    value: usize,
}

impl<'a> Rows<'a> {
    fn of(leaf: &'a [u8]) -> Option<Self> {
        let count = count(leaf)?;
        let value = short(leaf, LEAF_HEADER + END * count.checked_sub(1)?, END)?;
        Some(Self { leaf, count, next: 0, key: LEAF_HEADER + 2 * END * count, value })
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.count {
            return None;
        }
        let key_end = short(self.leaf, LEAF_HEADER + END * self.next, END)?;
        let value_end = short(self.leaf, LEAF_HEADER + END * (self.count + self.next), END)?;
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

/// Reads a little-endian number of a few bytes.
fn short(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}
