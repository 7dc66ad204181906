//! The credential of a request, before it is verified.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Uri};

use crate::refusal::Refusal;

const SCHEME: &str = "bearer";
/// Parameters by which clients put tokens into URLs (RFC 6750). URLs end up in logs.
const IN_QUERY: [&str; 3] = ["access_token=", "token=", "authorization="];

/// The bearer token of a request. `None` if it has none.
///
/// # Errors
/// The refusal of a request that has two, one of another scheme, or one in its URL.
pub(in crate::server) fn token<'r>(headers: &'r HeaderMap, uri: &Uri) -> Result<Option<&'r str>, Refusal> {
    let refused = Refusal::unauthenticated;
    if uri.query().is_some_and(has_token) {
        return Err(refused("a token belongs in the authorization header, and not into the URL"));
    }
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(first) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(refused("the request has more than one authorization header"));
    }
    bearer(first).map(Some).ok_or_else(|| refused("the authorization header must be: Bearer, a space, and a token"))
}

fn has_token(query: &str) -> bool {
    let is_token = |parameter: &str| IN_QUERY.iter().any(|name| parameter.to_ascii_lowercase().starts_with(name));
    query.split('&').any(is_token)
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case(SCHEME) && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::ErrorReason;

    fn of(headers: &[&str], uri: &str) -> Result<Option<String>, ErrorReason> {
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let found = token(&map, &uri.parse().unwrap()).map(|token| token.map(str::to_owned));
        found.map_err(|refusal| refusal.reason)
    }

    #[test]
    fn a_token_comes_in_one_header() {
        assert_eq!(of(&[], "/a"), Ok(None));
        for header in ["Bearer abc", "bearer abc", "BEARER  abc ", "Bearer\u{20}abc"] {
            assert_eq!(of(&[header], "/a?fields=x"), Ok(Some("abc".into())), "{header}");
        }
        for headers in
            [&["Basic abc"][..], &["abc"], &["Bearer"], &["Bearer "], &["Bearer a", "Bearer a"], &["Bearerabc"]]
        {
            assert_eq!(of(headers, "/a"), Err(ErrorReason::Unauthenticated), "{headers:?}");
        }
    }

    #[test]
    fn a_token_in_the_url_is_refused_even_beside_one_in_the_header() {
        for uri in ["/a?access_token=x", "/a?b=c&Access_Token=x", "/a?token=x", "/a?authorization=Bearer%20x"] {
            assert_eq!(of(&["Bearer abc"], uri), Err(ErrorReason::Unauthenticated), "{uri}");
        }
        assert_eq!(of(&[], "/a?mpid_as=string&page_token2=1"), Ok(None));
    }
}
