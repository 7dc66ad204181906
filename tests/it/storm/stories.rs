//! Short stories of erasures, each with a server of its own: what the server leaves of the log, and what the checker
//! expects of it.

use std::time::SystemTime;

use cameo::proto::v1::ProfilePatch;

use super::log::{Erasure, Period};
use super::truth::Truth;
use super::violation::Violation;
use crate::harness::*;

/// A step of a story. Profiles are named by their mpids: 1 to [`super::draw::PROFILES`] exist, without identities.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Create(i64),
    Delete(i64),
    /// A profile adds an identity that nobody owns, and another one removes it.
    Add(i64, &'static str),
    Remove(i64, &'static str),
    /// A profile takes an identity from its owner.
    Take(i64, &'static str),
    Merge {
        into: i64,
        from: i64,
    },
    Unmerge(i64),
    Erase(i64),
}

/// Returns how many events there are of which the checker cannot tell what the erasures leave of them.
pub async fn told(story: &[Step]) -> Result<usize, Violation> {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut truth = Truth::begin(&client).await?;
    let mut erasures = Vec::new();
    for step in story {
        erasures.extend(step.take(&client).await);
        truth.read_now(&client).await?;
    }
    let log = truth.finish(&client, erasures).await?;
    Ok(log.unknown_events())
}

impl Step {
    async fn take(self, client: &Client) -> Option<Erasure> {
        match self {
            Self::Create(mpid) => drop(client.create(with_mpid(mpid)).await.unwrap()),
            Self::Delete(mpid) => drop(client.delete(mpid).await.unwrap()),
            Self::Add(mpid, key) => drop(client.update(mpid, add([email(key)])).await.unwrap()),
            Self::Remove(mpid, key) => {
                let patch = ProfilePatch { remove_identities: vec![email(key)], ..ProfilePatch::default() };
                drop(client.update(mpid, patch).await.unwrap());
            }
            Self::Take(mpid, key) => drop(client.update(mpid, take([email(key)])).await.unwrap()),
            Self::Merge { into, from } => drop(client.merge(into, from).await.unwrap()),
            Self::Unmerge(mpid) => drop(client.unmerge(mpid).await.unwrap()),
            Self::Erase(mpid) => {
                let asked = SystemTime::now();
                let response = client.erase(mpid).await.unwrap();
                return Some(Erasure { period: Period { asked, answered: SystemTime::now() }, response });
            }
        }
        None
    }
}
