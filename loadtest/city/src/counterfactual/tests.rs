//! Does an evening come out as it was calibrated, and does age cost what it was found to cost?

use std::path::Path;
use std::time::Duration;

use marketplace::{Bounds, DemandProfile, MarketTime};

use super::*;
use crate::pickups;
use crate::{Crowd, DEFAULT_FLEET};

fn at(time: &str) -> MarketTime {
    format!("2014-04-04T{time}:00-04:00").parse().unwrap()
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// The bundled evening, of which the riders between these times of day are scored.
fn evening(from: &str, until: &str) -> OfflineSimulation {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    let profile = std::fs::read(data.join("demand-profile.json")).unwrap();
    let profile: DemandProfile = serde_json::from_slice(&profile).unwrap();
    let record = pickups::read(data.join("uber-pickups-2014-04-04-evening.csv.gz")).unwrap();
    let scored = at(from)..at(until);
    OfflineSimulation::new(Bounds::NEW_YORK, profile, &record, DEFAULT_FLEET, scored).unwrap()
}

#[test]
fn early_evening_is_short_of_cars() {
    let score = evening("17:00", "19:00").population(1).run(Pricing::FRESH);
    let share = |part: u64| part as f64 / score.quotes as f64;
    assert!(score.quotes > 1_400, "{score:?}");
    assert!((0.07..0.13).contains(&share(score.priced_out)), "{score:?}");
    assert!((0.15..0.25).contains(&share(score.unserved)), "{score:?}");
    let multiplier = score.mean_multiplier().unwrap();
    assert!((1.15..1.35).contains(&multiplier), "{score:?}");
    assert_eq!(score.mean_multiplier_error(), Some(0.0));
    assert_eq!(score.quotes, score.requests + score.priced_out);
    assert_eq!(score.requests, score.completed + score.unserved);
}

#[test]
fn same_seed_repeats_the_whole_run() {
    let quarter_of_an_hour = evening("17:30", "17:45");
    let pricing = Pricing::Delayed(minutes(5));
    let score = |seed| quarter_of_an_hour.population(seed).run(pricing);
    assert_eq!(score(1), score(1));
    assert_ne!(score(1), score(2));
}

/// Runs of one seed have the riders in common, and nothing else.
#[test]
fn quotes_do_not_change_the_riders() {
    let half_an_hour = evening("17:30", "18:00");
    let fresh = half_an_hour.population(1).run(Pricing::FRESH);
    let unsurged = half_an_hour.population(1).run(Pricing::WithoutSurge);
    assert_eq!(fresh.quotes, unsurged.quotes);
    assert_eq!(unsurged.requests, unsurged.quotes);
    assert!(fresh.requests < unsurged.requests);
    assert_eq!(unsurged.mean_multiplier(), Some(1.0));
}

#[test]
fn older_data_makes_more_wrong_prices() {
    let rush = evening("17:30", "18:15").population(1);
    let off = |pricing| {
        let score = rush.run(pricing);
        (
            score.mean_multiplier_error().unwrap(),
            score.share_off_by_0_2().unwrap(),
        )
    };
    let ten_seconds = off(Pricing::Delayed(Duration::from_secs(10)));
    let five_minutes = off(Pricing::Delayed(minutes(5)));
    let batch = off(Pricing::Batch(minutes(5)));
    let without = off(Pricing::WithoutSurge);
    assert!(
        ten_seconds.0 < 0.04 && ten_seconds.1 < 0.05,
        "{ten_seconds:?}"
    );
    assert!((0.05..0.25).contains(&five_minutes.0), "{five_minutes:?}");
    assert!((0.15..0.60).contains(&five_minutes.1), "{five_minutes:?}");
    assert!(ten_seconds < batch && batch < five_minutes, "{batch:?}");
    assert!(five_minutes < without, "{without:?}");
}

#[test]
fn crowds_and_outages_count_while_they_last() {
    let crowd = Crowd {
        place: marketplace::Position::new(40.7505, -73.9934).unwrap(),
        starts_at: at("17:35"),
        riders: 60,
        within: minutes(10),
    };
    let calm = evening("17:30", "17:50");
    let crowded = calm.clone().with_crowds(vec![crowd]);
    let quotes = |evening: &OfflineSimulation, pricing| evening.population(1).run(pricing).quotes;
    let riders = quotes(&calm, Pricing::FRESH);
    assert_eq!(quotes(&crowded, Pricing::FRESH), riders + 60);

    let outage = |from, length| Pricing::Outage {
        from: at(from),
        length,
    };
    let unharmed = calm.population(1).run(outage("18:00", minutes(26)));
    assert_eq!(unharmed, calm.population(1).run(Pricing::FRESH));
    let harmed = calm.population(1).run(outage("17:30", minutes(26)));
    assert_eq!(harmed.mean_multiplier(), Some(1.0));
    assert_eq!(harmed.priced_out, 0);
}
