//! `Backup`: the pieces of a backup, made as the caller reads them.
//!
//! A task makes the pieces, not the stream: a stream is not polled while its caller reads nothing, and could not end.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::super::codec::Encoded;
use crate::call::Call;
use crate::proto::v1::BackupResponse;
use crate::refusal::Refusal;
use crate::store::{Backup, BackupError, Piece};

/// How many pieces are made before the caller takes them. While it takes one, the next is made.
const AHEAD: usize = 1;

/// The stream of the pieces.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<Encoded, Status>> + Send>>;

/// How a backup ends for the caller who takes too long, and with the server.
pub(super) struct Ends {
    /// How long the caller may take nothing.
    pub stall_timeout: Duration,
    pub stop: CancellationToken,
}

/// What the task sends. It sends the end too: without one, the task has panicked.
enum Sent {
    Piece(Piece),
    End(Option<Refusal>),
}

/// Streams a backup that has begun.
pub(super) fn stream(backup: Backup, ends: Ends, call: Arc<Call>) -> Pieces {
    let (pieces, taken) = mpsc::channel(AHEAD);
    // The last message has a place of its own, so that it can be sent although the caller takes nothing.
    let (end, ended) = mpsc::channel(1);
    let of = Arc::clone(&call);
    tokio::spawn(async move {
        let result = send(backup, &ends, &of, &pieces).await;
        let _ = end.try_send(Sent::End(result.err())); // An error means that the caller is gone.
    });
    let pieces = stream::unfold(Some((taken, ended, call)), |open| async {
        let (mut taken, mut ended, call) = open?;
        match receive(&mut taken, &mut ended).await {
            Sent::Piece(piece) => Some((Ok(encoded(&piece)), Some((taken, ended, call)))),
            Sent::End(None) => None,
            Sent::End(Some(refusal)) => Some((Err(Status::from(call.refuse(refusal))), None)),
        }
    });
    Box::pin(pieces)
}

/// The next piece, or the end once all pieces are taken.
async fn receive(pieces: &mut Receiver<Sent>, end: &mut Receiver<Sent>) -> Sent {
    if let Some(piece) = pieces.recv().await {
        return piece;
    }
    end.recv().await.unwrap_or_else(|| Sent::End(Some(Refusal::backup_broken())))
}

/// Makes the pieces. Returns when all are sent, or the caller is gone.
async fn send(mut backup: Backup, ends: &Ends, call: &Call, pieces: &Sender<Sent>) -> Result<(), Refusal> {
    loop {
        if ends.stop.is_cancelled() {
            return Err(BackupError::Closed.into());
        }
        call.still_authenticated()?;
        let Some(piece) = backup.next().await? else { return Ok(()) };
        let sending = tokio::time::timeout(ends.stall_timeout, pieces.send(Sent::Piece(piece)));
        tokio::select! {
            sent = sending => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(()), // The caller is gone.
                Err(_) => return Err(Refusal::backup_stalled()),
            },
            () = ends.stop.cancelled() => return Err(BackupError::Closed.into()),
        }
    }
}

fn encoded(Piece { bytes, progress }: &Piece) -> Encoded {
    let (rows, rows_expected) = (progress.rows, progress.rows_expected);
    Encoded::new(&BackupResponse { data: bytes.to_vec(), rows, rows_expected })
}
