//! The floor of `database`: one indexed read of seven rows.

use std::time::Duration;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use private_servers::{Postgres, PostgresSettings};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;

use crate::http::{FloorQuote, FloorTrip, with_livez};
use crate::rpc::ZONES;

/// As many as price-optimization has, by default (`DATABASE_CONNECTIONS`).
const CONNECTIONS: u32 = 6;

/// It listens on this machine, or does not.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// The table has as many rows as the service area has zones, and the columns of
/// `pricing.zone_market`.
const TABLE: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS surge_floor (
        zone text PRIMARY KEY, supply double precision, supply_as_of timestamptz,
        demand double precision, demand_as_of timestamptz, traceparent text)",
    "INSERT INTO surge_floor
        SELECT zone, 7.0, now(), 12.443506421359249, now(),
            '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
        FROM (SELECT unnest($1::text[])
            UNION SELECT 'zone ' || number FROM generate_series(1, 41) number) AS zones(zone)
        ON CONFLICT DO NOTHING",
];

/// A PostgreSQL with the table in it, and the pool that reads it.
pub(crate) struct Database {
    pool: PgPool,
    private: Option<(Postgres, TempDir)>,
}

impl Database {
    /// Connects to `url`, or starts a private server.
    pub(crate) async fn open(url: Option<String>) -> anyhow::Result<Self> {
        let private = match url {
            Some(_) => None,
            None => Some(start_private().await?),
        };
        let url = url.or_else(|| private.as_ref().map(|(server, _)| server.admin_url()));
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT_LIMIT)
            .test_before_acquire(false)
            .connect(&url.unwrap_or_default())
            .await
            .context("the database of the floor cannot be reached")?;
        make_table(&pool).await?;
        Ok(Self { pool, private })
    }

    pub(crate) fn pool(&self) -> PgPool {
        self.pool.clone()
    }

    /// Ends a private server.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.pool.close().await;
        if let Some((server, folder)) = self.private {
            server.stop().await?;
            folder.close()?;
        }
        Ok(())
    }
}

async fn start_private() -> anyhow::Result<(Postgres, TempDir)> {
    let folder = tempfile::tempdir()?;
    let settings = PostgresSettings {
        base_dir: folder.path().to_owned(),
        ..PostgresSettings::default()
    };
    Ok((Postgres::start(settings).await?, folder))
}

async fn make_table(pool: &PgPool) -> anyhow::Result<()> {
    let [create, fill] = TABLE;
    sqlx::query(create).execute(pool).await?;
    sqlx::query(fill)
        .bind(ZONES.map(str::to_owned).to_vec())
        .execute(pool)
        .await?;
    Ok(())
}

/// A quote after a read.
pub(crate) fn router(pool: PgPool) -> Router {
    with_livez(
        Router::new()
            .route("/v1/quotes", post(quote))
            .with_state(pool),
    )
}

/// A row of the table.
type FloorRow = (
    String,
    Option<f64>,
    Option<DateTime<Utc>>,
    Option<f64>,
    Option<DateTime<Utc>>,
    Option<String>,
);

async fn quote(
    State(pool): State<PgPool>,
    headers: HeaderMap,
    Json(trip): Json<FloorTrip>,
) -> Result<Json<FloorQuote>, StatusCode> {
    let rows: Vec<FloorRow> = sqlx::query_as(
        "SELECT zone, supply, supply_as_of, demand, demand_as_of, traceparent
         FROM surge_floor WHERE zone = ANY($1)",
    )
    .bind(ZONES.map(str::to_owned).to_vec())
    .fetch_all(&pool)
    .await
    .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let levels = rows.first().and_then(|row| row.1.zip(row.3));
    let (supply, demand) = levels.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(Json(FloorQuote::of(&headers, &trip, supply, demand)))
}

#[cfg(test)]
mod tests {
    use crate::http::tests::answer_of;

    use super::*;

    #[tokio::test]
    async fn quote_reads_a_row_by_index() {
        let database = Database::open(None).await.unwrap();
        let quote = answer_of(router(database.pool())).await.unwrap();
        assert_eq!(quote["supply"], 7.0);
        let rows = sqlx::query("SELECT FROM surge_floor WHERE zone = ANY($1)")
            .bind(ZONES.map(str::to_owned).to_vec())
            .fetch_all(&database.pool())
            .await
            .unwrap();
        assert_eq!(rows.len(), ZONES.len());
        database.close().await.unwrap();
    }

    #[tokio::test]
    async fn missing_database_is_named() {
        let refused = Database::open(Some("postgres://nobody@127.0.0.1:1/none".to_owned())).await;
        let reason = refused.err().unwrap().to_string();
        assert!(reason.contains("database of the floor"), "{reason}");
    }
}
