//! Shares of the profiles of a workspace.

use xxhash_rust::xxh3::xxh3_64;

use super::{Invalid, Mpid};
use crate::proto::v1;

/// The most shards of a workspace.
const SHARDS: u32 = 1_024;

/// A share of the profiles of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// Parses the shard in `field` of a request.
    ///
    /// # Errors
    /// [`Invalid::Field`] if it is not one of 1 to 1,024 shards.
    pub fn parse(field: &str, shard: v1::Shard) -> Result<Self, Invalid> {
        let v1::Shard { index, count } = shard;
        if !(1..=SHARDS).contains(&count) {
            return Err(Invalid::field(format_args!("{field}.count"), "must be 1 to 1024"));
        }
        if index >= count {
            return Err(Invalid::field(format_args!("{field}.index"), "must be below the count"));
        }
        Ok(Self { index, count })
    }

    /// Whether a profile belongs to it. The hash is part of the contract: a reader that counts on it may have stored
    /// which shard has which profile.
    #[must_use]
    pub fn holds(self, mpid: Mpid) -> bool {
        let hash = u128::from(xxh3_64(&mpid.get().to_le_bytes()));
        (hash * u128::from(self.count)) >> u64::BITS == u128::from(self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_is_in_one_shard_and_the_shards_are_even() {
        for count in [1, 2, 3, 7, 1_024] {
            let shards: Vec<_> =
                (0..count).map(|index| Shard::parse("shard", v1::Shard { index, count }).unwrap()).collect();
            let mut sizes = vec![0_u32; shards.len()];
            for mpid in (-5_000..=5_000).filter_map(Mpid::new) {
                let of: Vec<_> = shards.iter().enumerate().filter(|(_, shard)| shard.holds(mpid)).collect();
                assert_eq!(of.len(), 1, "{mpid} of {count}");
                sizes[of[0].0] += 1;
            }
            let even = 10_000 / count;
            assert!(sizes.iter().all(|size| count == 1_024 || size.abs_diff(even) < even / 10), "{count}: {sizes:?}");
        }
    }

    /// A reader that keeps a shard's profiles counts on these. XXH3 of the mpid as 8 bytes, the lowest first.
    #[test]
    fn a_profile_stays_in_its_shard_in_every_version() {
        let index = |mpid, count| {
            let holds = |index: &u32| Shard::parse("shard", v1::Shard { index: *index, count }).unwrap().holds(mpid);
            (0..count).find(holds).unwrap()
        };
        let of = |mpid| [4, 1_024].map(|count| index(Mpid::new(mpid).unwrap(), count));
        assert_eq!([1, 2, -1, i64::MAX].map(of), [[0, 190], [0, 130], [1, 324], [2, 648]]);
    }

    #[test]
    fn a_shard_is_one_of_1_to_1024() {
        let parse = |index, count| Shard::parse("shard", v1::Shard { index, count });
        let refused = |index, count| parse(index, count).unwrap_err().to_string();
        assert!(parse(1_023, 1_024).is_ok());
        assert_eq!(refused(0, 0), "shard.count: must be 1 to 1024");
        assert_eq!(refused(0, 1_025), "shard.count: must be 1 to 1024");
        assert_eq!(refused(3, 3), "shard.index: must be below the count");
    }
}
