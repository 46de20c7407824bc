//! Where the head of a request ends, and whether it leaves the length of the body uncertain.

use memchr::memchr;

/// Reads a head line by line, as it arrives, and finds its end as httparse does: the first empty line behind the request
/// line. A line ends with LF or CRLF; empty lines before the request line do not count (RFC 9112 section 2.2).
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    scanned: usize,
    line_start: usize,
    in_fields: bool,
    has_length: bool,
    is_ambiguous: bool,
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
                self.note_length(line);
                self.in_fields = true;
            } else if self.in_fields {
                return Some(self.scanned);
            }
        }
        self.scanned = bytes.len();
        None
    }

    /// How many bytes the lines have that have been seen whole.
    pub(super) fn whole_lines(&self) -> usize {
        self.line_start
    }

    /// Whether it is uncertain how long the body is: two fields say so, or a transfer coding is not `chunked` alone. Whoever
    /// reads the request before or after this service may believe another length (RFC 9112 section 11.2).
    pub(super) fn is_ambiguous(&self) -> bool {
        self.is_ambiguous
    }

    fn note_length(&mut self, line: &[u8]) {
        let coding = value_of(line, "transfer-encoding");
        if coding.is_none() && value_of(line, "content-length").is_none() {
            return;
        }
        self.is_ambiguous |= self.has_length || coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked"));
        self.has_length = true;
    }
}

/// The value of a field, if the line is one of this name.
fn value_of<'h>(line: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let (found, value) = line.split_at_checked(name.len())?;
    let value = value.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
}

/// The value of the first field of this name in the bytes of a head, which may be invalid or not whole.
pub(crate) fn field<'h>(head: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    lines.take_while(|line| !line.trim_ascii().is_empty()).find_map(|line| value_of(line, name))
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
    fn a_body_of_uncertain_length_is_noticed_in_any_case_and_order() {
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
            let mut scanner = HeadScanner::default();
            assert!(scanner.end_in(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes()).is_some());
            assert_eq!(scanner.is_ambiguous(), is_ambiguous, "{fields}");
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
