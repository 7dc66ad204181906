use serde_json::json;

use super::*;
use crate::auth::keys::KeySet;
use crate::auth::signature;
use crate::auth::tests::{AUDIENCE, ISSUER, Signer, base64, claims, message, set, with, without};

/// When the tests take place, in seconds since 1970.
const NOW: u64 = 1_800_000_000;
const LEEWAY: u64 = 60;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn rules() -> Rules {
    let (issuer, audience, claim) = (ISSUER.to_owned(), AUDIENCE.to_owned(), "cameo".to_owned());
    Rules { issuer, audience, leeway: Duration::from_secs(LEEWAY), claim }
}

/// Who a server with the one key `k` takes the sender of a token for.
fn verify(signer: &Signer, token: &str, now: SystemTime) -> Result<Caller, Unauthenticated> {
    signature::use_ring();
    let keys = KeySet::parse(set(&[signer.jwk("k")]).as_bytes()).unwrap();
    let head = head(token)?;
    rules().verify(token, keys.find(head.kid.as_deref(), head.algorithm)?, now)
}

fn verify_claims(claims: &Value) -> Result<Caller, Unauthenticated> {
    let signer = Signer::ed();
    verify(&signer, &signer.token("k", claims), at(NOW))
}

#[test]
fn a_token_of_each_algorithm_names_its_caller() {
    for signer in [Signer::rsa(), Signer::ec(), Signer::ed()] {
        let caller = verify(&signer, &signer.token("k", &claims(NOW)), at(NOW)).unwrap();
        assert_eq!(caller.name(), Some("crm"), "{}", signer.algorithm());
    }
}

/// Neither `none` nor the public key as the secret of an HMAC, in any spelling.
#[test]
fn no_other_algorithm_is_accepted() {
    for signer in [Signer::rsa(), Signer::ec(), Signer::ed()] {
        let algorithms = ["none", "None", "", "HS256", "HS512", "RS384", "RS512", "PS256", "ES384", "ES256K", "eddsa"];
        for alg in algorithms {
            let token = signer.token_with(&json!({"alg": alg, "kid": "k"}), &claims(NOW));
            assert_eq!(verify(&signer, &token, at(NOW)), Err(Unauthenticated::Algorithm), "{alg}");
        }
        for other in ["RS256", "ES256", "EdDSA"].into_iter().filter(|other| *other != signer.algorithm()) {
            let token = signer.token_with(&json!({"alg": other, "kid": "k"}), &claims(NOW));
            assert_eq!(verify(&signer, &token, at(NOW)), Err(Unauthenticated::Algorithm), "{other}");
        }
        let unsigned = format!("{}.", message(&json!({"alg": "none", "kid": "k"}), &claims(NOW)));
        assert_eq!(verify(&signer, &unsigned, at(NOW)), Err(Unauthenticated::Algorithm));
        let unsigned = format!("{}.", message(&json!({"alg": signer.algorithm(), "kid": "k"}), &claims(NOW)));
        assert_eq!(verify(&signer, &unsigned, at(NOW)), Err(Unauthenticated::Signature));
    }
}

#[test]
fn a_public_key_is_no_secret_of_an_hmac() {
    let signer = Signer::rsa();
    let jwk = signer.jwk("k");
    let message = message(&json!({"alg": "HS256", "kid": "k"}), &claims(NOW));
    for secret in [jwk["n"].as_str().unwrap().as_bytes(), jwk.to_string().as_bytes()] {
        let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret), message.as_bytes());
        let token = format!("{message}.{}", base64(tag));
        assert_eq!(verify(&signer, &token, at(NOW)), Err(Unauthenticated::Algorithm));
    }
}

#[test]
fn another_key_of_the_same_algorithm_does_not_sign() {
    for (signer, other) in [(Signer::ec(), Signer::ec()), (Signer::ed(), Signer::ed())] {
        let token = other.token("k", &claims(NOW));
        assert_eq!(verify(&signer, &token, at(NOW)), Err(Unauthenticated::Signature));
    }
}

