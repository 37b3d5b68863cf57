//! Trace and span ids: sixteen and eight bytes in OTLP, hexadecimal in URLs and JSON, never zero.
//! They are held as numbers, so that a lookup hashes one number and an id without its leading zeros
//! is the same id.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
    str::FromStr,
};

/// The id shared by all spans of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TraceId(NonZeroU128);

/// The id of one span within its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SpanId(NonZeroU64);

impl TraceId {
    /// The id in these bytes; `None` if they are not sixteen or all zero, which OTLP calls invalid.
    pub(crate) fn from_wire(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.try_into().ok()?;
        NonZeroU128::new(u128::from_be_bytes(bytes)).map(Self)
    }
}

impl SpanId {
    /// The id in these bytes; `None` if they are not eight or all zero.
    pub(crate) fn from_wire(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.try_into().ok()?;
        NonZeroU64::new(u64::from_be_bytes(bytes)).map(Self)
    }
}

impl FromStr for TraceId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `from_str_radix` alone would accept a sign.
        let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| hexadecimal);
        number
            .and_then(NonZeroU128::new)
            .map(Self)
            .ok_or("must be 1 to 32 hexadecimal digits, not all zero")
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{SpanId, TraceId};

    #[test]
    fn id_without_leading_zeros_is_equal() {
        let id = TraceId::from_wire(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a, 0xbc]);
        assert_eq!("abc".parse().ok(), id);
        assert_eq!("ABC".parse().ok(), id);
        assert_eq!(id.map(|id| id.to_string()), Some(format!("{:0>32}", "abc")));
    }

    #[test]
    fn refuses_texts_that_are_no_ids() {
        let too_long = "f".repeat(33);
        for text in ["", "0", "+1", "-1", "xyz", "1 2", &too_long] {
            assert!(text.parse::<TraceId>().is_err(), "{text:?} was accepted");
        }
        assert_eq!(TraceId::from_wire(&[1; 15]), None);
        assert_eq!(SpanId::from_wire(&[0; 8]), None);
    }
}
