//! The profiles that are measured, and random numbers to choose among them.
//!
//! A profile is a pure function of its index, so keys need not be kept.

use cameo::proto::v1::{AudienceMembership, Identity, Profile, ProfilePatch};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use uuid::Uuid;

/// The workspace of all profiles.
pub const WORKSPACE: &str = "acme/main/web";
/// The price of every purchase.
const PRICE: f64 = 20.5;

/// Splitmix64: a bijection whose results have no visible order. Keys made with it are unique and evenly spread.
fn mix(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random numbers that are good enough to choose keys, and cheap.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number below `bound`. The bias is at most `bound` / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// One of several, of which there is at least one.
    pub fn choose<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).expect("an index")]
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        self.choose::<&'a str>(of)
    }
}

/// The mpid of a profile. It is positive, like those that the server chooses.
pub fn mpid(index: u64) -> i64 {
    (mix(index) >> 1).cast_signed().max(1)
}

/// The user identities of a profile, which lookups use.
pub fn user_identities(index: u64) -> [Identity; 2] {
    let name = format!("customer-{:016x}", mix(index));
    let email = format!("{name}@example.com");
    [identity("customer_id", name), identity("email", email)]
}

fn identity(kind: &str, value: String) -> Identity {
    Identity { r#type: kind.into(), encoding: "none".into(), value }
}

/// The profile with an index.
pub fn profile(index: u64) -> Profile {
    let dice = &mut Dice::new(!index);
    let (high, low) = (dice.roll(), dice.roll());
    let device_identities = vec![
        identity("android_id", format!("{:016x}", dice.roll())),
        identity("google_advertising_id", Uuid::from_u64_pair(high, low).to_string()),
    ];
    Profile {
        device_identities,
        user_identities: user_identities(index).into(),
        user_attributes: Some(attributes(dice)),
        audience_memberships: memberships(dice),
        ..Profile::default()
    }
}

fn attributes(dice: &mut Dice) -> Struct {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.into())) };
    let (city, state) = [
        ("New York", "NY"),
        ("Los Angeles", "CA"),
        ("Chicago", "IL"),
        ("Houston", "TX"),
        ("San Francisco", "CA"),
        ("Ann Arbor", "MI"),
    ][usize::try_from(dice.below(6)).expect("an index")];
    let fields = [
        ("view_preference", text(dice.pick(&["Dark Mode", "Light Mode", "System"]))),
        ("tp_age", text(dice.pick(&["18-34", "35-54", "55-64", "65+"]))),
        ("tp_gender", text(dice.pick(&["male", "female", "unknown"]))),
        ("last_purchase_category", text(category(dice))),
        ("churn_risk_score", text(dice.pick(&["1", "2", "3", "4", "5"]))),
        ("ltv", number(dice.below(200_000))),
        ("$city", text(city)),
        ("$state", text(state)),
        ("$country", text("USA")),
        ("$firstname", text(dice.pick(&["Marky", "Ada", "Bartholomew", "Grace", "Jo", "Wilhelmina"]))),
        ("$lastname", text(dice.pick(&["Mark", "Lovelace", "Hopper", "Featherstonehaugh", "Li", "Okonkwo"]))),
    ];
    Struct { fields: fields.map(|(key, value)| (key.to_owned(), value)).into() }
}

fn category(dice: &mut Dice) -> &'static str {
    dice.pick(&["Home Decor", "Garden", "Toys", "Consumer Electronics", "Books", "Groceries and Household"])
}

fn number(cents: u64) -> Value {
    let cents = u32::try_from(cents).expect("an amount of money");
    Value { kind: Some(Kind::NumberValue(f64::from(cents) / 100.0)) }
}

/// One to three memberships.
fn memberships(dice: &mut Dice) -> Vec<AudienceMembership> {
    let audiences = [(17_918, "Decor Remarketing"), (20_411, "Newsletter"), (31_007, "High Value, Likely to Churn")];
    let count = 1 + usize::try_from(dice.below(3)).expect("an index");
    let membership = |(audience_id, name): (i64, &str)| AudienceMembership {
        audience_id,
        audience_name: name.into(),
        expire_time: None,
    };
    audiences.into_iter().take(count).map(membership).collect()
}

/// The update after a purchase. It sets one attribute and increments another, so it always changes the profile.
pub fn patch(dice: &mut Dice) -> ProfilePatch {
    let bought = Value { kind: Some(Kind::StringValue(category(dice).into())) };
    ProfilePatch {
        set_user_attributes: Some(Struct { fields: [("last_purchase_category".to_owned(), bought)].into() }),
        increment_user_attributes: [("ltv".to_owned(), PRICE)].into(),
        ..ProfilePatch::default()
    }
}