/// A `kid` is looked up in a map, so that nothing it holds is a path, a URL or a query.
#[test]
fn a_kid_is_a_name_of_a_key_and_nothing_else() {
    let signer = Signer::ed();
    for kid in ["", "K", "../k", "../../../../dev/null", "/etc/passwd", "k' OR '1'='1", "http://127.0.0.1/k", "k\0"] {
        let token = signer.token(kid, &claims(NOW));
        assert_eq!(verify(&signer, &token, at(NOW)), Err(Unauthenticated::UnknownKey), "{kid}");
    }
    let long = signer.token(&"k".repeat(KID_BYTES + 1), &claims(NOW));
    assert_eq!(verify(&signer, &long, at(NOW)), Err(Unauthenticated::Malformed));
    let longest = signer.token(&"k".repeat(KID_BYTES), &claims(NOW));
    assert_eq!(verify(&signer, &longest, at(NOW)), Err(Unauthenticated::UnknownKey));
}

#[test]
fn a_token_does_not_bring_its_own_key() {
    let (signer, own) = (Signer::ed(), Signer::ed());
    let header = json!({"alg": "EdDSA", "kid": "k", "jwk": own.jwk("k"), "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"});
    assert_eq!(verify(&signer, &own.token_with(&header, &claims(NOW)), at(NOW)), Err(Unauthenticated::Signature));
    assert!(verify(&signer, &signer.token_with(&header, &claims(NOW)), at(NOW)).is_ok(), "they are ignored");
}

#[test]
fn an_extension_that_must_be_understood_is_not() {
    let signer = Signer::ed();
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!("b64")] {
        let token = signer.token_with(&json!({"alg": "EdDSA", "kid": "k", "crit": crit, "b64": false}), &claims(NOW));
        assert!(matches!(head(&token), Err(Unauthenticated::Malformed)), "{crit}");
    }
}

