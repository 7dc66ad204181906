//! The watchdog: frees the memory of streams that nothing polls.
//!
//! A client that reads nothing but answers pings keeps its connection. Its flow-control window is closed, so the
//! transport does not poll the stream, and the stream cannot notice the stall itself.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::Feed;

/// The least and the most time between two looks. A look at 10,000 streams takes about a millisecond, so one each
/// second costs nothing, and it is often enough for streams to give up their segments in time.
const PERIODS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

impl Feed {
    /// Ends streams that have waited for the transport for longer than the stall timeout, until the feed is drained.
    /// The server runs it once.
    pub async fn watch(&self) {
        let mut looks = tokio::time::interval(self.period());
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_draining() {
            tokio::select! {
                _ = looks.tick() => self.look(Instant::now()),
                () = self.drained.notified() => {}
            }
        }
    }

    /// A quarter of the stall timeout. A stall is noticed by the first look after it began and acted on by the first
    /// look after it lasted too long, so a stream ends at most half of the timeout too late.
    fn period(&self) -> Duration {
        let (least, most) = PERIODS;
        (self.config.stall_timeout / 4).clamp(least, most)
    }

    /// One look, at the time `now`.
    pub(super) fn look(&self, now: Instant) {
        self.streams.look(now, self.config.stall_timeout);
        let channels = self.channels().alive(); // The map's lock ends here.
        for channel in channels {
            channel.views.look();
        }
    }
}
