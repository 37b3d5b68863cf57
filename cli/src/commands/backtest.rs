//! `surge backtest`: scores the forecasting methods on recorded pickups, so that figures judge a
//! change to the forecast.

use std::process::ExitCode;

use anyhow::Context as _;
use compare::whole_file;
use marketplace::backtest::{self, BacktestReport, BacktestSettings, Method, Scores};

use crate::{
    cli::BacktestArgs,
    terminal::{align_numbers, say, table},
    training::read_pickups,
};

pub(crate) fn run(args: &BacktestArgs) -> anyhow::Result<ExitCode> {
    let train = read_pickups(&args.train)?;
    let test = read_pickups(&args.test)?;
    let settings = BacktestSettings {
        base: args.base.clone(),
        resolution: args.resolution,
        window: args.window,
        ..BacktestSettings::default()
    };
    let report = backtest::run(&train, &test, &settings)?;
    if let Some(path) = &args.json {
        let mut json = serde_json::to_vec_pretty(&report)?;
        json.push(b'\n');
        whole_file::replace(path, &json)?;
    }
    print(&report, args)
}

fn print(report: &BacktestReport, args: &BacktestArgs) -> anyhow::Result<ExitCode> {
    say(format_args!(
        "Pickups of base {} in {} zones, forecast one window of {} ahead, {} windows",
        args.base,
        report.zones,
        humantime::format_duration(args.window),
        report.windows
    ))?;
    let mut scores = table(["method", "pdev", "pdev_top20", "mae", "wape", "bias"]);
    for method in Method::ALL {
        let of_method = report
            .methods
            .get(&method)
            .with_context(|| format!("{method:?} was not scored"))?;
        scores.add_row(row(method, of_method)?);
    }
    align_numbers(&mut scores);
    say(scores)?;
    say(
        "Lower is better; bias is better near 0. Judge by pdev, the Poisson deviance: most windows \
         are empty.",
    )?;
    if let Some(path) = &args.json {
        say(format_args!("JSON: {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(method: Method, scores: &Scores) -> anyhow::Result<[String; 6]> {
    let name = serde_json::to_value(method)?;
    let name = name.as_str().context("a method has a name")?;
    let figure = |figure: f64| format!("{figure:.4}");
    Ok([
        name.to_owned(),
        figure(scores.pdev),
        figure(scores.pdev_top20),
        figure(scores.mae),
        figure(scores.wape),
        format!("{:+.4}", scores.bias),
    ])
}
