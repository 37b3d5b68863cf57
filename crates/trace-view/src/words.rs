//! One copy of each text that many spans repeat: attribute keys, operation names, zones, status
//! codes. It is most of what keeps 100,000 spans small. Texts that no span holds any more are swept
//! out, so that the table follows the store's size and not the time that it has run.

use std::{collections::HashSet, sync::Arc};

/// Texts longer than this are seldom repeated, and not worth a place in the table.
const LONGEST_SHARED_BYTES: usize = 64;

/// The table is not swept below this size, where a sweep would not pay.
const SMALLEST_SWEEP: usize = 4_096;

/// The texts in use, each held once.
#[derive(Debug)]
pub(crate) struct Words {
    held: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Words {
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
        if let Some(word) = self.held.get(text) {
            return Arc::clone(word);
        }
        self.make_room();
        let word: Arc<str> = text.into();
        self.held.insert(Arc::clone(&word));
        word
    }

    /// Sweeps when the table has doubled since the last sweep: cheap on average, and at most twice
    /// what is in use.
    fn make_room(&mut self) {
        if self.held.len() >= self.sweep_at {
            self.held.retain(|word| Arc::strong_count(word) > 1);
            self.sweep_at = (self.held.len() * 2).max(SMALLEST_SWEEP);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{SMALLEST_SWEEP, Words};

    #[test]
    fn a_text_is_held_once() {
        let mut words = Words::new();
        let (first, second) = (words.share("zone"), words.share("zone"));
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn texts_no_longer_in_use_are_swept_out() {
        let mut words = Words::new();
        let kept = words.share("kept");
        for number in 0..10 * SMALLEST_SWEEP {
            words.share(&number.to_string());
        }
        assert!(words.held.len() <= SMALLEST_SWEEP);
        assert!(Arc::ptr_eq(&kept, &words.share("kept")));
    }
}
