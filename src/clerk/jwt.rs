//! A JWT taken apart but not verified, and JavaScript's idea of a number, by which Clerk's rules are written.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

/// The three parts of a JWT, decoded. Nothing in it is to be trusted before the signature is.
pub(super) struct Decoded<'a> {
    pub(super) header: Map<String, Value>,
    pub(super) payload: Map<String, Value>,
    /// What the signature covers: the first two parts as they came.
    pub(super) signed: &'a str,
    pub(super) signature: &'a str,
}

impl<'a> Decoded<'a> {
    /// None when the text is not three parts of base64url, the first two of them JSON objects.
    pub(super) fn new(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.').filter(|(_, payload)| !payload.contains('.'))?;
        URL_SAFE_NO_PAD.decode(signature).ok()?;
        Some(Self { header: object(header)?, payload: object(payload)?, signed, signature })
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// What JavaScript's `Number(value)` gives; NaN where it gives that, and where the value is an array or an object.
pub(super) fn javascript_number(value: &Value) -> f64 {
    match value {
        Value::Null => 0.0,
        Value::Bool(value) => f64::from(u8::from(*value)),
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN),
        Value::String(text) if text.trim().is_empty() => 0.0,
        Value::String(text) => text.trim().parse().unwrap_or(f64::NAN),
        Value::Array(_) | Value::Object(_) => f64::NAN,
    }
}

/// What JavaScript's `parseInt(text)` gives, or `None` for NaN: blanks, a sign, then as many digits as there are.
pub(super) fn javascript_parse_int(text: &str) -> Option<f64> {
    let text = text.trim_start();
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
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_read_as_javascript_reads_them() {
        for (value, number) in
            [(json!(null), 0.0), (json!(true), 1.0), (json!(1.5), 1.5), (json!(""), 0.0), (json!(" 12 "), 12.0)]
        {
            assert!((javascript_number(&value) - number).abs() < f64::EPSILON, "{value}");
        }
        for value in [json!("12x"), json!([]), json!({})] {
            assert!(javascript_number(&value).is_nan(), "{value}");
        }
        for (text, number) in [
            ("1700000000", Some(1_700_000_000.0)),
            ("  12abc", Some(12.0)),
            ("-5", Some(-5.0)),
            ("+5.9", Some(5.0)),
            ("0x10", Some(16.0)),
            ("0x", None),
            ("", None),
            ("x1", None),
        ] {
            assert_eq!(javascript_parse_int(text), number, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_decoder_panic(text in ".*") {
            let _ = Decoded::new(&text);
            let _ = javascript_parse_int(&text);
        }
    }
}
