//! `.env` files, read as Node's `--env-file` reads them (22 or later).
//!
//! A parser of our own: dotenvy rejects a value with unquoted blanks, cannot find the next line after one that it rejects,
//! and replaces `$NAME` inside values, which may be secrets.

use std::collections::HashMap;

const BLANKS: [char; 2] = [' ', '\t'];
const QUOTES: [char; 3] = ['"', '\'', '`'];

/// A variable of the file, or of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The value, as Node reads it.
    pub(super) value: String,
    /// The line on which it starts, counted from 1. None in the environment.
    pub(super) line: Option<usize>,
    /// Why the author must have meant another value.
    pub(super) defect: Option<&'static str>,
}

/// Reads all variables. Of two with the same name, the last counts; a line that is not `NAME=value` is skipped. Unlike Node,
/// it skips a byte order mark, and ends a value of blanks at the end of its line.
pub(super) fn parse(file: &[u8]) -> HashMap<String, Entry> {
    let text = String::from_utf8_lossy(file).replace('\r', "");
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut entries = HashMap::new();
    let mut line = 0;
    while !rest.is_empty() {
        line += 1;
        let (this, following) = rest.split_once('\n').unwrap_or((rest, ""));
        let is_comment = this.trim_start_matches(BLANKS).starts_with('#');
        let assignment = rest.split_once('=').filter(|_| this.contains('=') && !is_comment);
        rest = following;
        let Some((name, from_value)) = assignment else { continue };
        let name = name.trim_matches(BLANKS);
        let name = name.strip_prefix("export ").unwrap_or(name).trim_start_matches(BLANKS);
        let from_value = from_value.trim_start_matches(BLANKS);
        let in_quotes = quoted(from_value);
        let has_escapes = in_quotes.is_some() && from_value.starts_with('"');
        let (text, defect) = match in_quotes {
            Some((text, after)) => {
                let (trailing, following) = after.split_once('\n').unwrap_or((after, ""));
                rest = following;
                let trailing = trailing.trim_start_matches(BLANKS);
                let is_whole = trailing.is_empty() || trailing.starts_with('#');
                (text, (!is_whole).then_some("text follows the closing quote; quote the whole value"))
            }
            None => unquoted(from_value.split('\n').next().unwrap_or_default()),
        };
        let is_utf8 = !text.contains(char::REPLACEMENT_CHARACTER);
        let defect = defect.or_else(|| (!is_utf8).then_some("not UTF-8; save the file as UTF-8"));
        let value = if has_escapes { text.replace("\\n", "\n") } else { text.to_owned() };
        entries.insert(name.to_owned(), Entry { value, line: Some(line), defect });
        line += text.matches('\n').count();
    }
    entries
}

/// The text between quotes, which may span lines, and what follows them. None without both quotes.
fn quoted(from_value: &str) -> Option<(&str, &str)> {
    let quote = from_value.chars().next().filter(|first| QUOTES.contains(first))?;
    from_value.strip_prefix(quote)?.split_once(quote)
}

/// The value on the rest of a line, and its defect.
fn unquoted(line: &str) -> (&str, Option<&'static str>) {
    if line.starts_with(QUOTES) {
        (line, Some("the quote is not closed; close it, or write the value without quotes"))
    } else {
        let (value, comment) = line.split_once('#').map_or((line, None), |(value, comment)| (value, Some(comment)));
        // Other readers of the file, such as docker, take all of it as the value.
        let is_cut = comment.is_some() && !value.is_empty() && !value.ends_with(BLANKS);
        let defect =
            is_cut.then_some("a # in the value starts a comment; quote the value, or put a space before the comment");
        (value.trim_matches(BLANKS), defect)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    fn read(text: &str) -> BTreeMap<String, String> {
        parse(text.as_bytes()).into_iter().map(|(name, entry)| (name, entry.value)).collect()
    }

    #[test]
    fn every_text_is_read_as_node_reads_it() {
        let vectors: Value = serde_json::from_str(include_str!("../../tests/vectors/dot_env.json")).unwrap();
        let vectors = vectors.as_array().unwrap();
        assert!(vectors.len() > 300);
        for vector in vectors {
            let text = vector["text"].as_str().unwrap();
            let expected: BTreeMap<String, String> = serde_json::from_value(vector["variables"].clone()).unwrap();
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_a_blank_value_ends_with_its_line() {
        assert_eq!(read("\u{feff}A=1"), BTreeMap::from([("A".into(), "1".into())]));
        assert_eq!(read("A= \nB=2"), BTreeMap::from([("A".into(), String::new()), ("B".into(), "2".into())]));
    }

    #[test]
    fn a_variable_has_the_line_that_an_editor_shows() {
        let entries = parse(b"\xef\xbb\xbf# one\r\n\r\nA=\"1\r\n2\r\n3\"\r\nB=4\r\n");
        assert_eq!((entries["A"].line, entries["B"].line), (Some(3), Some(6)));
    }

    #[test]
    fn a_value_that_its_author_cannot_have_meant_has_a_defect() {
        for (text, defect) in [
            (&b"A=\"open"[..], "the quote is not closed"),
            (b"A='it's", "text follows the closing quote"),
            (b"A=\"https://a\", \"https://b\"", "text follows the closing quote"),
            (b"A=\xff", "not UTF-8"),
            (b"A=0123#4567", "a # in the value starts a comment"),
        ] {
            assert!(parse(text)["A"].defect.unwrap().starts_with(defect), "{text:?}");
        }
        for sound in [&b"A=b # c"[..], b"A=# c", b"A='b#c'", b"A=\"b\" # c", b"A='b'#c", b"A=b\"c", b"A=b\n\xff\n"] {
            assert_eq!(parse(sound)["A"].defect, None, "{sound:?}");
        }
    }
}
