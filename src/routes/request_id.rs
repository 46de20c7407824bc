//! Request IDs for logs and answers: the caller's, if valid, or a new one.

/// The header, in requests and answers.
pub(super) const HEADER: &str = "x-request-id";

/// 1 to 64 letters, digits, dots, underscores and hyphens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestId(String);

impl RequestId {
    /// The caller's ID, if valid, or a new one.
    pub(super) fn accept_or_make(offered: Option<&[u8]>) -> Self {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let accepted = offered
            .and_then(|value| str::from_utf8(value).ok())
            .filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(is_allowed));
        Self(accepted.map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_another_form_is_replaced() {
        let longest = "x".repeat(64);
        for good in ["a", "A.b_c-9", &longest] {
            assert_eq!(RequestId::accept_or_make(Some(good.as_bytes())).as_str(), good);
        }
        let too_long = "x".repeat(65);
        for bad in ["", "a b", "a\tb", "a/b", "{}", &too_long] {
            let made = RequestId::accept_or_make(Some(bad.as_bytes()));
            assert_eq!(made.as_str().len(), 32, "{bad}");
        }
        assert_ne!(RequestId::accept_or_make(None), RequestId::accept_or_make(None));
    }
}
