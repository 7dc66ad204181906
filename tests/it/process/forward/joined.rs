//! A server, a forwarder and a receiver, each as it is used.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use standardwebhooks::Webhook;
use tempfile::TempDir;
use tokio::process::Child;
use tokio::sync::oneshot;

use super::*;

/// A request that the receiver got. It has no response until the test gives one.
struct Post {
    headers: HeaderMap,
    body: Bytes,
    respond: oneshot::Sender<StatusCode>,
}

impl Post {
    fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().unwrap()
    }

    /// The sequence of its event, if its signature is right.
    fn sequence(&self, secret: &str) -> u64 {
        Webhook::new(secret).unwrap().verify(&self.body, &self.headers).expect("the signature is right");
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(body["id"], self.id());
        body["sequence"].as_str().unwrap().parse().unwrap()
    }
}

async fn receiver() -> (String, UnboundedReceiver<Post>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/events", listener.local_addr().unwrap());
    let (got, posts) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let got = got.clone();
            let receive = service_fn(move |request: Request<Incoming>| {
                let got = got.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let (respond, response) = oneshot::channel();
                    let body = body.collect().await?.to_bytes();
                    got.send(Post { headers: head.headers, body, respond }).expect("the test goes on");
                    let status = response.await.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    Ok::<_, hyper::Error>(http::Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), receive));
        }
    });
    (url, posts)
}

/// What the forwarder is given.
struct Setup {
    server: TestProcess,
    client: Client,
    url: String,
    posts: UnboundedReceiver<Post>,
    secret: String,
    _dir: TempDir,
}

impl Setup {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let server = TestProcess::start(dir.path(), &[]).await;
        let client = server.client().await;
        let subscription = Some(Subscription { name: "crm".into(), ..Default::default() });
        let request = CreateSubscriptionRequest { workspace: WORKSPACE.into(), subscription, ..Default::default() };
        client.events.clone().create_subscription(request).await.unwrap();
        let secret = String::from_utf8(output(binary().args(["forward", "--new-secret"])).await.stdout).unwrap();
        let (url, posts) = receiver().await;
        Self { server, client, url, posts, secret: secret.trim().to_owned(), _dir: dir }
    }

    fn forwarder(&self) -> Child {
        let mut command = binary();
        command.args(["forward", "--subscription", "crm", "--workspace", WORKSPACE, "--to", &self.url]);
        command.args(["--addr", &self.server.addr.to_string()]).env("CAMEO_WEBHOOK_SECRET", &self.secret);
        command.kill_on_drop(true).spawn().unwrap()
    }

    /// The next request, which must be of this event.
    async fn post(&mut self, sequence: u64) -> Post {
        let post = within(self.posts.recv()).await.unwrap();
        assert_eq!(post.sequence(&self.secret), sequence);
        post
    }

    async fn deliver(&mut self, sequence: u64) {
        self.post(sequence).await.respond.send(StatusCode::NO_CONTENT).unwrap();
    }

    /// Returns once the server has this acknowledgement.
    async fn acknowledged(&self, sequence: u64) {
        let request = || GetSubscriptionRequest { workspace: WORKSPACE.into(), name: "crm".into() };
        within(async {
            loop {
                let response = self.client.events.clone().get_subscription(request()).await.unwrap();
                if response.into_inner().subscription.unwrap().acknowledged_sequence == sequence {
                    break;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_forwarder_that_is_killed_is_followed_by_one_that_goes_on_where_it_was() {
    let mut setup = Setup::start().await;
    for mpid in 1..=5 {
        setup.client.create(with_mpid(mpid)).await.unwrap();
    }

    let mut first = setup.forwarder();
    for sequence in 1..=2 {
        setup.deliver(sequence).await;
    }
    let unconfirmed = setup.post(3).await;
    setup.acknowledged(2).await;
    within(first.kill()).await.unwrap();

    let mut second = setup.forwarder();
    let again = setup.post(3).await;
    assert_eq!(again.id(), unconfirmed.id());
    again.respond.send(StatusCode::NO_CONTENT).unwrap();
    for sequence in 4..=5 {
        setup.deliver(sequence).await;
    }
    setup.acknowledged(5).await;
    within(second.kill()).await.unwrap();

    let mut third = setup.forwarder();
    setup.client.create(with_mpid(6)).await.unwrap();
    setup.deliver(6).await; // And no event before it.
    setup.acknowledged(6).await;
    kill_process(Pid::from_raw(third.id().unwrap().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    assert!(within(third.wait()).await.unwrap().success());
    assert!(setup.posts.try_recv().is_err(), "nothing else was sent");
}
