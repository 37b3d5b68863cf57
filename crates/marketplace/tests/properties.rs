//! Properties of every price, checked on random markets: each test is named after one.
//!
//! The three dataflows, the services and the comparison depend on them. The worked examples are
//! beside the code in `src`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::LazyLock;
use std::time::Duration;

use marketplace::surge::{driver_reserve, full_reserve, multiplier, smooth, target};
use marketplace::{
    Bounds, FareSchedule, Level, LevelBoard, MarketTime, MarketView, Multiplier, Position,
    PricingPolicy, Quote, QuoteRefusal, ServiceArea, SurgePolicy, Trip, Zone, ZoneLevels, price,
};
use proptest::prelude::*;

const NOW: MarketTime = MarketTime::from_millis(1_396_641_600_000);

/// Rounding in the last bits, far below anything that a price could show.
const EPSILON: f64 = 1e-9;

proptest! {
    #[test]
    fn multiplier_lies_between_one_and_cap(view in markets(0.0..1e9), cap in 10_u16..60) {
        let cap = Multiplier::from_tenths(cap).unwrap();
        let policy = SurgePolicy { cap, ..SurgePolicy::default() };
        let shown = multiplier(&view, &policy).unwrap();
        prop_assert!(Multiplier::ONE <= shown && shown <= policy.cap);
    }

    #[test]
    fn emergency_cap_limits_every_price(view in markets(0.0..100.0), cap in 10_u16..60) {
        let emergency_cap = Multiplier::from_tenths(cap).unwrap();
        let policy = SurgePolicy { emergency_cap: Some(emergency_cap), ..SurgePolicy::default() };
        prop_assert!(multiplier(&view, &policy).unwrap() <= emergency_cap.min(policy.cap));
    }

    #[test]
    fn more_demand_never_lowers_the_price(
        view in markets(0.0..50.0),
        which in any::<prop::sample::Index>(),
        more in 0.0..50.0,
    ) {
        let busier = with_more(&view, which.index(view.zones.len()), 0.0, more);
        prop_assert!(target_of(&busier) >= target_of(&view) - EPSILON);
    }

    #[test]
    fn more_supply_never_raises_the_price(
        view in markets(0.0..50.0),
        which in any::<prop::sample::Index>(),
        more in 0.0..50.0,
    ) {
        let better_served = with_more(&view, which.index(view.zones.len()), more, 0.0);
        prop_assert!(target_of(&better_served) <= target_of(&view) + EPSILON);
    }

    #[test]
    fn no_demand_gives_no_surge(supplies in prop::collection::vec(0.0..1e6, 1..8)) {
        let quiet: Vec<_> = supplies.into_iter().map(|supply| (supply, 0.0)).collect();
        prop_assert_eq!(shown(&market(&quiet)), Multiplier::ONE);
    }

    #[test]
    fn endless_supply_gives_no_surge(demands in prop::collection::vec(0.0..1e3, 1..8)) {
        let served: Vec<_> = demands.into_iter().map(|demand| (1e12, demand)).collect();
        prop_assert_eq!(shown(&market(&served)), Multiplier::ONE);
    }

    #[test]
    fn smoothing_keeps_a_constant_field(
        value in 0.0..1e6,
        neighbours in 0_usize..7,
        weight in 0.0..=1.0,
    ) {
        let smoothed = smooth(value, &mut vec![value; neighbours], weight);
        prop_assert!((smoothed - value).abs() <= EPSILON * value);
    }

    #[test]
    fn smoothing_stays_between_least_and_greatest(
        values in prop::collection::vec(0.0..1e6, 1..8),
        weight in 0.0..=1.0,
    ) {
        let mut values = values;
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = values.iter().copied().fold(0.0, f64::max);
        let smoothed = smooth(values[0], &mut values[1..], weight);
        prop_assert!(least * (1.0 - EPSILON) <= smoothed && smoothed <= greatest * (1.0 + EPSILON));
    }

    #[test]
    fn reserve_exceeds_neither_demand_nor_limit(demand in 0.0..1e6) {
        let policy = SurgePolicy::default();
        let reserve = driver_reserve(demand, &policy);
        prop_assert!(0.0 <= reserve && reserve <= demand * (1.0 + EPSILON));
        prop_assert!(reserve <= full_reserve(&policy));
    }

    #[test]
    fn faster_streets_need_a_smaller_reserve(mph in 1.0..60.0, faster in 0.1..30.0) {
        let slow = SurgePolicy { pickup_mph: mph, ..SurgePolicy::default() };
        let fast = SurgePolicy { pickup_mph: mph + faster, ..SurgePolicy::default() };
        prop_assert!(full_reserve(&fast) < full_reserve(&slow));
    }

    #[test]
    fn longer_pickup_target_never_raises_price(
        view in markets(0.0..50.0),
        minutes in 1.0..10.0,
        longer in 0.0..10.0,
    ) {
        let target_within = |target_pickup_minutes| {
            target(&view, &SurgePolicy { target_pickup_minutes, ..SurgePolicy::default() }).unwrap()
        };
        prop_assert!(target_within(minutes + longer) <= target_within(minutes) + EPSILON);
    }

    #[test]
    fn fare_grows_with_multiplier_miles_minutes(
        (tenths, more_tenths) in (10_u16..40, 0_u16..20),
        (miles, more_miles) in (0.0..50.0, 0.0..50.0),
        (minutes, more_minutes) in (0.0..200.0, 0.0..200.0),
    ) {
        let fares = FareSchedule::default();
        let fare = |tenths, miles, minutes| {
            fares.fare_cents(&Trip { miles, minutes }, Multiplier::from_tenths(tenths).unwrap())
        };
        let least = fare(tenths, miles, minutes);
        prop_assert!(fare(tenths + more_tenths, miles, minutes) >= least);
        prop_assert!(fare(tenths, miles + more_miles, minutes) >= least);
        prop_assert!(fare(tenths, miles, minutes + more_minutes) >= least);
    }

    #[test]
    fn fare_reaches_the_surged_minimum(
        tenths in 10_u16..40,
        miles in 0.0..5.0,
        minutes in 0.0..30.0,
    ) {
        let fares = FareSchedule::default();
        let multiplier = Multiplier::from_tenths(tenths).unwrap();
        let fare = fares.fare_cents(&Trip { miles, minutes }, multiplier);
        prop_assert!(fare * 10 >= i64::from(fares.minimum_cents) * i64::from(tenths));
    }

    #[test]
    fn quote_holds_for_exactly_its_lifetime(age_ms in 0_i64..300_000) {
        let quote = quote_for_two_minutes();
        let later = NOW + Duration::from_millis(age_ms as u64);
        let redeemed = quote.redeem(later, quote.pickup, quote.dropoff);
        let expected = if age_ms < 120_000 { Ok(()) } else { Err(QuoteRefusal::Expired) };
        prop_assert_eq!(redeemed, expected);
    }

    #[test]
    fn levels_may_arrive_unordered_and_twice((in_order, shuffled) in messages()) {
        let board = |messages: &[Message]| {
            let mut board = LevelBoard::new(&AREA);
            messages.iter().for_each(|message| message.arrive(&mut board));
            board
        };
        let twice: Vec<Message> = [shuffled.clone(), in_order.clone()].concat();
        prop_assert_eq!(board(&shuffled), board(&in_order));
        prop_assert_eq!(board(&twice), board(&in_order));
    }

    #[test]
    fn order_of_neighbours_does_not_matter(
        (view, shuffled) in markets(0.0..50.0).prop_flat_map(with_shuffled_neighbours),
    ) {
        prop_assert_eq!(target_of(&view).to_bits(), target_of(&shuffled).to_bits());
    }

    #[test]
    fn missing_level_gives_degraded_price(
        view in markets(0.0..50.0),
        which in any::<prop::sample::Index>(),
        demand in any::<bool>(),
    ) {
        let mut view = view;
        let index = which.index(view.zones.len());
        let zone = &mut view.zones[index];
        if demand { zone.demand = None } else { zone.supply = None }
        let price = price(&view, &a_trip(), &PricingPolicy::default(), NOW);
        prop_assert!(price.degraded && price.data_age.is_none());
        prop_assert_eq!(price.multiplier, Multiplier::ONE);
    }

    #[test]
    fn future_level_counts_as_missing(
        view in markets(0.0..50.0),
        which in any::<prop::sample::Index>(),
        demand in any::<bool>(),
        ahead_ms in 60_001_u64..86_400_000,
    ) {
        let with = |level: Option<Level>| {
            let mut view = view.clone();
            let index = which.index(view.zones.len());
            let zone = &mut view.zones[index];
            if demand { zone.demand = level } else { zone.supply = level }
            price(&view, &a_trip(), &PricingPolicy::default(), NOW)
        };
        let as_of = NOW + Duration::from_millis(ahead_ms);
        prop_assert_eq!(with(Some(Level { value: 9.0, as_of })), with(None));
    }

    #[test]
    fn age_changes_mark_but_not_arithmetic(
        view in markets(0.0..50.0),
        age_seconds in 0_u64..3600,
    ) {
        let policy = PricingPolicy::default();
        let fresh = price(&view, &a_trip(), &policy, NOW);
        let aged = price(&view, &a_trip(), &policy, NOW + Duration::from_secs(age_seconds));
        prop_assert_eq!(aged.data_age, Some(Duration::from_secs(age_seconds)));
        prop_assert_eq!(aged.degraded, age_seconds > 15 * 60);
        if !aged.degraded {
            prop_assert_eq!(aged.multiplier, fresh.multiplier);
            prop_assert_eq!(aged.fare_cents, fresh.fare_cents);
        }
    }
}

