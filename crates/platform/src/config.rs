//! Configuration comes from the environment (or flags of the same names), is read once, and a
//! mistake in it stops the start with one line that names the variable.

use std::{fs, io, ops::RangeInclusive, path::Path, time::Duration};

use clap::{
    CommandFactory, Parser,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};
use serde::de::DeserializeOwned;
use strict_serde::Strict;

/// Exit code for a command line or an environment that makes no sense (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: u8 = 64;

/// The reason why a process has no configuration.
#[derive(Debug)]
pub enum Refused {
    /// The user asked for help or the version: print this and end well.
    Informed(String),
    /// One line that names the variable and what is wrong with it.
    Mistake(String),
}

/// Reads `C` from the process's arguments and environment.
///
/// # Errors
/// See [`Refused`].
pub fn parse<C: Parser>(arguments: impl IntoIterator<Item = String>) -> Result<C, Refused> {
    C::try_parse_from(arguments).map_err(|error| refused::<C>(&error))
}

/// A value parser for a duration such as `250ms` within bounds.
pub fn duration_within(
    bounds: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| match humantime::parse_duration(text) {
        Ok(duration) if bounds.contains(&duration) => Ok(duration),
        _ => {
            let [least, most] =
                [bounds.start(), bounds.end()].map(|bound| humantime::format_duration(*bound));
            Err(format!(
                "must be a duration from {least} to {most}, such as {most}"
            ))
        }
    }
}

/// Reads the JSON file at `path`, which the setting `variable` names.
///
/// # Errors
/// When there is no such file, or its content is not a `T`; the message names the variable.
pub fn read_json<T: DeserializeOwned>(variable: &str, path: &Path) -> io::Result<T> {
    let read = || -> io::Result<T> {
        let Strict(value) = serde_json::from_slice(&fs::read(path)?)?;
        Ok(value)
    };
    read().map_err(|cause| {
        let message = format!("{variable}={} cannot be used: {cause}", path.display());
        io::Error::new(cause.kind(), message)
    })
}

fn refused<C: CommandFactory>(error: &Error) -> Refused {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Refused::Informed(error.to_string()),
        ErrorKind::MissingRequiredArgument => Refused::Mistake(format!(
            "{} is missing: set it in the environment (--help lists every variable)",
            named::<C>(error)
        )),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => Refused::Mistake(format!(
            "{} is wrong: {}",
            named::<C>(error),
            complaint(error)
        )),
        _ => Refused::Mistake(first_line(error)),
    }
}

/// The environment variables behind the arguments that `error` is about.
fn named<C: CommandFactory>(error: &Error) -> String {
    let arguments = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => vec![argument.clone()],
        Some(ContextValue::Strings(arguments)) => arguments.clone(),
        _ => return "an argument".to_owned(),
    };
    let command = C::command();
    let variables = arguments.iter().map(|argument| {
        let flag = argument.trim_start_matches('-');
        let flag = flag.split([' ', '=']).next().unwrap_or(flag);
        command
            .get_arguments()
            .find(|known| known.get_long() == Some(flag))
            .and_then(|known| known.get_env())
            .map_or_else(
                || argument.clone(),
                |env| env.to_string_lossy().into_owned(),
            )
    });
    variables.collect::<Vec<_>>().join(", ")
}

/// The complaint about a value, without the value.
fn complaint(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(
        || "not one of its values (--help lists them)".to_owned(),
        ToString::to_string,
    )
}

fn first_line(error: &Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Config {
        #[arg(long, env = "PLATFORM_TEST_URL_THAT_NOBODY_SETS")]
        url: String,
        #[arg(long, env = "PLATFORM_TEST_PORT_THAT_NOBODY_SETS", default_value_t = 1)]
        port: u16,
    }

    fn mistake(arguments: &[&str]) -> String {
        let arguments = arguments.iter().map(ToString::to_string);
        match parse::<Config>(arguments) {
            Err(Refused::Mistake(line)) => line,
            other => panic!("expected a mistake, got {other:?}"),
        }
    }

    #[test]
    fn missing_variable_is_named_in_one_line() {
        let line = mistake(&["service"]);
        assert!(
            line.starts_with("PLATFORM_TEST_URL_THAT_NOBODY_SETS is missing"),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn wrong_variable_is_named_in_one_line() {
        let line = mistake(&["service", "--url", "x", "--port", "many"]);
        assert!(
            line.starts_with("PLATFORM_TEST_PORT_THAT_NOBODY_SETS is wrong"),
            "{line}"
        );
        assert!(!line.contains("many"), "a value may be a secret: {line}");
        assert_eq!(line.lines().count(), 1);
    }
}
