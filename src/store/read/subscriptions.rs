//! Reads of durable subscriptions.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::super::rows::{
    Kind, ProgressRow, SettingsRow, SkippedRow, name_in, sequence_in, skipped_key, subscription_key,
};
use super::super::tables::{self, borrowed, guarded, with_prefix};
use super::{LogBounds, PageSize, Snapshot};
use crate::model::{Micros, Place, Position, Sequence, SubscriptionName};
use crate::proto::v1::{SkippedEvent, Subscription};

/// A subscription, and where it is in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscriptionView {
    /// The name.
    pub name: SubscriptionName,
    /// Its settings, and when it was created.
    pub settings: Subscription,
    /// Where the next stream starts.
    pub acknowledged: Position,
    /// The number of the latest stream.
    pub stream: u64,
    /// How many events are listed as skipped.
    pub skipped: u64,
    /// The ends of the log.
    pub bounds: LogBounds,
    /// The time of the oldest event that the log holds after the acknowledged position. `None` if there is none, or it
    /// is damaged.
    pub oldest: Option<Micros>,
}

impl Snapshot {
    /// Returns a subscription.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn subscription(
        &self,
        workspace: WorkspaceId,
        name: &SubscriptionName,
    ) -> Result<Option<SubscriptionView>, StoreError> {
        let found = self.held_subscription(workspace, name)?;
        found.map(|(settings, progress)| self.view(workspace, name.clone(), settings, progress)).transpose()
    }

    /// Returns a page of subscriptions in the order of their names, and whether there are more.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn subscriptions(
        &self,
        workspace: WorkspaceId,
        after: Option<&SubscriptionName>,
        size: PageSize,
    ) -> Result<(Vec<SubscriptionView>, bool), StoreError> {
        let after = after.map(|after| subscription_key(workspace, after));
        let range = with_prefix(&workspace.0.to_be_bytes(), after.as_deref());
        guarded(Kind::Subscription, || {
            let (mut views, mut bytes) = (Vec::new(), 0);
            for row in self.0.subscriptions.range::<&[u8]>(borrowed(&range))? {
                if views.len() == size.items || bytes >= size.bytes {
                    return Ok((views, true));
                }
                let (key, row) = row?;
                let key = key.value();
                bytes += row.value().len();
                let settings = SettingsRow::read(key, row.value())?;
                let progress = self.0.progress.get(key)?.ok_or(Kind::Progress.corrupt())?;
                let progress = ProgressRow::read(key, progress.value())?;
                views.push(self.view(workspace, name_in(key)?, settings, progress)?);
            }
            Ok((views, false))
        })
    }

    /// Returns up to so many skipped events in the order of their sequences, and whether there are more.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn skipped_events(
        &self,
        workspace: WorkspaceId,
        name: &SubscriptionName,
        after: Option<Sequence>,
        most: usize,
    ) -> Result<(Vec<SkippedEvent>, bool), StoreError> {
        let subscription = subscription_key(workspace, name);
        let from = skipped_key(&subscription, after.map_or(0, Sequence::get).saturating_add(1));
        let to = skipped_key(&subscription, u64::MAX);
        guarded(Kind::Skipped, || {
            let mut events = Vec::new();
            for row in self.0.skipped.range::<&[u8]>(&*from..=&*to)? {
                if events.len() == most {
                    return Ok((events, true));
                }
                let (key, row) = row?;
                let SkippedRow { time, reason } = SkippedRow::read(key.value(), row.value())?;
                let (sequence, time) = (sequence_in(key.value())?.get(), Some(time.to_timestamp()));
                events.push(SkippedEvent { sequence, reason, time });
            }
            Ok((events, false))
        })
    }

    /// Returns the time of the oldest event that the log holds after a place. `None` if there is none, or it is
    /// damaged.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn oldest_after(&self, workspace: WorkspaceId, place: Place) -> Result<Option<Micros>, StoreError> {
        let LogBounds { floor, head, .. } = self.log_bounds(workspace)?;
        let next = place.max(floor);
        Ok(if next < head { self.event_time(workspace, next.next()) } else { None })
    }

    /// Returns a subscription's settings, and the number of its latest stream.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn subscription_settings(
        &self,
        workspace: WorkspaceId,
        name: &SubscriptionName,
    ) -> Result<Option<(Subscription, u64)>, StoreError> {
        let found = self.held_subscription(workspace, name)?;
        Ok(found.map(|(settings, progress)| (settings, progress.stream)))
    }

    fn held_subscription(
        &self,
        workspace: WorkspaceId,
        name: &SubscriptionName,
    ) -> Result<Option<(Subscription, ProgressRow)>, StoreError> {
        let key = subscription_key(workspace, name);
        tables::subscription(&self.0.subscriptions, &self.0.progress, &key)
    }

    fn view(
        &self,
        workspace: WorkspaceId,
        name: SubscriptionName,
        settings: Subscription,
        progress: ProgressRow,
    ) -> Result<SubscriptionView, StoreError> {
        let ProgressRow { acknowledged, stream, skipped } = progress;
        let bounds = self.log_bounds(workspace)?;
        let oldest = self.oldest_after(workspace, acknowledged.place())?;
        Ok(SubscriptionView { name, settings, acknowledged, stream, skipped, bounds, oldest })
    }
}
