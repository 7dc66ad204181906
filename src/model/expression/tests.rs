use std::thread;

use proptest::prelude::*;
use prost_types::value::Kind;
use prost_types::{FieldMask, ListValue, Struct, Timestamp, Value as Json};

use super::*;
use crate::proto::field;
use crate::proto::v1::{AudienceMembership, Event, Identity, Profile};

fn json(kind: Kind) -> Json {
    Json { kind: Some(kind) }
}

fn text(text: &str) -> Json {
    json(Kind::StringValue(text.to_owned()))
}

fn attributes<const N: usize>(entries: [(&str, Json); N]) -> Struct {
    Struct { fields: entries.map(|(key, value)| (key.to_owned(), value)).into() }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

fn ada() -> Profile {
    let tags = ListValue { values: vec![text("email"), json(Kind::NumberValue(7.0))] };
    let address = attributes([("city", text("Paris"))]);
    let identity =
        |kind: &str, value: &str| Identity { r#type: kind.into(), value: value.into(), ..Default::default() };
    let membership = |audience_id, expire_time| AudienceMembership { audience_id, expire_time, ..Default::default() };
    Profile {
        mpid: -5,
        create_time: Some(at(1_000_000)),
        user_identities: vec![identity("email", "ada@example.org"), identity("customer_id", "c1")],
        user_attributes: Some(attributes([
            ("plan", text("pro")),
            ("age", json(Kind::NumberValue(42.0))),
            ("nothing", json(Kind::NullValue(0))),
            ("tags", json(Kind::ListValue(tags))),
            ("address", json(Kind::StructValue(address))),
        ])),
        audience_memberships: vec![membership(3, None), membership(9, Some(at(2_000_000)))],
        etag: "e1".into(),
        ..Default::default()
    }
}

fn update() -> Event {
    Event {
        sequence: 12,
        r#type: "profile.updated".into(),
        time: Some(at(3_000_000)),
        profile: Some(ada()),
        previous: Some(Profile { user_attributes: Some(attributes([("plan", text("free"))])), ..Default::default() }),
        changed_fields: Some(FieldMask { paths: vec!["user_attributes".into()] }),
        changed_user_attributes: vec!["plan".into()],
        entered_audience_ids: vec![9],
        ..Default::default()
    }
}

fn holds(source: &str) -> bool {
    let expression = Expression::parse(source).unwrap_or_else(|invalid| panic!("{source}: {invalid}"));
    expression.matches(&Facts::new(&update()), &Subject::new(&ada()))
}

fn assert_holds(sources: &[&str]) {
    for source in sources {
        assert!(holds(source), "{source}");
    }
}

/// The problem with its line and column.
fn refusal(source: &str) -> String {
    let refused = Expression::parse(source).expect_err(source).to_string();
    refused.strip_prefix("filter.expression: ").expect("the field comes first").to_owned()
}

#[test]
fn attributes_are_found_by_their_keys() {
    assert_holds(&[
        "profile.user_attributes.plan == 'pro'",
        "profile.user_attributes['plan'] == \"pro\"",
        "'plan' in profile.user_attributes",
        "profile.user_attributes.address.city.startsWith('Par')",
        "profile.user_attributes.nothing == null",
        "has(profile.user_attributes.plan) && !has(profile.user_attributes.other)",
        "!has(profile.account_user_attributes.plan)",
        "size(profile.user_attributes) == 5 && profile.account_user_attributes.size() == 0",
        "(has(profile.user_attributes.other) ? profile.user_attributes.other : 'x') == 'x'",
    ]);
    assert!(!holds("profile.user_attributes.plan == 'free'"));
}

#[test]
fn numbers_of_different_types_compare_by_value() {
    assert_holds(&[
        "profile.user_attributes.age > 30 && 30 < profile.user_attributes.age",
        "profile.user_attributes.age == 42 && 42 == profile.user_attributes.age && 42u == profile.user_attributes.age",
        "profile.user_attributes.age in [1, 42] && 7 in profile.user_attributes.tags",
        "profile.user_attributes.age >= 41.5 && profile.user_attributes.age + 1.0 == 43",
        "int(profile.user_attributes.age) % 2 == 0",
        "profile.mpid == -5 && event.sequence > 11 && event.sequence == 12",
    ]);
    assert!(!holds("profile.user_attributes.age > 42") && !holds("profile.user_attributes.age != 42"));
}

#[test]
fn macros_look_into_lists() {
    assert_holds(&[
        "'email' in profile.user_attributes.tags",
        "profile.user_identities.exists(i, i.type == 'email' && i.value.endsWith('@example.org'))",
        "profile.audience_memberships.exists(m, m.audience_id == 9 && m.expire_time < event.time)",
        "profile.audience_memberships.exists_one(m, has(m.expire_time))",
        "!profile.audience_memberships.all(m, m.audience_id > 3)",
        "profile.audience_memberships.filter(m, m.audience_id > 3).size() == 1",
        "3 in profile.audience_memberships.map(m, m.audience_id)",
        "profile.user_attributes.exists(key, key == 'plan')",
        "profile.device_identities == []",
    ]);
}

#[test]
fn fields_have_their_defaults_and_absent_times_are_absent() {
    assert_holds(&[
        "profile.is_opted_out == false && !profile.is_opted_out && profile.etag == 'e1'",
        "has(profile.create_time) && !has(profile.update_time) && !has(profile.limit_ad_tracking)",
        "profile.create_time == timestamp('1970-01-12T13:46:40Z') && profile.create_time.getFullYear() == 1970",
        "event.time - profile.create_time > duration('24h')",
        "profile.create_time + duration('2000000s') == event.time",
    ]);
    let strange = Profile { create_time: Some(Timestamp { seconds: 0, nanos: -1 }), ..ada() };
    let absent = Expression::parse("!has(profile.create_time)").unwrap();
    assert!(absent.matches(&Facts::none(), &Subject::new(&strange)));
}

#[test]
fn an_event_tells_what_changed() {
    assert_holds(&[
        "event.type == 'profile.updated' && event.type != 'profile.deleted'",
        "previous.user_attributes.plan == 'free' && previous.mpid == 0",
        "'user_attributes' in event.changed_fields && 'plan' in event.changed_user_attributes",
        "9 in event.entered_audience_ids && size(event.exited_audience_ids) == 0",
        "!event.silent && event.actor == '' && event.merged_mpid == 0",
    ]);
}

#[test]
fn without_an_event_its_fields_have_their_defaults() {
    let source = "event.type == '' && !has(event.time) && previous.mpid == 0 && profile.user_attributes.plan == 'pro'";
    assert!(Expression::parse(source).unwrap().matches(&Facts::none(), &Subject::new(&ada())));
}

#[test]
fn a_profile_that_an_expression_fails_for_does_not_satisfy_it() {
    for source in [
        "profile.user_attributes.other == 'x'",
        "profile.user_attributes.other != 'x'",
        "!(profile.user_attributes.other == 'x')",
        "profile.user_attributes.plan > 3",
        "profile.user_attributes.plan",
        "profile.user_attributes.age + 1 == 43", // CEL adds no ints to doubles.
        "1 / 0 == 1",
        "9223372036854775807 + 1 == 0",
        "timestamp('nonsense') < event.time",
        "profile.user_attributes.tags[2] == 'x'",
        "profile.user_attributes.plan.exists(x, true)",
        "timestamp('9999-12-31T00:00:00Z') + duration('2540400h') > event.time",
    ] {
        assert!(!holds(source), "{source}");
    }
    assert!(holds("profile.user_attributes.other == 'x' || true"), "as CEL defines it");
}

#[test]
fn a_refusal_names_the_line_and_the_column() {
    for (source, expected) in [
        ("profile.mpid == == 1", "line 1, column 17: unexpected \"==\""),
        ("profile.mpid ==\n  ", "line 2, column 3: unexpected end"),
        ("true\n&& (false", "line 2, column 10: unexpected end"),
        ("'ä' == 'b' && person.mpid == 1", "line 1, column 15: unknown variable \"person\""),
        ("'ä' == == 1", "line 1, column 8: unexpected \"==\""),
        ("true &&\n .profile.mpid == 1", "line 2, column 3: unknown variable \".profile\""),
        ("true && profile.plan == 'x'", "line 1, column 16: unknown field \"plan\""),
        ("event.profile == previous", "line 1, column 6: unknown field \"profile\""),
        ("true && lower(event.type) == 'x'", "line 1, column 9: unknown function \"lower\""),
        ("event.type.matches('a.*')", "line 1, column 12: unknown function \"matches\""),
        ("size('a', 'b') == 1", "line 1, column 1: wrong number of arguments of \"size\""),
        ("[1].exists(x) ", "line 1, column 5: wrong number of arguments of \"exists\""),
        ("[1].exists(x.y, true)", "line 1, column 13: must be a new name"),
        ("[1].exists(event, true)", "line 1, column 12: must be a new name"),
        ("has(profile)", "line 1, column 1: \"has\" takes a field, such as has(profile.create_time)"),
        ("Foo{a: 1} == 1", "line 1, column 4: messages cannot be made"),
        ("event.?type == 'a'", "line 1, column 6: unsupported syntax '.?' \".\""),
        ("'a' == 'b", "line 1, column 8: a string without an end"),
        ("'a' == '\\z'", "line 1, column 8: a string with an unknown escape"),
        ("b'a' == b'a'", "line 1, column 1: bytes are not supported"),
        ("true && #", "line 1, column 9: unexpected \"#\""),
        ("event.sequence == 99999999999999999999", "line 1, column 19: invalid int literal \"99999999999999999999\""),
        ("var == 1", "line 1, column 1: reserved identifier \"var\""),
    ] {
        assert_eq!(refusal(source), expected, "{source}");
    }
}

#[test]
fn what_is_no_condition_is_refused() {
    for source in [
        "1",
        "'a'",
        "null",
        "[true]",
        "{'a': true}",
        "profile",
        "event.type",
        "1 + 2",
        "-1",
        "size('a')",
        "true && event.type",
        "!event.sequence",
        "true ? 1 : false",
        "event.changed_fields.map(x, x)",
        "event.time.getFullYear()",
    ] {
        assert!(refusal(source).ends_with(": is not a condition"), "{source}");
    }
    assert_holds(&["!event.silent", "true ? !event.silent : false"]);
}

#[test]
fn what_could_multiply_the_work_is_refused() {
    let outside = "a macro may only use its variable, literals and short fields";
    for (source, expected) in [
        ("[1].exists(x, [2].exists(y, true))", "line 1, column 19: macros cannot be nested"),
        ("[1].map(x, x).exists(y, true)", "line 1, column 5: macros cannot be nested"),
        ("[[1].exists(x, true)].exists(y, y)", "line 1, column 6: macros cannot be nested"),
        ("['a'].exists(x, x + x == 'aa')", "line 1, column 19: only numbers can be added in a macro"),
        ("(event.changed_fields + ['a']).exists(x, true)", "line 1, column 23: only numbers can be added in a macro"),
        ("[1].exists(x, profile.user_attributes == x)", &format!("line 1, column 22: {outside}")),
        ("[1].exists(x, x == previous)", &format!("line 1, column 20: {outside}")),
        ("size([1].map(x, 'long')) == 1", "line 1, column 17: must be a part of \"x\""),
    ] {
        assert_eq!(refusal(source), expected, "{source}");
    }
    let copies = |count: usize| format!("[{}] == []", vec!["profile"; count].join(", "));
    assert!(!holds(&copies(8)));
    assert!(refusal(&copies(9)).ends_with("9 copies of values are over the limit of 8"));
    let joined = |count: usize| format!("'' == {}", vec!["event.type"; count].join(" + "));
    assert!(!holds(&joined(9)));
    assert!(refusal(&joined(10)).ends_with("9 copies of values are over the limit of 8"));
    assert!(holds("[1, 2].exists(x, x + 1 == 3)"));
}

#[test]
fn the_length_and_the_symbols_are_bounded() {
    let long = |bytes: usize| format!("true //{}", "x".repeat(bytes - 7));
    assert!(holds(&long(4_096)));
    assert_eq!(refusal(&long(4_097)), "4097 bytes are over the limit of 4096");
    let many = |symbols: usize| vec!["true"; symbols / 2 + 1].join("&&");
    assert!(holds(&many(498)));
    assert_eq!(refusal(&many(500)), "line 1, column 1501: 501 symbols are over the limit of 500");
}

/// Each is deeper than a parser with 512 KiB of stack could go, in a build without optimizations.
#[test]
fn deep_nesting_is_refused_before_it_is_parsed() {
    let check = || {
        for piece in ["(", "[", "{", "!", "-", "a.", "f(", "1+", "a?", "a?b:", "[[]][", "!(", "1 in ", "a[0]."] {
            assert!(Expression::parse(&piece.repeat(4_096 / piece.len())).is_err(), "{piece}");
            assert!(Expression::parse(&piece.repeat(100)).is_err(), "{piece}");
        }
        for source in [format!("{}true{}", "(".repeat(29), ")".repeat(29)), format!("'\\z{}", "a.".repeat(2_000))] {
            let _ = Expression::parse(&source);
        }
        assert!(refusal(&format!("{}true", "!".repeat(40))).ends_with("is nested deeper than 32"));
        assert!(refusal(&format!("true && {}true", "(".repeat(30))).ends_with("is nested deeper than 32"));
        for (open, close) in
            [("(", ")"), ("!(", ")"), ("true ? ", " : false"), ("true && (", ")"), ("[", "]"), ("", ".a")]
        {
            for depth in 1..40 {
                let end = if close == ".a" { "profile.user_attributes" } else { "true" };
                let nested = format!("true == {}{end}{}", open.repeat(depth), close.repeat(depth));
                parses_and_evaluates(&nested); // As deep as is accepted.
            }
        }
        let beside = format!("{}1{}+(1){} == 1", "(".repeat(13), ")".repeat(13), "+1".repeat(10));
        assert!(refusal(&beside).ends_with("is nested deeper than 32"), "the deepest bracket of a term counts");
        let nested = format!("{}true{}", "(".repeat(15), ")".repeat(15));
        assert!(holds(&nested), "what a person writes is not deep");
        let wide = vec!["(event.sequence > 1 || profile.mpid == 3)"; 30].join(" && ");
        assert!(holds(&wide), "nor is what is wide");
    };
    thread::Builder::new().stack_size(512 << 10).spawn(check).unwrap().join().unwrap();
}

#[test]
fn every_field_of_the_messages_is_known() {
    let names = |variable| facts::fields_of(variable).unwrap().iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let fields = |all: &[(&'static str, u32)]| all.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    assert_eq!(names("profile"), fields(field::profile::ALL));
    let mut event = fields(field::event::ALL);
    event.retain(|name| !["profile", "previous", "merged_profile", "match"].contains(name));
    assert_eq!(names("event"), event);
}

#[test]
fn expressions_are_equal_by_their_texts_and_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Expression>();
    shared::<Facts>();
    shared::<Subject>();
    let parse = |source| Expression::parse(source).unwrap();
    assert_eq!(parse("true"), parse("true"));
    assert_ne!(parse("true"), parse("true "));
    assert_eq!(parse("true ").source(), "true ");
}

#[test]
fn nothing_that_is_shown_holds_a_value() {
    let shown = format!("{:?} {:?}", Facts::new(&update()), Subject::new(&ada()));
    assert_eq!(shown, "Facts Subject");
}

const SEEDS: [&str; 8] = [
    "profile.user_attributes.plan == 'pro' && profile.user_attributes.age > 30",
    "profile.user_identities.exists(i, i.type == 'email' && i.value.endsWith(\"org\"))",
    "event.time - profile.create_time > duration('24h') || !has(profile.update_time)",
    "3 in profile.audience_memberships.map(m, m.audience_id > 1, m.audience_id)",
    "profile.user_attributes.tags + [1, 2.5, null, {'a': [true]}] != [] ? event.silent : -1 < 2u",
    "size(string(profile.mpid) + r'\\d' + '''a\nb''') == 0x10 && timestamp('2020-01-01T00:00:00Z') < event.time",
    "event.time.getHours('Europe/Paris') % 3 * 7 / 2 >= 1e3 // done",
    "profile.user_attributes.address['city'].contains('\\u00e4\\n')",
];

fn parses_and_evaluates(source: &str) {
    if let Ok(expression) = Expression::parse(source) {
        let facts = Facts::new(&update());
        let profile = Subject::new(&ada());
        let variables = facts.with(&profile);
        let mut context = Context::with_env(Arc::clone(&STANDARD));
        context.set_variable_resolver(&variables);
        let _ = Value::resolve_val(&expression.0.tree, &context); // Not caught: a panic fails the test.
    }
}

proptest! {
    #[test]
    fn random_text_never_panics(source in "\\PC{0,60}") {
        parses_and_evaluates(&source);
    }

    #[test]
    fn changed_expressions_never_panic(
        seed in 0..SEEDS.len(), other in 0..SEEDS.len(), cut in any::<(prop::sample::Index, prop::sample::Index)>(),
        piece in "[-a-z().\\[\\]{}'\"!?:+*/%<>=&|, 0-9\\\\ä\n]{0,3}",
    ) {
        let chars = |source: &str| source.chars().collect::<Vec<_>>();
        let (head, tail) = (chars(SEEDS[seed]), chars(SEEDS[other]));
        let mut source = head[..cut.0.index(head.len())].iter().collect::<String>() + &piece;
        source.extend(&tail[cut.1.index(tail.len())..]);
        parses_and_evaluates(&source);
    }
}