#[test]
fn what_is_no_jwt_is_malformed() {
    let signer = Signer::ed();
    let token = signer.token("k", &claims(NOW));
    let (head, rest) = token.split_once('.').unwrap();
    for malformed in [
        "",
        ".",
        "..",
        "...",
        "hunter2",
        &format!("{token}.{head}"),
        &format!("{token}."),
        &format!("{head}=.{rest}"),
        &format!(" {token}"),
        &format!("{}.{rest}", base64("{")),
        &format!("{}.{rest}", base64("[]")),
        &format!("{}.{rest}", base64(r#"{"kid": "k"}"#)),
        &format!("{}.{rest}", base64(r#"{"alg": 7}"#)),
        &signer.token("k", &json!("crm")),
    ] {
        assert_eq!(verify(&signer, malformed, at(NOW)), Err(Unauthenticated::Malformed), "{malformed}");
    }
}

#[test]
fn a_token_is_of_the_issuer_and_for_this_audience() {
    use Unauthenticated::{Audience, Issuer};
    let good = || claims(NOW);
    for (claims, refused) in [
        (with(good(), "iss", json!("https://evil.example.com/")), Issuer),
        (with(good(), "iss", json!("https://idp.example.com")), Issuer),
        (with(good(), "iss", json!("")), Issuer),
        (with(good(), "iss", json!(7)), Issuer),
        (without(good(), "iss"), Issuer),
        (with(good(), "aud", json!("other.example.com")), Audience),
        (with(good(), "aud", json!(["other.example.com"])), Audience),
        (with(good(), "aud", json!([])), Audience),
        (with(good(), "aud", json!(null)), Audience),
        (with(good(), "aud", json!({AUDIENCE: true})), Audience),
        (without(good(), "aud"), Audience),
    ] {
        assert_eq!(verify_claims(&claims), Err(refused), "{claims}");
    }
    assert!(verify_claims(&with(good(), "aud", json!(["other.example.com", AUDIENCE]))).is_ok());
}

#[test]
fn times_are_judged_with_the_leeway_and_to_the_second() {
    use Unauthenticated::{Expired, Malformed, NotYetValid};
    let good = || claims(NOW);
    for (claims, outcome) in [
        (with(good(), "exp", json!(NOW - LEEWAY)), Err(Expired)),
        (with(good(), "exp", json!(NOW - LEEWAY + 1)), Ok(())),
        (with(good(), "exp", json!(0)), Err(Expired)),
        (with(good(), "nbf", json!(NOW + LEEWAY + 1)), Err(NotYetValid)),
        (with(good(), "nbf", json!(NOW + LEEWAY)), Ok(())),
        (with(good(), "iat", json!(NOW + LEEWAY + 1)), Err(NotYetValid)),
        (with(good(), "iat", json!(NOW + LEEWAY)), Ok(())),
        (without(good(), "iat"), Ok(())),
        (with(good(), "exp", json!(1_800_000_000.5)), Ok(())),
        (without(good(), "exp"), Err(Malformed)),
        (with(good(), "exp", json!(null)), Err(Malformed)),
        (with(good(), "exp", json!(-1)), Err(Malformed)),
        (with(good(), "exp", json!(1e300)), Err(Malformed)),
        (with(good(), "exp", json!(u64::MAX)), Err(Malformed)),
        (with(good(), "exp", json!((NOW + 60).to_string())), Err(Malformed)),
        (with(good(), "nbf", json!("tomorrow")), Err(Malformed)),
        (with(good(), "nbf", json!(-1)), Err(Malformed)),
        (with(good(), "iat", json!({})), Err(Malformed)),
    ] {
        assert_eq!(verify_claims(&claims).map(|_| ()), outcome, "{claims}");
    }
    let caller = verify_claims(&claims(NOW)).unwrap();
    assert_eq!(caller.expires(), Some(at(NOW + 3_600 + LEEWAY)), "when it is refused");
}

#[test]
fn a_claim_says_what_the_caller_may_do() {
    let granted = |granted: Value| verify_claims(&with(claims(NOW), "cameo", granted));
    for bad in [
        json!(null),
        json!("reader"),
        json!([]),
        json!({}),
        json!({"roles": ["reader"]}),
        json!({"workspaces": ["acme/*/*"]}),
        json!({"roles": [], "workspaces": ["acme/*/*"]}),
        json!({"roles": ["reader"], "workspaces": []}),
        json!({"roles": "reader", "workspaces": ["acme/*/*"]}),
        json!({"roles": ["admin"], "workspaces": ["acme/*/*"]}),
        json!({"roles": ["reader"], "workspaces": ["acme"]}),
        json!({"roles": ["reader"], "workspaces": ["acme/*/*"], "field": ["attribution"]}),
        json!({"roles": ["reader"], "workspaces": ["acme/*/*"], "fields": []}),
        json!({"roles": ["reader"], "workspaces": ["acme/*/*"], "attribute_keys": []}),
        json!({"roles": ["writer"], "workspaces": ["acme/*/*"], "attribute_keys": ["plan"]}),
    ] {
        assert!(matches!(granted(bad.clone()), Err(Unauthenticated::Claims(_))), "{bad}");
    }
    let limited = granted(json!({"roles": ["reader"], "workspaces": ["acme/*/*"], "attribute_keys": ["plan"]}));
    assert!(limited.unwrap().grant().is_some());
    assert!(matches!(verify_claims(&without(claims(NOW), "cameo")), Err(Unauthenticated::Claims(_))));
    for nameless in [without(claims(NOW), "sub"), with(claims(NOW), "sub", json!(7))] {
        assert_eq!(verify_claims(&nameless), Err(Unauthenticated::Malformed), "{nameless}");
    }
    assert!(matches!(verify_claims(&with(claims(NOW), "sub", json!(""))), Err(Unauthenticated::Claims(_))));
}
