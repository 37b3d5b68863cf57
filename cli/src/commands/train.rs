//! `surge train`: makes the demand profile.

use std::process::ExitCode;

use compare::whole_file;

use crate::{
    cli::TrainArgs,
    terminal::{new_york, say},
    training,
};

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    let pickups = training::read_pickups(&args.pickups)?;
    let profile = training::train(&pickups, args.until)?;
    whole_file::replace(&args.out, training::file_text(&profile)?.as_bytes())?;
    say(format_args!(
        "{}: the expected requests of {} zones, from the pickups before {} New York time",
        args.out.display(),
        profile.zones().len(),
        new_york(args.until)
    ))?;
    Ok(ExitCode::SUCCESS)
}
