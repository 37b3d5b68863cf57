//! Generated passwords that no `Debug` output shows.
//!
//! A private file or a connection URL carries them, never a command line, which every user of the
//! machine can read.

use std::fmt;

use rand::{distr::Alphanumeric, distr::SampleString as _};

const LENGTH: usize = 32;

/// A random password of 32 letters and digits (190 bits). URLs and quoted strings can hold it as it
/// is.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// A new password from the thread's generator, a stream cipher seeded by the operating system.
    #[must_use]
    pub fn generate() -> Self {
        Self(Alphanumeric.sample_string(&mut rand::rng(), LENGTH))
    }

    /// The secret.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_differ_and_stay_hidden() {
        let (one, other) = (Password::generate(), Password::generate());
        assert_ne!(one, other);
        assert_eq!(one.reveal().len(), LENGTH);
        assert!(!format!("{one:?}").contains(one.reveal()));
    }
}
