//! The `RateLimit-Policy` and `RateLimit` headers (draft-ietf-httpapi-ratelimit-headers-11): how many more tokens the user
//! may have.
//!
//! The policy grants `q` tokens at once, and as many again after `w` seconds. `r` of them are left. A client that asks for at
//! most `r` in `t` seconds, the effective window (section 4.1.2), and goes on at that rate, is never refused; `r` to `t` is
//! at most `q` to `w` (section 8.5). There is no partition key: it is the user, whom both sides know.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limits::Allowance;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Adds both headers, if the request was counted. Each is a list with one item, whose parameters are numbers (RFC 9651).
pub(super) fn add_headers(allowance: Option<Allowance>, headers: &mut HeaderMap) {
    let Some(Allowance { burst, whole_in, remaining, lasts }) = allowance else { return };
    let fields = [
        (RATE_LIMIT_POLICY, item([";q=", ";w="], [burst, whole_in])),
        (RATE_LIMIT, item([";r=", ";t="], [remaining, lasts])),
    ];
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

fn item([first, second]: [&str; 2], [number, seconds]: [u32; 2]) -> String {
    let (mut number_text, mut seconds_text) = (itoa::Buffer::new(), itoa::Buffer::new());
    [r#""tokens""#, first, number_text.format(number), second, seconds_text.format(seconds)].concat()
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
        add_headers(Some(allowance), &mut headers);
        assert_eq!(headers.get("RateLimit-Policy").unwrap(), "\"tokens\";q=20;w=20");
        assert_eq!(headers.get("RateLimit").unwrap(), "\"tokens\";r=7;t=7");
    }
}
