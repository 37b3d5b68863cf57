//! How much the collector may hold. Every bound is on what is *kept*: nothing that a program
//! exports, however much or however odd, makes the memory grow beyond it. When a bound is met, the
//! oldest trace goes.

/// The bounds of a collector. With the defaults it is the bytes that count: they hold about 8,000
/// requests of five spans with ten attributes each, or an hour of the small traces that a suite
/// makes when nobody asks it for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Traces held; the one that arrived first is dropped for a new one.
    pub traces: usize,
    /// Spans held in all traces together.
    pub spans: usize,
    /// Spans held of one trace; later ones are dropped and counted, so that a runaway trace cannot
    /// evict all others.
    pub spans_per_trace: usize,
    /// Bytes of span content held, as the store counts them. A span of fifteen attributes counts
    /// about 1,000; the process grows to about twice this limit, allocator and answers included.
    pub bytes: usize,
    /// Bytes of one export request after decompression; larger ones are refused by tonic with
    /// `OUT_OF_RANGE` or, when they came compressed, `RESOURCE_EXHAUSTED`.
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            traces: 50_000,
            spans: 100_000,
            spans_per_trace: 2_000,
            bytes: 48 << 20,
            message_bytes: 4 << 20,
        }
    }
}

impl Limits {
    /// Checks that the newest trace always fits, which is what the store's eviction relies on.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let smallest = [
            self.traces,
            self.spans,
            self.spans_per_trace,
            self.bytes,
            self.message_bytes,
        ];
        if smallest.contains(&0) {
            return Err("every limit must be at least 1");
        }
        if self.spans_per_trace > self.spans {
            return Err("spans_per_trace must not exceed spans");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Limits;

    #[test]
    fn limits_that_leave_no_room_are_refused() {
        assert!(Limits::default().check().is_ok());
        assert!(
            Limits {
                traces: 0,
                ..Limits::default()
            }
            .check()
            .is_err()
        );
        assert!(
            Limits {
                spans: 10,
                spans_per_trace: 11,
                ..Limits::default()
            }
            .check()
            .is_err()
        );
    }
}
