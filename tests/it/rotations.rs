//! Credentials that are replaced while clients call: no call fails that presents a credential which is valid at the time.
//!
//! In each test, clients call all the time. The new credential becomes valid, they switch to it, and the old one is
//! withdrawn. Any call that fails fails the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::harness::*;

const ROLES: [&str; 2] = ["reader", "writer"];
const CLIENTS: usize = 6;

/// Clients that look a profile up and change it in turns, each with one call in flight.
struct Load {
    /// What they present, which is a later one with each number.
    credential: watch::Sender<(usize, String)>,
    clients: Vec<(Arc<Progress>, JoinHandle<()>)>,
    is_done: Arc<AtomicBool>,
}

/// How far a client is.
#[derive(Default)]
struct Progress {
    /// The calls that have succeeded.
    calls: AtomicUsize,
    /// The number of the credential that the last of them presented.
    credential: AtomicUsize,
}

impl Load {
    /// Starts clients on a server, with a profile to call for.
    async fn start(server: &TestServer, token: &str) -> Self {
        Client::connect_with(server.addr, token).await.create(with_mpid(ADA)).await.unwrap();
        let (credential, is_done) = (watch::Sender::new((0, token.to_owned())), Arc::new(AtomicBool::new(false)));
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let (progress, channel) = (Arc::new(Progress::default()), channel(server.addr).await);
            let client = call_until_done(channel, credential.subscribe(), Arc::clone(&progress), Arc::clone(&is_done));
            clients.push((progress, tokio::spawn(client)));
        }
        let load = Self { credential, clients, is_done };
        load.has_called_again().await;
        load
    }

    /// Has the clients present another credential from their next call on, and waits until they do.
    async fn switch_to(&self, token: &str) {
        let number = self.credential.borrow().0 + 1;
        self.credential.send_replace((number, token.to_owned()));
        until(|| {
            self.clients
                .iter()
                .all(|(progress, task)| task.is_finished() || progress.credential.load(Ordering::Relaxed) == number)
        })
        .await;
    }

    /// Waits until each client has made a call that began after this one.
    async fn has_called_again(&self) {
        let calls = |progress: &Progress| progress.calls.load(Ordering::Relaxed);
        let before: Vec<_> = self.clients.iter().map(|(progress, _)| calls(progress)).collect();
        until(|| {
            let mut clients = self.clients.iter().zip(&before);
            clients.all(|((progress, task), before)| task.is_finished() || calls(progress) > before + 1)
        })
        .await;
    }

    /// Ends the clients. Panics if one of their calls has failed.
    async fn stop(self) {
        self.has_called_again().await;
        self.is_done.store(true, Ordering::Relaxed);
        for (_, task) in self.clients {
            within(task).await.expect("no call fails");
        }
    }
}

async fn call_until_done(
    channel: tonic::transport::Channel,
    mut credential: watch::Receiver<(usize, String)>,
    progress: Arc<Progress>,
    is_done: Arc<AtomicBool>,
) {
    while !is_done.load(Ordering::Relaxed) {
        let (number, token) = credential.borrow_and_update().clone();
        let client = Client::with(channel.clone(), Credential::token(&token));
        client.get(ADA).await.expect("a lookup");
        client.update(ADA, increment("n")).await.expect("an update");
        progress.credential.store(number, Ordering::Relaxed);
        progress.calls.fetch_add(1, Ordering::Relaxed);
    }
}

async fn is_accepted(server: &TestServer, token: &str) -> bool {
    let outcome = Client::connect_with(server.addr, token).await.get(ADA).await;
    !outcome.is_err_and(|status| status.code() == Code::Unauthenticated)
}

async fn until_accepted(server: &TestServer, token: &str) {
    within(async { while !is_accepted(server, token).await {} }).await;
}

