use std::fmt::Write;
use std::time::Duration;

use super::*;

/// A token and its entry.
fn entry(number: u64) -> (String, String) {
    let token = format!("cameo_{number:08}_{}", "s".repeat(43));
    let hash = Hash::of(token.as_bytes()).to_hex();
    let entry = format!(
        "[[caller]]\nname = 'crm'\nroles = ['reader']\nworkspaces = ['acme/*/*']\nid = '{number:08}'\ntoken_sha256 = '{hash}'\n"
    );
    (token, entry)
}

/// An entry of a caller with a certificate.
fn certified(certificate: &str) -> String {
    format!("[[caller]]\nname = 'crm'\nroles = ['reader']\nworkspaces = ['acme/*/*']\ncertificate = '{certificate}'\n")
}

fn at(text: &str) -> SystemTime {
    text.parse::<Timestamp>().unwrap().try_into().unwrap()
}

fn refused(text: &str) -> CallersError {
    Callers::parse(text).err().unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn a_token_names_its_caller() {
    let ((one, first), (two, second)) = (entry(1), entry(2));
    let callers = Callers::parse(&format!("# Ours.\n{first}{second}fields = ['attribution']")).unwrap();
    assert_eq!(callers.len(), 2);
    let now = SystemTime::now();
    let caller = callers.by_token(&one, now).unwrap();
    assert_eq!((caller.name(), caller.grant().is_some(), caller.expires()), (Some("crm"), false, None));
    assert!(callers.by_token(&two, now).unwrap().grant().is_some());
}

#[test]
fn a_token_must_be_right_in_every_byte() {
    let (token, text) = entry(1);
    let callers = Callers::parse(&text).unwrap();
    let now = SystemTime::now();
    for at in 0..token.len() {
        let mut other = token.clone().into_bytes();
        other[at] ^= 1;
        let other = String::from_utf8(other).unwrap();
        assert!(callers.by_token(&other, now).is_err(), "{at}");
    }
    for (other, problem) in [
        (format!("{token} "), Unauthenticated::Unknown),
        (token[..token.len() - 1].to_owned(), Unauthenticated::Unknown),
        (entry(2).0, Unauthenticated::Unknown),
        ("cameo_00000001_".to_owned(), Unauthenticated::Unknown),
        ("cameo_00000001".to_owned(), Unauthenticated::Malformed),
        (Hash::of(token.as_bytes()).to_hex(), Unauthenticated::Malformed),
    ] {
        assert_eq!(callers.by_token(&other, now).err(), Some(problem), "{other}");
    }
}

#[test]
fn a_token_is_accepted_until_it_expires() {
    let (token, text) = entry(1);
    let expires = at("2027-01-31T10:00:00Z");
    for time in ["2027-01-31T10:00:00Z", "2027-01-31 10:00:00z", "2027-01-31T12:00:00+02:00"] {
        let callers = Callers::parse(&format!("{text}expires = {time}")).unwrap();
        let caller = callers.by_token(&token, expires - Duration::from_nanos(1)).unwrap();
        assert_eq!(caller.expires(), Some(expires), "{time}");
        assert_eq!(callers.by_token(&token, expires).err(), Some(Unauthenticated::Expired), "{time}");
    }
}

#[test]
fn a_revoked_token_is_unknown_and_its_certificate_may_be_of_another() {
    let (token, text) = entry(1);
    let callers = Callers::parse(&format!("{text}revoked = 2026-01-01T00:00:00Z")).unwrap();
    assert!(callers.is_empty());
    assert_eq!(callers.by_token(&token, SystemTime::now()).err(), Some(Unauthenticated::Unknown));
    let crm = certified("dns:crm.internal");
    let callers = Callers::parse(&format!("{crm}revoked = 2026-01-01T00:00:00Z\n{crm}")).unwrap();
    assert_eq!(callers.len(), 1);
}

#[test]
fn a_certificate_names_its_caller() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let now = SystemTime::now();
    for (written, sent) in [
        ("dns:CRM.internal", "dns:crm.Internal"),
        ("uri:spiffe://acme/crm", "uri:spiffe://acme/crm"),
        ("email:crm@example.com", "email:crm@example.com"),
        ("ip:2001:DB8:0:0::1", "ip:2001:db8::1"),
        ("ip:192.0.2.1", "ip:192.0.2.1"),
    ] {
        let callers = Callers::parse(&certified(written)).unwrap();
        assert!(callers.by_certificate(&names(&["dns:other", sent]), now).is_ok(), "{written}");
    }
    let callers = Callers::parse(&certified("dns:crm.internal")).unwrap();
    for other in ["dns:crm.internal.evil.com", "dns:crm", "uri:crm.internal", "email:crm.internal", "crm.internal", ""]
    {
        let refused = callers.by_certificate(&names(&[other]), now).err();
        assert_eq!(refused, Some(Unauthenticated::Unknown), "{other}");
    }
    assert_eq!(callers.by_certificate(&[], now).err(), Some(Unauthenticated::Unknown));
    let expired = format!("{}expires = 2020-01-01T00:00:00Z", certified("dns:crm.internal"));
    let refused = Callers::parse(&expired).unwrap().by_certificate(&names(&["dns:crm.internal"]), now).err();
    assert_eq!(refused, Some(Unauthenticated::Expired));
}

