//! Where the head of a request ends, and whether it says twice how long the body is.

use memchr::memchr;

/// Reads a head line by line, as it arrives, and finds its end as httparse does: the first empty line behind the request
/// line. A line ends with LF or CRLF; empty lines before the request line do not count (RFC 9112 section 2.2).
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    scanned: usize,
    line_start: usize,
    in_fields: bool,
    has_length: bool,
    has_encoding: bool,
}

impl HeadScanner {
    /// The length of the head, once it is whole. `bytes` begin with the head, and with what was there at the last call.
    pub(super) fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(found) = memchr(b'\n', bytes.get(self.scanned..)?) {
            let line_end = self.scanned + found;
            let line = bytes.get(self.line_start..line_end)?;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.scanned = line_end + 1;
            self.line_start = self.scanned;
            if !line.is_empty() {
                self.has_length |= is_field(line, b"content-length:");
                self.has_encoding |= is_field(line, b"transfer-encoding:");
                self.in_fields = true;
            } else if self.in_fields {
                return Some(self.scanned);
            }
        }
        self.scanned = bytes.len();
        None
    }

    /// Whether the body has two lengths: `Content-Length` and `Transfer-Encoding`. Whoever reads the request before or after
    /// this service may believe the other one (RFC 9112 section 11.2).
    pub(super) fn has_two_lengths(&self) -> bool {
        self.has_length && self.has_encoding
    }
}

/// `name` is lower case, with its colon.
fn is_field(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

/// The value of the first field of this name in the bytes of a head, which may be invalid or not whole.
pub(crate) fn field<'h>(head: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    lines.take_while(|line| !line.trim_ascii().is_empty()).find_map(|line| {
        let colon = memchr(b':', line)?;
        let (found, value) = line.split_at_checked(colon)?;
        found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(bytes: &[u8]) -> Option<usize> {
        HeadScanner::default().end_in(bytes)
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
            assert_eq!(end(bytes), length, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn two_lengths_are_noticed_in_any_case_and_order() {
        for (fields, two) in [
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", true),
            ("TRANSFER-ENCODING:chunked\r\nX: 1\r\ncontent-length:1\r\n", true),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", false),
            ("Transfer-Encoding: chunked\r\nX-Content-Length: 1\r\n", false),
        ] {
            let mut scanner = HeadScanner::default();
            assert!(scanner.end_in(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes()).is_some());
            assert_eq!(scanner.has_two_lengths(), two, "{fields}");
        }
    }

    #[test]
    fn a_field_is_found_in_a_head_that_is_not_whole_and_never_behind_it() {
        let head = b"GET /Origin: no HTTP/1.1\r\nX: Origin: no\r\norigin:  http://a.example \r\nOrigin: second\r\nrest";
        assert_eq!(field(head, "Origin"), Some(&b"http://a.example"[..]));
        assert_eq!(field(b"GET / HTTP/1.1\r\nX: 1\r\n\r\nOrigin: body\r\n", "Origin"), None);
        assert_eq!(field(b"Origin: x", "Origin"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_end_is_where_httparse_finds_it_however_the_bytes_arrive(
            bytes in prop::collection::vec(prop::sample::select(b"\r\n\r\n\n aA:;/".to_vec()), 0..40),
            cut in 0..40usize,
        ) {
            let bytes = [&b"GET / HTTP/1.1\r\nA: b"[..], &bytes].concat();
            let mut scanner = HeadScanner::default();
            let found = scanner.end_in(&bytes[..cut.min(bytes.len())]).or_else(|| scanner.end_in(&bytes));
            let mut fields = [httparse::EMPTY_HEADER; 64];
            match httparse::Request::new(&mut fields).parse(&bytes) {
                Ok(httparse::Status::Complete(length)) => prop_assert_eq!(found, Some(length)),
                Ok(httparse::Status::Partial) => prop_assert_eq!(found, None),
                Err(_) => {}
            }
        }
    }
}
