//! The limits of the collector. They bound what it *keeps*: no export, however large or strange,
//! makes its memory grow beyond them. When a limit is reached, the store drops the oldest trace.

/// The limits of a collector. With the defaults the bytes are reached first: they hold about 8,000
/// requests of five spans with ten attributes each, or an hour of the small traces of an idle
/// suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Traces held.
    pub traces: usize,
    /// Spans held in all traces together.
    pub spans: usize,
    /// Spans held of one trace. Later ones are dropped and counted, so that a runaway trace cannot
    /// evict all others.
    pub spans_per_trace: usize,
    /// Bytes of span content held, as the store counts them. A span of fifteen attributes counts
    /// about 1,000; the process grows to about twice this limit, allocator and answers included.
    pub bytes: usize,
    /// Bytes of one export request after decompression. tonic refuses a larger one with
    /// `OUT_OF_RANGE` or, if it was compressed, `RESOURCE_EXHAUSTED`.
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
    /// Checks that the newest trace always fits: eviction in the store depends on it.
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
    fn refuses_limits_that_leave_no_room() {
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
