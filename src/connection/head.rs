//! Finds the end of a request's head, and rejects early what cannot become a request.

use std::mem;

use httparse::{EMPTY_HEADER, Header, Request, Status};
use memchr::{memchr, memchr_iter};

/// The maximum size of the request line and the fields together.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The maximum number of fields of a head.
pub(super) const MAX_FIELDS: usize = 96;

const CONTENT_LENGTH: &str = "content-length";
const TRANSFER_ENCODING: &str = "transfer-encoding";

/// Parses a head as it arrives.
#[derive(Debug, Default)]
pub(super) struct HeadParser {
    seen: usize,
}

impl HeadParser {
    /// The length of the head once it is complete, or the status of the refusal if it can never become a request. `bytes`
    /// begin with the head, and with the bytes of the last call.
    pub(super) fn end_in(&mut self, bytes: &[u8]) -> Result<Option<usize>, u16> {
        let seen = mem::replace(&mut self.seen, bytes.len());
        // Parsing at the first bytes and at each new line finds early what can never become a request.
        if seen > 0 && memchr(b'\n', bytes.get(seen..).unwrap_or_default()).is_none() {
            return Ok(None);
        }
        if let Some(end) = end_without_body(bytes) {
            return Ok(Some(end));
        }
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        match Request::new(&mut fields).parse(bytes) {
            Err(httparse::Error::TooManyHeaders) => Err(431),
            Err(_) => Err(400),
            Ok(_) if is_body_length_ambiguous(&fields) => Err(400),
            Ok(Status::Complete(length)) => Ok(Some(length)),
            Ok(Status::Partial) => Ok(None),
        }
    }
}

/// The length of a complete head whose lines all end with CR LF, and of which none is about a body. hyper refuses what is not a
/// request in it.
fn end_without_body(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    for end in memchr_iter(b'\n', bytes) {
        let line = bytes.get(start..end)?.strip_suffix(b"\r")?;
        if line.is_empty() {
            return (start > 0).then_some(end + 1);
        }
        let begins_with = |name: &str| line.get(..name.len()).is_some_and(|b| b.eq_ignore_ascii_case(name.as_bytes()));
        if begins_with(CONTENT_LENGTH) || begins_with(TRANSFER_ENCODING) {
            return None;
        }
        start = end + 1;
    }
    None
}

/// Whether two fields give the length of the body, or a transfer coding is not `chunked` alone. A proxy before this service
/// may believe another length (RFC 9112 section 11.2).
fn is_body_length_ambiguous(fields: &[Header<'_>]) -> bool {
    let is = |field: &Header<'_>, name| field.name.eq_ignore_ascii_case(name);
    let mut lengths = fields.iter().filter(|field| is(field, CONTENT_LENGTH) || is(field, TRANSFER_ENCODING));
    let first = lengths.next();
    let is_other_coding = first.is_some_and(|field| {
        is(field, TRANSFER_ENCODING) && !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked")
    });
    is_other_coding || lengths.next().is_some()
}

/// The value of the first field of this name in the bytes of a head, which may be invalid or incomplete.
pub(crate) fn field<'h>(head: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    lines.take_while(|line| !line.trim_ascii().is_empty()).find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(bytes: &[u8]) -> Result<Option<usize>, u16> {
        HeadParser::default().end_in(bytes)
    }

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        for (bytes, length) in [
            (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest"[..], Some(27)),
            (b"GET / HTTP/1.1\nHost: x\n\nrest", Some(24)),
            (b"GET / HTTP/1.1\r\n\r\n", Some(18)),
            (b"\r\n\n\r\nGET / HTTP/1.1\r\n\n", Some(22)),
            (b"\r\n\r\n\r\n\r\n", None),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r", None),
            (b"GET / HTTP/1.1\r\nHost: x\r\n \r\n", None),
            (b"", None),
        ] {
            assert_eq!(end(bytes).unwrap_or_default(), length, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_body_of_ambiguous_length_is_refused_in_any_case_and_order() {
        for (fields, is_ambiguous) in [
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", true),
            ("TRANSFER-ENCODING:chunked\r\nX: 1\r\ncontent-length:1\r\n", true),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", true),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", true),
            ("Transfer-Encoding: gzip, chunked\r\n", true),
            ("Transfer-Encoding: identity\r\n", true),
            ("Transfer-Encoding: Chunked \r\nX-Content-Length: 1\r\n", false),
            ("Content-Length: 1\r\n", false),
        ] {
            for rest in ["", "\r\n"] {
                let end = end(format!("GET / HTTP/1.1\r\n{fields}{rest}").as_bytes());
                assert_eq!(end == Err(400), is_ambiguous, "{fields}");
            }
        }
    }

    #[test]
    fn a_field_is_found_in_an_incomplete_head_and_never_after_it() {
        let head = b"GET /Origin: no HTTP/1.1\r\nX: Origin: no\r\norigin:  http://a.example \r\nOrigin: second\r\nrest";
        assert_eq!(field(head, "Origin"), Some(&b"http://a.example"[..]));
        assert_eq!(field(b"GET / HTTP/1.1\r\nX: 1\r\n\r\nOrigin: body\r\n", "Origin"), None);
        assert_eq!(field(b"Origin: x", "Origin"), None);
    }

    const PARTS: [&str; 12] = [
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        " ",
        "a",
        "A",
        ":",
        ";",
        "/",
        "\r\nContent-Length: 1",
        "\r\ntransfer-encoding:x",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_end_is_the_same_however_the_bytes_arrive(
            parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 0..40),
            cut in 0..400usize,
        ) {
            let bytes = [b"GET / HTTP/1.1\r\nA: b", parts.concat().as_bytes()].concat();
            let mut parser = HeadParser::default();
            let found = match parser.end_in(&bytes[..cut.min(bytes.len())]) {
                Ok(None) => parser.end_in(&bytes),
                found => found,
            };
            let mut fields = [EMPTY_HEADER; 64];
            match Request::new(&mut fields).parse(&bytes) {
                Err(_) => {}
                Ok(_) if is_body_length_ambiguous(&fields) => prop_assert_eq!(found, Err(400)),
                Ok(Status::Complete(length)) => prop_assert_eq!(found, Ok(Some(length))),
                Ok(Status::Partial) => prop_assert_eq!(found, Ok(None)),
            }
        }
    }
}
