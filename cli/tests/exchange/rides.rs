//! A ride, from a driver who goes online to a driver who is idle again; and requests that get none.

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use http::StatusCode;
use marketplace::{DriverStatus, Zone};
use std::collections::BTreeSet;
use surge::Part;
use uuid::Uuid;

use crate::{
    api::{Quote, Ride, Trip, crosstown, downtown, grand_central, read_problem, wall_street},
    support::{Exchange, Market, Outcome, eventually},
};

#[tokio::test]
async fn ride_goes_from_quote_to_completion() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let api = &exchange.api;
    let uptown = Zone::at(grand_central());

    let driver_id = api.goes_online(wall_street()).await?;
    ensure!(api.supply(uptown).await?.idle_drivers == 0);
    api.moves(driver_id, grand_central()).await?;
    ensure!(api.supply(uptown).await?.idle_drivers == 1);

    let (rider_id, trip) = (Uuid::now_v7(), downtown());
    let quote = api.quote(trip, None).await?;
    ensure!(quote.zone == uptown, "{quote:?}");
    let ride = api.request_ride(rider_id, &quote, trip).await?;
    ensure!(ride.rider_id == rider_id, "{ride:?}");
    keeps_the_promise(&ride, &quote)?;
    let again = api.request_ride(rider_id, &quote, trip).await?;
    ensure!(again.ride_id == ride.ride_id, "one request, two rides");

    let ride_id = ride.ride_id;
    let matched = eventually("a driver is sent", async || {
        api.ride_in("matched", ride_id).await
    });
    ensure!(matched.await?.driver_id == Some(driver_id));
    ensure!(api.supply(uptown).await?.idle_drivers == 0);

    let on_trip = api.report(driver_id, DriverStatus::OnTrip, trip.pickup);
    ensure!(on_trip.await?.ride_id == Some(ride_id));
    eventually("the rider is in the car", async || {
        api.ride_in("picked_up", ride_id).await
    })
    .await?;

    let idle = api
        .report(driver_id, DriverStatus::Idle, trip.dropoff)
        .await?;
    ensure!(idle.status == DriverStatus::Idle && idle.ride_id.is_none());
    let completed = eventually("the ride is completed", async || {
        api.ride_in("completed", ride_id).await
    });
    keeps_the_promise(&completed.await?, &quote)?;
    ensure!(api.supply(Zone::at(trip.dropoff)).await?.idle_drivers == 1);
    exchange.close().await
}

#[tokio::test]
async fn wrong_quote_gives_no_ride() -> Outcome {
    let exchange = Exchange::open(Market::FAST).await?;
    let driver = exchange.api.goes_online(grand_central()).await?;
    let trip = downtown();
    let quote = exchange.api.quote(trip, None).await?;

    let (status, field) = refused(&exchange, &tampered(&quote.token), trip).await?;
    ensure!((status, field.as_deref()) == (StatusCode::BAD_REQUEST, Some("quote")));
    let (status, _) = refused(&exchange, &quote.token, crosstown()).await?;
    ensure!(status == StatusCode::CONFLICT, "for another trip: {status}");

    eventually("the quote has expired", async || {
        let now = exchange
            .api
            .readiness(Part::RideManagement)
            .await?
            .market_now();
        ensure!(now >= quote.expires_at, "it is {now}");
        Ok(())
    })
    .await?;
    let (status, _) = refused(&exchange, &quote.token, trip).await?;
    ensure!(status == StatusCode::CONFLICT, "expired: {status}");

    // At this speed a driver falls silent within seconds.
    exchange.api.moves(driver, grand_central()).await?;
    let supply = exchange.api.supply(Zone::at(trip.pickup)).await?;
    ensure!(supply.idle_drivers == 1, "a refused request sent a driver");
    exchange.close().await
}

#[tokio::test]
async fn two_riders_never_get_the_same_driver() -> Outcome {
    const DRIVERS: usize = 5;
    const RIDERS: usize = 16;
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let api = &exchange.api;
    let mut drivers = BTreeSet::new();
    for _ in 0..DRIVERS {
        drivers.insert(api.goes_online(grand_central()).await?);
    }
    let quotes = try_join_all((0..RIDERS).map(|_| api.quote(downtown(), None))).await?;

    let requests = quotes
        .iter()
        .map(|quote| api.insists_on_ride(quote, downtown()));
    let rides = try_join_all(requests).await?;
    let decided = rides.iter().map(|ride| decision(&exchange, ride.ride_id));
    let rides = try_join_all(decided).await?;

    let sent: Vec<Uuid> = rides.iter().filter_map(|ride| ride.driver_id).collect();
    let different: BTreeSet<Uuid> = sent.iter().copied().collect();
    ensure!(different.len() == sent.len(), "sent twice: {sent:?}");
    ensure!(different == drivers, "some drivers were not sent: {sent:?}");
    let unserved = rides.iter().filter(|ride| ride.state == "unserved");
    ensure!(unserved.count() == RIDERS - DRIVERS);
    exchange.close().await
}

/// Waits until the ride is matched or unserved.
async fn decision(exchange: &Exchange, ride_id: Uuid) -> anyhow::Result<Ride> {
    eventually("the ride is decided", async || {
        let ride = exchange.api.ride(ride_id).await?;
        ensure!(ride.state != "requested", "{ride:?}");
        Ok(ride)
    })
    .await
}

fn keeps_the_promise(ride: &Ride, quote: &Quote) -> Outcome {
    let ridden = (ride.quote_id, ride.fare_cents, ride.surge_multiplier);
    let promised = (quote.quote_id, quote.fare_cents, quote.surge_multiplier);
    ensure!(ridden == promised, "{ride:?} for {quote:?}");
    Ok(())
}

async fn refused(
    exchange: &Exchange,
    token: &str,
    trip: Trip,
) -> anyhow::Result<(StatusCode, Option<String>)> {
    let answer = exchange.api.ask_ride(Uuid::now_v7(), token, trip).await;
    let problem = read_problem(answer).context("the token was not refused")?;
    Ok((StatusCode::from_u16(problem.status)?, problem.field))
}

/// The token with one character in its middle changed.
fn tampered(token: &str) -> String {
    let (kept, rest) = token.split_at(token.len() / 2);
    let other = if rest.starts_with('A') { 'B' } else { 'A' };
    format!("{kept}{other}{}", &rest[1..])
}
