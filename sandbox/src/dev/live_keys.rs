//! Rejects real keys in the environment: the sandbox uses only generated ones.

use std::ffi::{OsStr, OsString};

/// A variable with a real key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{variable} holds {what}, but the sandbox uses only keys that it generates.\n  \
     To run against your own accounts, start the service itself: cargo run\n  \
     To use the sandbox, unset the variable: env -u {variable} make dev"
)]
pub(super) struct LiveKeyFound {
    variable: String,
    what: &'static str,
}

/// Fails if a variable holds an Ably key or a live Clerk key. An empty variable counts as unset.
pub(super) fn refuse(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<(), LiveKeyFound> {
    for (name, value) in variables {
        let name = name.to_string_lossy();
        if let Some(what) = refused(&name, &value) {
            return Err(LiveKeyFound { variable: name.into_owned(), what });
        }
    }
    Ok(())
}

fn refused(name: &str, value: &OsStr) -> Option<&'static str> {
    let value = value.as_encoded_bytes().trim_ascii_start();
    let is_live = [b"sk_live_".as_slice(), b"pk_live_"].iter().any(|prefix| value.starts_with(prefix));
    match name {
        // An Ably key does not show whether it is live.
        "ABLY_API_KEY" | "NEXT_ABLY_API_KEY" if !value.is_empty() => Some("an Ably API key"),
        _ if name.contains("CLERK") && is_live => Some("a live Clerk key"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ably_keys_and_live_clerk_keys_are_refused_and_nothing_else() {
        for (name, value, expected) in [
            ("ABLY_API_KEY", "a.b:c", true),
            ("NEXT_ABLY_API_KEY", "a.b:c", true),
            ("ABLY_API_KEY", "", false),
            ("CLERK_SECRET_KEY", "sk_live_x", true),
            ("CLERK_SECRET_KEY", "sk_test_x", false),
            ("CLERK_PUBLISHABLE_KEY", "pk_live_x", true),
            ("NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY", " pk_live_x", true),
            ("VITE_CLERK_PUBLISHABLE_KEY", "pk_live_x", true),
            ("STRIPE_SECRET_KEY", "sk_live_x", false),
            ("PATH", "/bin", false),
        ] {
            let outcome = refuse(std::iter::once((name.into(), value.into())));
            assert_eq!(outcome.is_err(), expected, "{name}={value}");
        }
    }
}
