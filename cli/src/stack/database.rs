//! Prepares the private PostgreSQL: the database, and a role and a schema for each service.

use anyhow::Context as _;
use private_servers::{Password, Postgres};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::Part;

/// The database of the suite.
pub(super) const DATABASE: &str = "surge";

/// The file that prepares the PostgreSQL of every deployment.
const ROLES: &str = include_str!("../../../services/roles.sql");

/// One login per service.
#[derive(Debug)]
pub(super) struct Logins([Login; 3]);

#[derive(Debug)]
struct Login {
    service: Part,
    role: &'static str,
    password: Password,
}

impl Logins {
    pub(super) fn generate() -> Self {
        let login = |service, role| Login {
            service,
            role,
            password: Password::generate(),
        };
        Self([
            login(Part::DriverManagement, "driver_management"),
            login(Part::RideManagement, "ride_management"),
            login(Part::PriceOptimization, "price_optimization"),
        ])
    }

    /// Makes the database, its schemas and roles.
    pub(super) async fn create(&self, postgres: &Postgres) -> anyhow::Result<()> {
        self.run(postgres)
            .await
            .context("cannot prepare the private PostgreSQL")
    }

    async fn run(&self, postgres: &Postgres) -> sqlx::Result<()> {
        let mut admin = PgConnection::connect(&postgres.admin_url()).await?;
        let database = AssertSqlSafe(format!("CREATE DATABASE {DATABASE}"));
        sqlx::raw_sql(database).execute(&mut admin).await?;
        admin.close().await?;

        let mut admin = PgConnection::connect(&postgres.admin_url_of(DATABASE)).await?;
        sqlx::raw_sql(ROLES).execute(&mut admin).await?;
        let passwords = AssertSqlSafe(self.passwords());
        sqlx::raw_sql(passwords).execute(&mut admin).await?;
        admin.close().await
    }

    /// Generated passwords have letters and digits only and need no quoting.
    fn passwords(&self) -> String {
        let set = |login: &Login| {
            format!(
                "ALTER ROLE {} PASSWORD '{}';",
                login.role,
                login.password.reveal()
            )
        };
        self.0.iter().map(set).collect()
    }

    /// Connection URL of a service; the batch job uses that of price-optimization.
    pub(super) fn url(&self, postgres: &Postgres, part: Part) -> Option<String> {
        let service = match part {
            Part::Batch => Part::PriceOptimization,
            other => other,
        };
        let login = self.0.iter().find(|login| login.service == service)?;
        Some(postgres.url(login.role, &login.password, DATABASE))
    }
}
