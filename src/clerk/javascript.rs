//! Texts as JavaScript reads them, because Clerk's rules are written in it.

/// White space as in ECMAScript, which differs from Unicode's.
pub(super) fn is_space(c: char) -> bool {
    c == '\u{feff}' || (c.is_whitespace() && c != '\u{85}')
}

/// JavaScript's `parseInt(text)`: white space, a sign, then digits up to any other character. `None` for NaN.
pub(super) fn parse_int(text: &str) -> Option<f64> {
    let text = text.trim_start_matches(is_space);
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (radix, digits) = hexadecimal.map_or((10, text), |digits| (16, digits));
    let digits = digits.chars().map_while(|c| c.to_digit(radix)).map(f64::from);
    digits.fold(None, |value, digit| Some(value.unwrap_or(0.0) * f64::from(radix) + digit)).map(|value| sign * value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_parsed_as_in_javascript() {
        for (text, number) in [
            ("1700000000", Some(1_700_000_000.0)),
            ("  12abc", Some(12.0)),
            ("\u{feff}\u{a0}5", Some(5.0)),
            ("\u{85}5", None),
            ("-5", Some(-5.0)),
            ("+5.9", Some(5.0)),
            ("0x10", Some(16.0)),
            ("0x", None),
            ("", None),
            ("x1", None),
        ] {
            assert_eq!(parse_int(text), number, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = parse_int(&text);
        }
    }
}
