//! What every text that is checked once has in common.

/// Implements access and deserialization for a newtype of `String` whose `parse` checks it.
macro_rules! checked_text {
    ($name:ident, $error:ty) => {
        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                Self::parse(text)
            }
        }
    };
}

pub(super) use checked_text;
