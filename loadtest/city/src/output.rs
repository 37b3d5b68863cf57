//! The one way in which commands print. Results go to standard output, and one that cannot be
//! printed is an error; progress and errors go to standard error, and are lost if they cannot be
//! printed. Colours appear on a terminal only.
//!
//! The macros of the standard library panic on a full disk and on a closed pipe.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// A result that could not be printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot print the result: {0}")]
pub struct NotPrinted(#[from] io::Error);

impl NotPrinted {
    /// Whether the reader has had enough, as `head` has: no reason for a message.
    pub fn is_closed_pipe(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

/// A line of the result.
///
/// # Errors
/// When it cannot be printed.
pub fn say(text: impl Display) -> Result<(), NotPrinted> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// A line on the way to the result.
pub fn note(text: impl Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// The message of an error that ends the command; none if that is a closed pipe.
pub fn message(error: &anyhow::Error) -> Option<String> {
    let closed = error.downcast_ref().is_some_and(NotPrinted::is_closed_pipe);
    (!closed).then(|| format!("{error:#}"))
}

/// Ends the process with the help, or with a mistake in the command line.
pub fn leave(refused: &clap::Error) -> ! {
    let printed = refused.print().and_then(|()| io::stdout().flush());
    let code = match printed.map_err(|error| NotPrinted(error).into()) {
        Ok(()) => refused.exit_code(),
        Err(error) => {
            message(&error).into_iter().for_each(note);
            1
        }
    };
    std::process::exit(code)
}