#[test]
fn an_entry_is_complete_and_has_nothing_else() {
    let (_, token) = entry(1);
    let crm = certified("dns:crm");
    let changed = |from: &str, to: &str| token.replace(from, to);
    for bad in [
        format!("{token}admin = true"),
        format!("{token}certificate = 'dns:crm'"),
        format!("{token}fields = []"),
        format!("{token}attribute_keys = []"),
        format!("{token}fields = ['nonesuch']"),
        format!("{token}expires = '2027-01-31T00:00:00Z'"),
        format!("{token}expires = 2027-01-31"),
        format!("{token}expires = 2027-01-31T00:00:00"),
        format!("{token}expires = 10:00:00"),
        format!("{token}expires = 90"),
        format!("{token}revoked = true"),
        format!("{token}revoked = 2027-01-31"),
        format!("{token}name = 'other'"),
        format!("{token}{token}"),
        format!("{crm}{crm}"),
        format!("{crm}{}", crm.replace("dns:crm", "dns:CRM")),
        format!("{token}[other]"),
        format!("top = 1\n{token}"),
        changed("name = 'crm'\n", ""),
        changed("roles = ['reader']\n", ""),
        changed("workspaces = ['acme/*/*']\n", ""),
        changed("id = '00000001'\n", ""),
        changed("id = '00000001'", "id = '0000001'"),
        changed("id = '00000001'", "id = '0000_0001'"),
        changed("token_sha256 = '", "token_sha256 = '0"),
        changed("token_sha256 = '", "token = '"),
        changed("['reader']", "['admin']"),
        changed("['reader']", "[]"),
        changed("'acme/*/*'", "'acme'"),
        changed("'crm'", "''"),
        changed("[[caller]]", "[caller]"),
        crm.replace("dns:crm", "crm"),
        crm.replace("dns:crm", "dns:"),
        crm.replace("dns:crm", "ip:crm"),
        crm.replace("dns:crm", "cn:crm"),
        crm.replace("'dns:crm'", "\"uri:\\u001b[2J\""),
        crm.replace("certificate = 'dns:crm'", ""),
        "hunter2".to_owned(),
    ] {
        assert!(Callers::parse(&bad).is_err(), "{bad}");
    }
    assert!(Callers::parse("").unwrap().is_empty());
}

/// A token may stand in the wrong place, and a message ends in a log.
#[test]
fn an_error_names_the_line_and_nothing_of_the_file() {
    let (token, text) = entry(1);
    let line = text.lines().count() + 1;
    for bad in ["hunter2", "hunter2 = 1", "name = 'hunter2", "expires = 'hunter2'"] {
        let error = refused(&format!("{text}{bad}\n"));
        assert!(error.line == line || error.line == 1, "{bad}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let error = refused(&format!("{text}token = '{token}'"));
    assert!(!error.to_string().contains(&token), "{error}");
    let second = refused(&format!("{text}{text}"));
    assert_eq!((second.line, second.problem), (line, "another caller has the same id or certificate"));
    assert_eq!(refused("# One\n# Two\nhunter2").line, 3);
}

#[test]
fn a_file_has_ten_thousand_callers_at_most() {
    let mut text = String::new();
    for number in 0..CALLERS {
        write!(text, "{}", certified(&format!("dns:{number}"))).unwrap();
    }
    assert_eq!(Callers::parse(&text).unwrap().len(), CALLERS);
    text += &certified("dns:one-more");
    let error = refused(&text);
    assert_eq!((error.line, error.problem), (CALLERS * 5 + 1, "it holds more than 10000 callers"));
}

#[test]
fn the_file_in_the_documentation_is_valid() {
    let document = include_str!("../../../docs/authentication.md");
    let (_, rest) = document.split_once("```toml\n").unwrap();
    let callers = Callers::parse(rest.split_once("```").unwrap().0).unwrap();
    assert_eq!((callers.tokens.len(), callers.certificates.len()), (1, 1));
}
