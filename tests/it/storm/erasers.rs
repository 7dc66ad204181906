//! The erasures of a storm.
//!
//! The reader of the truth must have read what an erasure removes. So nothing else is written from when it has read
//! everything to the response of the erasure, except what cannot be of the person. Subscribers read all the while.

use std::time::SystemTime;

use cameo::proto::v1::*;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tonic::Status;

use super::draw::{PROFILES, one_in};
use super::log::{Erasure, Period};
use super::run::{Shared, Stage};
use super::writers::{drawn_email, gone, is_refusal};
use crate::harness::*;

/// Erases a profile, over the restarts of the server, and notes when. Returns the connection to the server that is there
/// now.
pub async fn erase(rng: &mut StdRng, shared: &Shared, stages: &mut watch::Receiver<Stage>, client: Client) -> Client {
    let mpid = rng.random_range(1..=PROFILES);
    let key = if one_in(rng, 3) { by_identity(drawn_email(rng)) } else { by_mpid(mpid) };
    let request_id = format!("erasure-{}", rng.random::<u64>());
    let request = EraseProfileRequest { key: Some(key), request_id, ..EraseProfileRequest::default() };
    let has_company = one_in(rng, 2);

    let _turn = shared.turn.write().await;
    let writes = *shared.writes.borrow();
    within(shared.known.subscribe().wait_for(|known| *known >= writes)).await.unwrap();
    let company = has_company.then_some(mpid);
    let client = erase_among(&request, company, shared, stages, client).await;
    shared.count_write();
    client
}

async fn erase_among(
    request: &EraseProfileRequest,
    company: Option<i64>,
    shared: &Shared,
    stages: &mut watch::Receiver<Stage>,
    mut client: Client,
) -> Client {
    let asked = SystemTime::now();
    loop {
        let company = async {
            match company {
                Some(mpid) => accompany(&client, mpid).await,
                None => Ok(()),
            }
        };
        let both = async { tokio::join!(client.erase_with(request.clone()), company) };
        let (erased, accompanied) = within(Box::pin(both)).await;
        let failed = match (erased, accompanied) {
            (Ok(response), Ok(())) => {
                shared.note_written(response.cursor.clone());
                shared.note_erasure(Erasure { period: Period { asked, answered: SystemTime::now() }, response });
                return client;
            }
            (Err(status), Ok(())) if is_refusal(&status) => return client,
            // What the other asked for may be written until the server has gone.
            (Err(refused), Err(failed)) if is_refusal(&refused) => return gone(&failed, stages).await,
            (Err(status), _) | (_, Err(status)) => status,
        };
        client = gone(&failed, stages).await;
    }
}

/// Writes in the meantime: the same commit may hold both. A profile that exists cannot be created before it is erased.
async fn accompany(client: &Client, mpid: i64) -> Result<(), Status> {
    let exists = client.get(mpid).await.is_ok_and(|profile| profile.mpid == mpid);
    let written = if exists { client.create(with_mpid(mpid)).await } else { client.create(Profile::default()).await };
    match written {
        Err(status) if !is_refusal(&status) => Err(status),
        _ => Ok(()),
    }
}
