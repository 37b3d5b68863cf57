//! A private Prometheus with the project's rules, and the four calls of its API that the tests use.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use city::Client;
use private_servers::{free_port, spawn_tied};
use serde::{Deserialize, de::DeserializeOwned};
use surge::{Part, Stack};
use tempfile::TempDir;

use super::questions::Question;
use crate::{api::read, stack_support::project, support::eventually};

/// The processes that it scrapes, with their names in `observability/prometheus/prometheus.yml`.
const JOBS: [(&str, Part); 4] = [
    ("driver-management", Part::DriverManagement),
    ("ride-management", Part::RideManagement),
    ("price-optimization", Part::PriceOptimization),
    ("price-optimization-batch", Part::Batch),
];

/// A query over a few hundred series takes milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A Prometheus that runs.
#[derive(Debug)]
pub(super) struct Prometheus {
    process: Child,
    client: Client,
    url: String,
    _folder: TempDir,
}

/// The labels of a series or of an exemplar.
type Labels = BTreeMap<String, String>;

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct Found {
    result: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    value: (f64, String),
}

#[derive(Deserialize)]
struct SeriesExemplars {
    exemplars: Vec<Exemplar>,
}

#[derive(Deserialize)]
struct Exemplar {
    labels: Labels,
}

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    name: String,
    query: String,
    health: String,
    #[serde(rename = "lastError", default)]
    last_error: String,
    #[serde(default)]
    annotations: Labels,
}

impl Prometheus {
    /// Starts one that scrapes the stack every second and evaluates the rules of the project.
    pub(super) async fn start(stack: &Stack) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let settings = folder.path().join("prometheus.yml");
        fs::write(&settings, self::settings(stack)?)?;
        let port = free_port()?;
        let fetched = project().join("target/tools/prometheus");
        let program = if fetched.is_file() {
            fetched
        } else {
            "prometheus".into()
        };
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", settings.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--enable-feature=exemplar-storage", "--log.level=error"])
            .stdin(Stdio::null());
        let process = spawn_tied(command).map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow::anyhow!("prometheus is missing: ./surge test gets it"),
            _ => error.into(),
        })?;
        let prometheus = Self {
            process,
            client: Client::new(ANSWER_LIMIT),
            url: format!("http://127.0.0.1:{port}"),
            _folder: folder,
        };
        eventually("Prometheus is ready", async || {
            let answer = prometheus
                .client
                .get(&format!("{}/-/ready", prometheus.url))
                .await?;
            ensure!(answer.status.is_success(), "{}", answer.excerpt());
            Ok(())
        })
        .await?;
        Ok(prometheus)
    }

    /// The present values of an expression.
    pub(super) async fn ask(&self, expr: &str) -> anyhow::Result<Vec<f64>> {
        let found: Found = self.get("query", &[("query", expr)]).await?;
        let values = found
            .result
            .into_iter()
            .map(|sample| sample.value.1.parse());
        Ok(values.collect::<Result<_, _>>()?)
    }

    /// The labels of every series, its name among them.
    pub(super) async fn series(&self) -> anyhow::Result<Vec<Labels>> {
        self.get("series", &[("match[]", r#"{__name__!=""}"#)])
            .await
    }

    /// The exemplars of an expression.
    pub(super) async fn exemplars(&self, expr: &str) -> anyhow::Result<Vec<Labels>> {
        let span = [("query", expr), ("start", "0"), ("end", "9999999999")];
        let found: Vec<SeriesExemplars> = self.get("query_exemplars", &span).await?;
        let exemplars = found.into_iter().flat_map(|series| series.exemplars);
        Ok(exemplars.map(|exemplar| exemplar.labels).collect())
    }

    /// The queries of the rules, and the labels in their texts.
    pub(super) async fn rules(&self) -> anyhow::Result<Vec<Question>> {
        let rules = self.read_rules().await?;
        let asked = rules.into_iter().map(
            |Rule {
                 name,
                 query,
                 annotations,
                 ..
             }| {
                let words: Vec<String> = annotations.into_values().collect();
                Question::new(name, &query, &words.join(" "))
            },
        );
        Ok(asked.collect())
    }

    /// Checks that all rules were evaluated without error: a wrong matching shows only then.
    pub(super) async fn rules_are_healthy(&self) -> anyhow::Result<()> {
        let sick = |rule: &Rule| rule.health != "ok" || !rule.last_error.is_empty();
        let sick: Vec<Rule> = self.read_rules().await?.into_iter().filter(sick).collect();
        ensure!(sick.is_empty(), "{sick:#?}");
        Ok(())
    }

    async fn read_rules(&self) -> anyhow::Result<Vec<Rule>> {
        let rules: Rules = self.get("rules", &[]).await?;
        let rules: Vec<Rule> = rules
            .groups
            .into_iter()
            .flat_map(|group| group.rules)
            .collect();
        if rules.is_empty() {
            bail!("Prometheus has read no rules");
        }
        Ok(rules)
    }

    async fn get<T: DeserializeOwned>(
        &self,
        what: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<T> {
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", percent_encoded(value)))
            .collect();
        let url = format!("{}/api/v1/{what}?{}", self.url, query.join("&"));
        let answer: Answer<T> = read(self.client.get(&url).await)
            .with_context(|| format!("Prometheus, asked for {what}"))?;
        Ok(answer.data)
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // After a failed test; an error here has no remedy.
        let _ = self.end();
    }
}

fn settings(stack: &Stack) -> anyhow::Result<String> {
    let rules = project()
        .join("observability/prometheus/rules")
        .canonicalize()?;
    let jobs = JOBS.into_iter().map(|(name, part)| {
        let ports = stack.ports().of(part);
        let port = ports
            .first()
            .with_context(|| format!("{part} has no metrics"))?;
        let targets = format!("[{{targets: ['127.0.0.1:{port}']}}]");
        Ok(format!(
            "  - {{job_name: {name}, static_configs: {targets}}}\n"
        ))
    });
    let jobs: Vec<String> = jobs.collect::<anyhow::Result<_>>()?;
    Ok(format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: ['{}/*.yml']\n\
         scrape_configs:\n{}",
        rules.display(),
        jobs.concat()
    ))
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric();
    text.bytes()
        .map(|byte| match plain(&byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}
