//! The command lines of our processes, as clap defines them.

use clap::{Command, CommandFactory as _};

/// The program that the arguments of the image start, and the arguments of that program.
pub(crate) fn program<'a>(words: &'a [&'a str]) -> (Command, &'a [&'a str]) {
    let ["service", name, more @ ..] = words else {
        panic!("not one of our processes: {words:?}");
    };
    match (*name, more) {
        (_, ["migrate", more @ ..]) => (platform::schema::JobConfig::command(), more),
        ("driver-management", more) => (driver_management::Config::command(), more),
        ("ride-management", more) => (ride_management::Config::command(), more),
        ("price-optimization", ["batch", more @ ..]) => {
            (price_optimization::config::BatchConfig::command(), more)
        }
        ("price-optimization", more) => (price_optimization::config::Config::command(), more),
        _ => panic!("not one of our processes: {words:?}"),
    }
}

/// The flag of this variable.
pub(crate) fn flag_of(program: &Command, variable: &str) -> Option<String> {
    let mut arguments = program.get_arguments();
    let argument =
        arguments.find(|argument| argument.get_env().is_some_and(|env| env == variable))?;
    Some(argument.get_long()?.to_owned())
}