#[test]
fn multiplier_is_finite_for_extreme_levels() {
    let policy = SurgePolicy::default();
    for (supply, demand) in [
        (0.0, 0.0),
        (0.0, f64::MAX),
        (f64::MAX, 0.0),
        (f64::MAX, f64::MAX),
    ] {
        let shown = multiplier(&market(&[(supply, demand); 7]), &policy).unwrap();
        assert!(
            Multiplier::ONE <= shown && shown <= policy.cap,
            "{supply} {demand}"
        );
    }
}

/// One message of a feed.
#[derive(Debug, Clone)]
enum Message {
    Supply(usize, Level),
    Demand(usize, Level),
    SupplyWatermark(MarketTime),
    DemandWatermark(MarketTime),
}

impl Message {
    fn arrive(&self, board: &mut LevelBoard) {
        match *self {
            Self::Supply(zone, level) => {
                board.apply_supply(AREA.zones()[zone], level, NOW);
            }
            Self::Demand(zone, level) => {
                board.apply_demand(AREA.zones()[zone], level, NOW);
            }
            Self::SupplyWatermark(as_of) => {
                board.supply_watermark(as_of, NOW);
            }
            Self::DemandWatermark(as_of) => {
                board.demand_watermark(as_of, NOW);
            }
        }
    }
}