async fn until_refused(server: &TestServer, token: &str) {
    within(async { while is_accepted(server, token).await {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_file_is_replaced_and_no_call_fails() {
    let (old, new) = (SigningKey::new("october"), SigningKey::new("november"));
    let file = KeyFile::new(&[&old]);
    let server = TestServer::start_with(file.require()).await;
    let (old_token, new_token) = (old.token(&ROLES), new.token(&ROLES));
    assert!(!is_accepted(&server, &new_token).await);
    let load = Load::start(&server, &old_token).await;

    file.publish(&[&old, &new]);
    until_accepted(&server, &new_token).await;
    assert!(is_accepted(&server, &old_token).await, "both are valid");
    load.switch_to(&new_token).await;
    file.publish(&[&new]);
    until_refused(&server, &old_token).await;

    load.stop().await;
}

/// The stream goes on while both keys are listed.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_the_key_of_its_token_is_withdrawn_and_not_before() {
    let (old, new) = (SigningKey::new("october"), SigningKey::new("november"));
    let file = KeyFile::new(&[&old]);
    let server = TestServer::start_with(file.require()).await;
    let client = Client::connect_with(server.addr, &old.token(&["subscriber"])).await;
    let heartbeat_interval = seconds(1);
    let request = cameo::proto::v1::SubscribeRequest { heartbeat_interval, ..subscribe_request() };
    let mut stream = client.subscribe(request).await.unwrap();
    stream.opened().await;

    file.publish(&[&new, &old]);
    let new_token = new.token(&ROLES);
    until_accepted(&server, &new_token).await;
    Client::connect_with(server.addr, &new_token).await.create(with_mpid(GRACE)).await.unwrap();
    assert_eq!(stream.event().await.1.mpid, GRACE);
    file.publish(&[&new]);

    let end = stream.failure().await;
    assert_eq!((end.code(), reason(&end)), (Code::Unauthenticated, "UNAUTHENTICATED".into()));
    assert!(!metadata(&end, "cursor").is_empty(), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_token_is_replaced_and_no_call_fails() {
    let callers = CallersFile::new();
    let old = callers.add("crm", &ROLES).await;
    let server = TestServer::start_with(callers.require()).await;
    let load = Load::start(&server, &old).await;

    let new = callers.add("crm", &[ROLES[0], ROLES[1], "subscriber"]).await;
    until_accepted(&server, &new).await;
    load.switch_to(&new).await;
    let mut stream = Client::connect_with(server.addr, &new).await.subscribe_from(None).await;
    stream.opened().await;
    callers.revoke(&old).await;
    until_refused(&server, &old).await;

    Client::connect_with(server.addr, &new).await.create(with_mpid(GRACE)).await.unwrap();
    while stream.event().await.1.mpid != GRACE {} // The stream of the new token goes on.
    load.stop().await;
}

/// The keys are not due for an hour. The first call with the new key has them fetched, and the others wait for them too.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_behind_a_url_is_replaced_and_no_call_fails() {
    let (old, new) = (SigningKey::new("october"), SigningKey::new("november"));
    let source = KeyServer::start(&[&old]).await;
    let server = TestServer::start_with(source.require()).await;
    until(|| source.requests() == 1).await; // At its start: a call that needs the keys waits for them.
    let load = Load::start(&server, &old.token(&ROLES)).await;

    source.publish(&[&new, &old]);
    load.switch_to(&new.token(&ROLES)).await;

    assert_eq!(source.requests(), 2, "all of them together cause one fetch");
    load.stop().await;
}

/// A key that the provider withdraws is refused from the next fetch on, and the other is accepted throughout.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_behind_a_url_is_withdrawn_and_no_call_with_the_other_fails() {
    let (old, new) = (SigningKey::new("october"), SigningKey::new("november"));
    let source = KeyServer::start(&[&old, &new]).await;
    let server = TestServer::start_with(|config| {
        source.require()(config);
        config.auth.jwks_refresh = std::time::Duration::from_millis(1); // Each time that the server looks whether they are due.
    })
    .await;
    let load = Load::start(&server, &new.token(&ROLES)).await;
    let old = old.token(&ROLES);
    assert!(is_accepted(&server, &old).await);

    source.publish(&[&new]);
    until_refused(&server, &old).await;

    load.stop().await;
}
