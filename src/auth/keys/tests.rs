use serde_json::{Value, json};

use super::*;
use crate::auth::tests::{Signer, base64, set, with};

fn parse(keys: &[Value]) -> Result<KeySet, String> {
    KeySet::parse(set(keys).as_bytes())
}

fn rsa(n: &[u8]) -> Value {
    json!({"kty": "RSA", "n": base64(n), "e": "AQAB", "kid": "rsa"})
}

/// A number of so many bytes, of which the first is given.
fn number(bytes: usize, first: u8) -> Vec<u8> {
    let mut number = vec![0xff; bytes];
    number[0] = first;
    number
}

#[test]
fn a_key_has_the_algorithm_of_its_type() {
    let set = parse(&[Signer::rsa().jwk("a"), Signer::ec().jwk("b"), Signer::ed().jwk("c")]).unwrap();
    assert_eq!(set.len(), 3);
    for (kid, algorithm) in [("a", Algorithm::RS256), ("b", Algorithm::ES256), ("c", Algorithm::EdDSA)] {
        assert_eq!(set.find(Some(kid), algorithm).unwrap().algorithm, algorithm);
        for other in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA, Algorithm::HS256, Algorithm::PS256] {
            let is_found = set.find(Some(kid), other).is_ok();
            assert_eq!(is_found, other == algorithm, "{kid} {other:?}");
        }
    }
}

#[test]
fn an_rsa_key_has_2048_bits_or_more() {
    for (n, is_usable) in [
        (number(256, 0x80), true),
        (number(256, 0x7f), false), // 2047 bits.
        (number(255, 0xff), false),
        (number(128, 0xff), false),
        (number(1024, 0xff), true),
        (number(1025, 0x01), false),
        (number(257, 0x00), true), // A leading zero, as DER has it.
        (number(256, 0x00), false),
        (vec![0; 256], false),
        (vec![], false),
    ] {
        assert_eq!(parse(&[rsa(&n)]).is_ok(), is_usable, "{} bytes from {:?}", n.len(), n.first());
    }
}

/// The set is used, without the keys that are not.
#[test]
fn a_key_that_is_not_for_signatures_is_left_out() {
    let good = Signer::ec().jwk("good");
    let changed = |name: &str, value: Value| with(Signer::ec().jwk("bad"), name, value);
    for bad in [
        changed("use", json!("enc")),
        changed("key_ops", json!(["sign"])),
        changed("alg", json!("ES384")),
        changed("alg", json!("RS256")),
        changed("crv", json!("P-384")),
        changed("crv", json!("secp256k1")),
        changed("x", json!("AQAB")),
        changed("x", json!("not base64!")),
        changed("kid", json!("k".repeat(KID_BYTES + 1))),
        changed("kid", json!(7)),
        changed("kty", json!("unheard of")),
        with(Signer::rsa().jwk("bad"), "alg", json!("HS256")),
        with(Signer::rsa().jwk("bad"), "alg", json!("PS256")),
        with(Signer::ed().jwk("bad"), "crv", json!("X25519")),
        with(Signer::ed().jwk("bad"), "x", json!(base64([1; 31]))),
        json!({"kty": "oct", "k": base64([1; 32]), "alg": "HS256", "kid": "bad"}),
        json!({}),
        json!("key"),
    ] {
        assert_eq!(parse(&[good.clone(), bad.clone()]).unwrap().len(), 1, "{bad}");
        assert!(parse(std::slice::from_ref(&bad)).is_err(), "{bad}");
    }
    for better in [
        changed("use", json!("sig")),
        changed("key_ops", json!(["verify"])),
        changed("alg", json!("ES256")),
        changed("kid", json!("k".repeat(KID_BYTES))),
        changed("x5c", json!(["a certificate"])),
    ] {
        assert_eq!(parse(&[good.clone(), better.clone()]).unwrap().len(), 2, "{better}");
    }
}

#[test]
fn a_set_is_bounded_and_its_keys_can_be_told_apart() {
    let key = |number: usize| with(Signer::ed().jwk("k"), "kid", json!(number.to_string()));
    let keys: Vec<_> = (0..=KEYS).map(key).collect();
    assert_eq!(parse(&keys[..KEYS]).unwrap().len(), KEYS);
    assert!(parse(&keys).is_err());
    assert!(parse(&[Signer::ed().jwk("k"), Signer::ed().jwk("k")]).is_err());
    assert!(parse(&[Signer::ed().jwk("k"), Signer::ec().jwk("k")]).is_ok(), "the algorithm tells them apart");
    for malformed in ["", "{}", "[]", r#"{"keys": {}}"#, r#"{"keys": []}"#, "-----BEGIN PUBLIC KEY-----"] {
        assert!(KeySet::parse(malformed.as_bytes()).is_err(), "{malformed}");
    }
}

#[test]
fn what_is_wrong_with_a_set_is_said_without_its_words() {
    for content in [r#"{"keys": "hunter2"}"#, "hunter2", r#"{"keys": [{"kty": "hunter2"}]}"#] {
        let problem = KeySet::parse(content.as_bytes()).err().unwrap();
        assert!(!problem.contains("hunter2"), "{problem}");
    }
}

#[test]
fn a_token_without_a_kid_is_verified_by_the_only_key_of_its_algorithm() {
    let nameless = |signer: Signer| crate::auth::tests::without(signer.jwk("k"), "kid");
    let one = parse(&[nameless(Signer::ed()), Signer::ec().jwk("ec")]).unwrap();
    assert!(one.find(None, Algorithm::EdDSA).is_ok() && one.find(None, Algorithm::ES256).is_ok());
    assert_eq!(one.find(None, Algorithm::RS256).err(), Some(Unauthenticated::Algorithm));
    let two = parse(&[nameless(Signer::ed()), Signer::ed().jwk("ed")]).unwrap();
    assert_eq!(two.find(None, Algorithm::EdDSA).err(), Some(Unauthenticated::UnknownKey), "it may be either");
    assert!(two.find(Some("ed"), Algorithm::EdDSA).is_ok());
    assert!(!two.lacks(Some("ed")) && two.lacks(Some("other")) && !two.lacks(None));
}
