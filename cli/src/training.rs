//! Trains the demand profile that the services start with, from recorded pickups.
//!
//! The bundled profile is trained only on pickups before the bundled evening, as in a live service.
//! The same pickups always give the same file, and a test compares the bundled file byte by byte.

use std::{path::Path, thread};

use marketplace::{
    Bounds, DemandProfile, MarketTime, ProfileSettings, ServiceArea, Zone, backtest::Pickup,
    new_york,
};

/// Trains the profile of the service area on the pickups of all bases, from midnight before the
/// first pickup until `until`.
///
/// # Errors
/// When there is no pickup before `until`.
pub fn train(pickups: &[Pickup], until: MarketTime) -> anyhow::Result<DemandProfile> {
    let settings = ProfileSettings::default();
    let first = pickups.iter().map(|pickup| pickup.at).min();
    let first = first
        .filter(|first| *first < until)
        .ok_or_else(|| anyhow::anyhow!("the files hold no pickup before {until}"))?;
    let span = new_york::start_of_day(first)..until;
    let located: Vec<(MarketTime, Zone)> = pickups
        .iter()
        .map(|pickup| (pickup.at, Zone::at(pickup.position)))
        .collect();
    let area = ServiceArea::new(Bounds::NEW_YORK);
    Ok(DemandProfile::train(
        &located,
        area.zones(),
        span,
        &settings,
    ))
}

/// The profile as the text of its file.
///
/// # Errors
/// When it cannot be serialized.
pub fn file_text(profile: &DemandProfile) -> serde_json::Result<String> {
    let mut text = serde_json::to_string(profile)?;
    text.push('\n');
    Ok(text)
}

/// Reads all files at once, each on a thread of its own, and returns their pickups in the order of
/// the files.
///
/// # Errors
/// The first file that cannot be read, with its line.
pub fn read_pickups<P: AsRef<Path> + Sync>(paths: &[P]) -> anyhow::Result<Vec<Pickup>> {
    let files = thread::scope(|scope| {
        let readers: Vec<_> = paths
            .iter()
            .map(|path| scope.spawn(move || city::pickups::read(path)))
            .collect();
        let join = |reader: thread::ScopedJoinHandle<'_, _>| {
            reader
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        readers
            .into_iter()
            .map(join)
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok(files.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_needs_earlier_pickups() {
        let error = train(&[], MarketTime::from_millis(0)).unwrap_err();
        assert!(error.to_string().contains("no pickup before"), "{error}");
    }
}
