//! The prefix of the keys in Redis.

/// The start of every key, so that other applications can use the same Redis.
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
pub struct RedisKeyPrefix(String);

impl RedisKeyPrefix {
    /// Checks a prefix: 1 to 64 of `A-Z a-z 0-9 : . _ -`, so that no character is special in an ACL pattern.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b":._-".contains(&b);
        if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err("not 1 to 64 of the characters A-Z a-z 0-9 : . _ -")
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_no_characters_that_are_special_in_a_pattern() {
        assert!(RedisKeyPrefix::parse("aca:").is_ok());
        for bad in ["", "a b", "a*", "{a}", "[a]", "é", &"x".repeat(65)] {
            assert!(RedisKeyPrefix::parse(bad).is_err(), "{bad}");
        }
    }
}
