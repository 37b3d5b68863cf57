//! One copy of each text that many spans repeat: keys of tags, operation names, zones. This is the
//! main reason why 100,000 spans need little memory. The table drops texts that no span uses any
//! more, so that it does not grow with time.

use std::{collections::HashSet, sync::Arc};

/// Longer texts seldom repeat, so that they get no place in the table.
const LONGEST_SHARED_BYTES: usize = 64;

/// The table is not swept below this size.
const SMALLEST_SWEEP: usize = 4_096;

/// The texts in use, each held once.
#[derive(Debug)]
pub(crate) struct SharedTexts {
    held: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl SharedTexts {
    pub(crate) fn new() -> Self {
        Self {
            held: HashSet::new(),
            sweep_at: SMALLEST_SWEEP,
        }
    }

    /// The shared copy of `text`, or a copy of its own where `text` is long.
    pub(crate) fn share(&mut self, text: &str) -> Arc<str> {
        if text.len() > LONGEST_SHARED_BYTES {
            return text.into();
        }
        if let Some(shared) = self.held.get(text) {
            return Arc::clone(shared);
        }
        self.make_room();
        let shared: Arc<str> = text.into();
        self.held.insert(Arc::clone(&shared));
        shared
    }

    /// Drops unused texts when the table has doubled since the last time: cheap on average, and the
    /// table holds at most twice the texts in use.
    fn make_room(&mut self) {
        if self.held.len() >= self.sweep_at {
            self.held.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = (self.held.len() * 2).max(SMALLEST_SWEEP);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{SMALLEST_SWEEP, SharedTexts};

    #[test]
    fn text_is_held_once() {
        let mut texts = SharedTexts::new();
        let (first, second) = (texts.share("zone"), texts.share("zone"));
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn unused_texts_are_dropped() {
        let mut texts = SharedTexts::new();
        let kept = texts.share("kept");
        for number in 0..10 * SMALLEST_SWEEP {
            texts.share(&number.to_string());
        }
        assert!(texts.held.len() <= SMALLEST_SWEEP);
        assert!(Arc::ptr_eq(&kept, &texts.share("kept")));
    }
}
