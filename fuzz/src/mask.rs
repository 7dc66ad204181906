//! Target: any mask, on any bytes as a profile and as an event. The first byte is the length of a `GetProfileRequest`,
//! of which the mask is taken. The rest is the profile, and the event.
//!
//! - Nothing panics, whatever the bytes are.
//! - What decodes also decodes when it was cut, and then it has exactly what the mask names. What must be left is said
//!   by the descriptors, without the code that cuts.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use cameo::model::Mask;
use cameo::proto::DESCRIPTORS;
use cameo::proto::v1::{Event, GetProfileRequest, Profile};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

static PROFILE: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("the build made these descriptors");
    pool.get_message_by_name("cameo.v1.Profile").expect("the API has this message")
});

/// What the reader asks for. An empty set asks for everything.
struct Asked {
    fields: BTreeSet<String>,
    keys: BTreeSet<String>,
}

pub fn run(input: &[u8]) {
    let Some((length, rest)) = input.split_first() else { return };
    let Some((request, message)) = rest.split_at_checked(usize::from(*length)) else { return };
    let Ok(GetProfileRequest { read_mask, user_attribute_keys, .. }) = GetProfileRequest::decode(request) else {
        return;
    };
    let paths = read_mask.clone().unwrap_or_default().paths;
    let asked = Asked { fields: paths.into_iter().collect(), keys: user_attribute_keys.iter().cloned().collect() };
    let Ok(mask) = Mask::parse(read_mask, user_attribute_keys, None) else { return };

    let (profile, event) = (mask.profile(message), mask.event(message));
    if let Ok(whole) = Profile::decode(message) {
        let cut = Profile::decode(&*profile.expect("it decodes whole")).expect("it decodes cut");
        assert_same(&cut, &asked.of_profile(whole));
    }
    if let Ok(whole) = Event::decode(message) {
        let cut = Event::decode(&*event.expect("it decodes whole")).expect("it decodes cut");
        assert_same(&cut, &asked.of_event(whole));
    }
}

impl Asked {
    fn of_profile(&self, mut profile: Profile) -> Profile {
        if let Some(attributes) = profile.user_attributes.as_mut().filter(|_| !self.keys.is_empty()) {
            attributes.fields.retain(|key, _| self.keys.contains(key));
        }
        if self.fields.is_empty() || self.fields.contains("*") {
            return profile;
        }
        let mut left = DynamicMessage::new(PROFILE.clone());
        left.transcode_from(&profile).expect("the descriptor is that of the message");
        PROFILE.fields().filter(|field| !self.fields.contains(field.name())).for_each(|field| left.clear_field(&field));
        left.transcode_to().expect("the descriptor is that of the message")
    }

    fn of_event(&self, event: Event) -> Event {
        let of_profile = |profile: Option<Profile>| profile.map(|profile| self.of_profile(profile));
        Event {
            profile: of_profile(event.profile),
            previous: of_profile(event.previous),
            merged_profile: of_profile(event.merged_profile),
            ..event
        }
    }
}

/// Compares bytes: a number that is not a number equals none.
fn assert_same<M: Message + std::fmt::Debug>(cut: &M, expected: &M) {
    assert!(cut.encode_to_vec() == expected.encode_to_vec(), "{cut:?} is not {expected:?}");
}