/// The same messages in two orders. Few zones, times and values, so that they collide often.
fn messages() -> impl Strategy<Value = (Vec<Message>, Vec<Message>)> {
    let instant = || (0_i64..4).prop_map(MarketTime::from_millis);
    let level = || {
        (0_u8..3, instant()).prop_map(|(value, as_of)| Level {
            value: f64::from(value),
            as_of,
        })
    };
    let message = prop_oneof![
        (0_usize..3, level()).prop_map(|(zone, level)| Message::Supply(zone, level)),
        (0_usize..3, level()).prop_map(|(zone, level)| Message::Demand(zone, level)),
        instant().prop_map(Message::SupplyWatermark),
        instant().prop_map(Message::DemandWatermark),
    ];
    prop::collection::vec(message, 0..40)
        .prop_flat_map(|messages| (Just(messages.clone()), Just(messages).prop_shuffle()))
}

/// Views of a zone with up to six neighbours, all levels known.
fn markets(values: std::ops::Range<f64>) -> impl Strategy<Value = MarketView> {
    prop::collection::vec((values.clone(), values), 1..8).prop_map(|levels| market(&levels))
}

fn market(levels: &[(f64, f64)]) -> MarketView {
    let known = |value| Some(Level { value, as_of: NOW });
    let zones = AREA.zones().iter().zip(levels);
    let levels_of = |(&zone, &(supply, demand)): (&Zone, &(f64, f64))| ZoneLevels {
        zone,
        supply: known(supply),
        demand: known(demand),
    };
    MarketView {
        zones: zones.map(levels_of).collect(),
    }
}

fn with_more(view: &MarketView, zone: usize, supply: f64, demand: f64) -> MarketView {
    let mut view = view.clone();
    let levels = &mut view.zones[zone];
    levels.supply = levels.supply.map(|level| Level {
        value: level.value + supply,
        ..level
    });
    levels.demand = levels.demand.map(|level| Level {
        value: level.value + demand,
        ..level
    });
    view
}

fn with_shuffled_neighbours(view: MarketView) -> impl Strategy<Value = (MarketView, MarketView)> {
    let centre = view.zones[0];
    let shuffled = Just(view.zones[1..].to_vec()).prop_shuffle();
    let recentred = move |neighbours| MarketView {
        zones: [vec![centre], neighbours].concat(),
    };
    (Just(view), shuffled.prop_map(recentred))
}

fn shown(view: &MarketView) -> Multiplier {
    multiplier(view, &SurgePolicy::default()).unwrap()
}

fn target_of(view: &MarketView) -> f64 {
    target(view, &SurgePolicy::default()).unwrap()
}

fn quote_for_two_minutes() -> Quote {
    let pickup = Position::new(40.7527, -73.9772).unwrap();
    Quote {
        quote_id: uuid::Uuid::nil(),
        zone: Zone::at(pickup),
        pickup,
        dropoff: Position::new(40.7075, -74.0113).unwrap(),
        fare_cents: 2130,
        multiplier: Multiplier::ONE,
        expires_at: NOW + PricingPolicy::default().quote_lifetime,
    }
}

fn a_trip() -> Trip {
    Trip {
        miles: 2.5,
        minutes: 14.0,
    }
}

/// A few zones, made once for all random markets.
static AREA: LazyLock<ServiceArea> =
    LazyLock::new(|| ServiceArea::new(Bounds::new(40.68, -74.02, 40.78, -73.92).unwrap()));
