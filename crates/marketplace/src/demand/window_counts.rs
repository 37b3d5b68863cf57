//! Requests per window and zone, over a bounded time.
//!
//! A late count finds its window while that is held, so the order of arrival changes nothing.

use std::collections::VecDeque;
use std::ops::Range;

/// Counts per window and column, for the `capacity` windows up to the newest one.
#[derive(Debug, Clone)]
pub(super) struct WindowCounts {
    columns: usize,
    capacity: i64,
    first: i64,
    rows: VecDeque<Vec<u32>>,
}

impl WindowCounts {
    pub(super) fn new(columns: usize, capacity: i64) -> Self {
        Self {
            columns,
            capacity,
            first: 0,
            rows: VecDeque::new(),
        }
    }

    pub(super) fn get(&self, window: i64, column: usize) -> u32 {
        self.row_of(window).map_or(0, |row| self.rows[row][column])
    }

    pub(super) fn add(&mut self, window: i64, column: usize, count: u32) {
        self.make_room(window);
        if let Some(row) = self.row_of(window) {
            let cell = &mut self.rows[row][column];
            *cell = cell.saturating_add(count);
        }
    }

    /// Adds rows up to the window and drops the oldest ones. A window that is too old gets no row.
    fn make_room(&mut self, window: i64) {
        if self.rows.is_empty() || window >= self.held().end + self.capacity {
            self.rows.clear();
            self.first = window;
        }
        if window + self.capacity < self.held().end {
            return;
        }
        while window < self.first {
            self.rows.push_front(vec![0; self.columns]);
            self.first -= 1;
        }
        while window >= self.held().end {
            self.rows.push_back(vec![0; self.columns]);
        }
        while self.held().end - self.first > self.capacity {
            self.rows.pop_front();
            self.first += 1;
        }
    }

    fn row_of(&self, window: i64) -> Option<usize> {
        self.held()
            .contains(&window)
            .then(|| (window - self.first) as usize)
    }

    fn held(&self) -> Range<i64> {
        self.first..self.first + self.rows.len() as i64
    }
}
