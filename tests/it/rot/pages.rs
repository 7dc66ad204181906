//! The table that each page of a store's file belongs to. Knows only as much of redb's format as that takes.

use std::collections::BTreeMap;
use std::ops::Range;

pub const PAGE: usize = 4_096;
/// Pages that no tree of the latest commit refers to.
pub const FREE: &str = "free";
/// The first page, with the roots of all trees.
pub const HEADER: &str = "header";
/// Where the header has its flags. The lowest bit says which of its two slots is the latest.
pub const FLAGS: usize = 9;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// Bytes of a tree's root: its page, its checksum and its length.
const ROOT: usize = 32;
/// In a row that describes a table, bytes before the root: the table's kind, its length and whether it has a root.
const BEFORE_ROOT: usize = 1 + 8 + 1;
/// After the root come an optional width of the keys and one of the values.
const KEY_WIDTH: usize = BEFORE_ROOT + ROOT;
const MAX_KEY: usize = 512;

/// The tables by name, each with its pages. A page of several times 4 KiB counts as several.
pub fn by_table(file: &[u8]) -> BTreeMap<String, Vec<usize>> {
    let mut walk = Walk { file, tables: BTreeMap::new() };
    let primary = usize::from(file[FLAGS] & 1);
    let slot = &file[64 + 128 * primary..][..128];
    walk.table_tree("user tree", slot[1], &slot[8..]);
    walk.table_tree("system tree", slot[2], &slot[8 + ROOT..]);
    walk.tables.insert(HEADER.into(), vec![0]);
    let used: Vec<usize> = walk.tables.values().flatten().copied().collect();
    let free = (0..file.len() / PAGE).filter(|page| !used.contains(page));
    let free = free.filter(|page| file[page * PAGE..][..PAGE].iter().any(|byte| *byte != 0)).collect();
    walk.tables.insert(FREE.into(), free);
    walk.tables
}

/// Whether this byte of a page belongs to the number of a page below it.
pub fn leads_to_a_page(page: &[u8], byte: usize) -> bool {
    let children = u16_at(page, 2) + 1;
    page[0] == BRANCH && (8 + 16 * children..8 + 24 * children).contains(&byte)
}

struct Walk<'a> {
    file: &'a [u8],
    tables: BTreeMap<String, Vec<usize>>,
}

impl Walk<'_> {
    /// A tree whose rows describe tables, and those tables.
    fn table_tree(&mut self, name: &str, has_root: u8, root: &[u8]) {
        if has_root == 0 {
            return;
        }
        for leaf in self.tree(name, root, None) {
            for (table, row) in self.rows(&leaf) {
                let table = String::from_utf8(self.file[table].to_vec()).unwrap();
                let row = self.file[row].to_vec();
                if row[BEFORE_ROOT - 1] != 0 {
                    let width = (row[KEY_WIDTH] != 0).then(|| u32_at(&row, KEY_WIDTH + 1));
                    self.tree(&table, &row[BEFORE_ROOT..], width);
                }
            }
        }
    }

    /// Notes the pages of a tree, and returns its leaves.
    fn tree(&mut self, name: &str, root: &[u8], key_width: Option<usize>) -> Vec<Range<usize>> {
        let mut leaves = Vec::new();
        let mut left = vec![page(root)];
        while let Some(at) = left.pop() {
            self.tables.entry(name.to_owned()).or_default().extend(at.start / PAGE..at.end / PAGE);
            let bytes = &self.file[at.clone()];
            match bytes[0] {
                LEAF => leaves.push(at),
                BRANCH => {
                    let children = u16_at(bytes, 2) + 1;
                    left.extend((0..children).map(|child| page(&bytes[8 + 16 * children + 8 * child..])));
                }
                other => panic!("a page of {name} of type {other}, keys of {key_width:?}"),
            }
        }
        leaves
    }

    /// The rows of a leaf whose keys and values have no fixed width.
    fn rows(&self, leaf: &Range<usize>) -> Vec<(Range<usize>, Range<usize>)> {
        let bytes = &self.file[leaf.clone()];
        let count = u16_at(bytes, 2);
        let ends = |from: usize| (0..count).map(move |n| leaf.start + u32_at(bytes, from + 4 * n));
        let keys_from = leaf.start + 4 + 8 * count;
        let keys = ranges(keys_from, ends(4));
        let values = ranges(keys.last().map_or(keys_from, |key| key.end), ends(4 + 4 * count));
        assert!(keys.iter().all(|key| key.len() < MAX_KEY));
        keys.into_iter().zip(values).collect()
    }
}

fn ranges(from: usize, ends: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut start = from;
    ends.map(|end| std::mem::replace(&mut start, end)..end).collect()
}

/// Where a page lies in the file. The store of this test has one region.
fn page(number: &[u8]) -> Range<usize> {
    let number = u64::from_le_bytes(number[..8].try_into().unwrap());
    let size = PAGE << (number >> 59);
    let index = usize::try_from(number & 0xf_ffff).unwrap();
    assert_eq!((number >> 20) & 0xf_ffff, 0, "a second region");
    let start = PAGE + index * size;
    start..start + size
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()).into()
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).try_into().unwrap()
}
