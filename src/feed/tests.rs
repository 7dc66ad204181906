//! The memory of the feed: what the rings take together, which workspace is shed first, and the bound of the map of
//! channels.
//!
//! - `begin`: where streams start.
//! - `idle`: the memory of streams that nothing polls.
//! - `waiting`: what wakes a stream that waits, and when.
//! - `batches`: how much a stream reads at once.
//! - `erasures`: streams that read while people are erased.
//! - `service`: what these share.

mod batches;
mod begin;
mod erasures;
mod idle;
mod service;
mod waiting;

use super::ring::tests::segment;
use super::*;
use crate::model::Place;

/// A feed with room for this many segments of ten events. It sheds down to 7/8 of that.
fn feed(segments: usize) -> Feed {
    Feed::new(FeedConfig { ring_bytes: segments * segment(1..=10).weight(), ..FeedConfig::default() })
}

fn workspace(name: usize) -> Workspace {
    Workspace::parse(&format!("acme/main/{name}")).unwrap()
}

/// Publishes ten events.
fn publish(feed: &Feed, channel: &Channel, first: u64) {
    feed.keep(channel, vec![segment(first..=first + 9)]);
    assert!(feed.budget.taken() <= feed.config.ring_bytes, "never over its capacity after a publication");
}

/// Whether the event after this one is in the ring. The call counts as a use.
fn holds(channel: &Channel, after: u64) -> bool {
    channel.segment_after(Place::after(after)).is_some()
}

#[test]
fn one_budget_serves_many_workspaces() {
    let feed = feed(80);
    let channels: Vec<_> = (0..100).map(|name| feed.channel(&workspace(name))).collect();
    for round in 0..20 {
        for channel in &channels {
            publish(&feed, channel, 1 + 10 * round);
            assert!(holds(channel, 10 * round));
        }
    }
    assert!(feed.budget.taken() > feed.config.ring_bytes / 2, "it is used");
    assert!(holds(&channels[99], 190), "it was published last");
    assert!(!holds(&channels[0], 190), "there is no room for all");
}

#[test]
fn the_least_recently_used_workspace_gives_up_its_events_first() {
    let feed = feed(16);
    let [idle, read, busy] = [0, 1, 2].map(|name| feed.channel(&workspace(name)));
    publish(&feed, &read, 1);
    for nth in 0..5 {
        publish(&feed, &idle, 1 + 10 * nth);
    }
    for nth in 0..11 {
        publish(&feed, &busy, 1 + 10 * nth); // The last of them is the 17th.
        assert!(holds(&read, 0), "published before the idle one, but read since");
    }
    assert!(holds(&busy, 0), "none of its segments were shed");
    assert!(!holds(&idle, 20) && holds(&idle, 30), "its oldest three segments were shed");
}

#[test]
fn within_a_workspace_the_oldest_events_go_first() {
    let feed = feed(16);
    let channel = feed.channel(&workspace(0));
    for first in (1..).step_by(10).take(100) {
        publish(&feed, &channel, first);
    }
    let held: Vec<_> = (0..100).map(|nth| holds(&channel, 10 * nth)).collect();
    assert!(!held[0] && held[99]);
    assert!(held.is_sorted(), "there is no gap");
}

/// Writes alone do not make a workspace recently used: its subscribers must read.
#[test]
fn a_busy_workspace_whose_subscribers_have_stopped_does_not_push_out_others() {
    let feed = feed(16);
    let [stalled, read] = [0, 1].map(|name| feed.channel(&workspace(name)));
    publish(&feed, &read, 1);
    for first in (1..).step_by(10).take(100) {
        publish(&feed, &stalled, first);
        assert!(holds(&read, 0));
    }
}

#[test]
fn a_dropped_channel_gives_its_bytes_back() {
    let feed = feed(16);
    let [first, second] = [0, 1].map(|name| feed.channel(&workspace(name)));
    publish(&feed, &first, 1);
    let one = feed.budget.taken();
    publish(&feed, &second, 1);
    drop(second);
    assert_eq!(feed.budget.taken(), one);
    drop(first);
    assert_eq!(feed.budget.taken(), 0);
}

/// A single commit may be larger than the whole budget.
#[test]
fn events_that_do_not_fit_are_left_to_the_log() {
    let feed = feed(16);
    let channel = feed.channel(&workspace(0));
    publish(&feed, &channel, 1);
    feed.keep(&channel, vec![segment(11..=2_000)]);
    assert_eq!(feed.budget.taken(), 0);
    publish(&feed, &channel, 2_001);
    assert!(holds(&channel, 2_000) && !holds(&channel, 0));
}

/// The writer sheds from channels while they are read, created and dropped, without a deadlock.
#[test]
fn subscribers_come_and_go_while_the_writer_sheds() {
    let feed = feed(16);
    let alive: Vec<_> = (0..4).map(|name| feed.channel(&workspace(name))).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let feed = &feed;
            scope.spawn(move || {
                for nth in 0..2_000 {
                    holds(&feed.channel(&workspace((nth + thread) % 8)), nth as u64);
                }
            });
        }
        for nth in 0..2_000 {
            let channel = feed.channel(&workspace(nth % 8));
            feed.keep(&channel, vec![segment(1..=10), segment(11..=20), segment(21..=30)]);
        }
    });
    assert!(feed.budget.taken() <= feed.config.ring_bytes);
    drop(alive);
    assert_eq!(feed.budget.taken(), 0);
}

#[test]
fn entries_of_dropped_channels_are_swept() {
    let feed = feed(16);
    for name in 0..10_000 {
        feed.channel(&workspace(name));
        assert!(feed.channels().by_workspace.len() <= SWEEP_AT);
    }
    let alive: Vec<_> = (0..1_000).map(|name| feed.channel(&workspace(name))).collect();
    for name in 0..10_000 {
        feed.channel(&workspace(name));
        assert!(feed.channels().by_workspace.len() <= 2 * alive.len());
    }
    assert!(alive.iter().enumerate().all(|(name, channel)| Arc::ptr_eq(channel, &feed.channel(&workspace(name)))));
}
