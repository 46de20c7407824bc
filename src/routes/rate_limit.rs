//! The headers that tell a client how many more tokens it may have: `RateLimit-Policy` and `RateLimit`, as in
//! draft-ietf-httpapi-ratelimit-headers-11.
//!
//! The policy is what a client can rely on: `q` tokens at once, and as many again `w` seconds after. Of these, `r` are left,
//! and whoever has no more than those within `t` seconds, the effective window (section 4.1.2), and goes on like that, is
//! never refused. So `r` to `t` is no more than `q` to `w`, which is as fast as tokens grow back (section 8.5). Nothing is
//! said of the partition key: it is the user, who is known on both sides.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use sfv::{Integer, KeyRef, ListSerializer, StringRef, key_ref, string_ref};

use crate::limits::Allowance;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const POLICY: &StringRef = string_ref("tokens");
const QUOTA: &KeyRef = key_ref("q");
const WINDOW: &KeyRef = key_ref("w");
const AVAILABLE: &KeyRef = key_ref("r");
const EFFECTIVE_WINDOW: &KeyRef = key_ref("t");

/// Adds both, if there is a limit and the request was counted.
pub(super) fn add_headers(allowance: Option<&Allowance>, headers: &mut HeaderMap) {
    let Some(Allowance { burst, whole_in, remaining, lasts }) = allowance else { return };
    let fields = [
        (RATE_LIMIT_POLICY, item([(QUOTA, *burst), (WINDOW, *whole_in)])),
        (RATE_LIMIT, item([(AVAILABLE, *remaining), (EFFECTIVE_WINDOW, *lasts)])),
    ];
    for (name, value) in fields {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
}

/// A list of one.
fn item(parameters: [(&KeyRef, u32); 2]) -> Option<String> {
    let mut list = ListSerializer::new();
    let parameters = parameters.map(|(key, value)| (key, Integer::from(value)));
    let _ = list.bare_item(POLICY).parameters(parameters);
    list.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_are_those_of_the_draft() {
        let mut headers = HeaderMap::new();
        add_headers(None, &mut headers);
        assert!(headers.is_empty());
        let allowance = Allowance { burst: 20, whole_in: 20, remaining: 7, lasts: 7 };
        add_headers(Some(&allowance), &mut headers);
        assert_eq!(headers.get("RateLimit-Policy").unwrap(), "\"tokens\";q=20;w=20");
        assert_eq!(headers.get("RateLimit").unwrap(), "\"tokens\";r=7;t=7");
    }
}
