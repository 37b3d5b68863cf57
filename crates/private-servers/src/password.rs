//! Generated passwords that cannot be printed by accident.
//!
//! They travel by private file or connection URL only: a command line is readable by every user of
//! the machine.

use std::fmt;

use rand::{distr::Alphanumeric, distr::SampleString as _};

const LENGTH: usize = 32;

/// A random password of 32 letters and digits (190 bits), safe to put in URLs and quoted strings as
/// it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Draws a new password from the thread's generator, a stream cipher seeded by the operating
    /// system.
    #[must_use]
    pub fn generate() -> Self {
        Self(Alphanumeric.sample_string(&mut rand::rng(), LENGTH))
    }

    /// The secret itself, for the one place that sends it.
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
    fn two_passwords_differ_and_neither_shows_in_debug_output() {
        let (one, other) = (Password::generate(), Password::generate());
        assert_ne!(one, other);
        assert_eq!(one.reveal().len(), LENGTH);
        assert!(!format!("{one:?}").contains(one.reveal()));
    }
}
