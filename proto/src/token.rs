//! The quote token: a quote with the signature of price-optimization.
//!
//! ```text
//! price-optimization --token--> rider --token--> ride-management
//!   signs with QUOTE_KEY        cannot change it   verifies with QUOTE_KEY
//! token = base64url(QuoteClaims) "." base64url(BLAKE3-keyed(key, QuoteClaims)), without padding
//! ```
//!
//! So the two services need neither shared state nor a call. BLAKE3's keyed hash is a message
//! authentication code (<https://www.ietf.org/archive/id/draft-aumasson-blake3-00.html>);
//! docs/decisions/quote-token.md gives the reasons for it.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blake3::Hash;
use marketplace::{quote::Quote, surge::Multiplier, zone::Zone};
use prost::Message;
use uuid::Uuid;

use crate::{
    convert::{Malformed, market_time, position, timestamp},
    v1,
};

/// The least length of a secret.
const MIN_KEY_BYTES: usize = 16;

/// Capacity for a token, which has about 170 bytes.
const TOKEN_BYTES: usize = 192;

/// The longest token that is verified.
const MAX_TOKEN_BYTES: usize = 1_024;

/// The key that quotes are signed and verified with (`QUOTE_KEY`).
#[derive(Clone)]
pub struct QuoteKey([u8; blake3::KEY_LEN]);

/// The context of this use of a secret, which BLAKE3's key derivation requires.
const CONTEXT: &str = "surge 2026-11-21 quote token v1";

/// A key that must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must have at least {MIN_KEY_BYTES} bytes of secret")]
pub struct WeakKey;

/// A token that price-optimization did not sign, or that was changed afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no quote of this system, or was changed; ask for a new one")]
pub struct Forged;

impl QuoteKey {
    /// A key from its secret bytes.
    ///
    /// # Errors
    /// When it is too short.
    pub fn new(secret: &[u8]) -> Result<Self, WeakKey> {
        if secret.len() < MIN_KEY_BYTES {
            return Err(WeakKey);
        }
        Ok(Self(blake3::derive_key(CONTEXT, secret)))
    }

    /// The token of a quote.
    pub fn sign(&self, quote: &Quote) -> String {
        let claims = v1::QuoteClaims::from(quote).encode_to_vec();
        let signature = blake3::keyed_hash(&self.0, &claims);
        let mut token = String::with_capacity(TOKEN_BYTES);
        URL_SAFE_NO_PAD.encode_string(&claims, &mut token);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_bytes(), &mut token);
        token
    }

    /// The quote in a token.
    ///
    /// # Errors
    /// When the signature is not ours.
    pub fn verify(&self, token: &str) -> Result<Quote, Forged> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Forged);
        }
        let (claims, signature) = token.split_once('.').ok_or(Forged)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Forged)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Forged)?;
        let signature = Hash::from_slice(&signature).map_err(|_| Forged)?;
        // Hashes are compared in constant time.
        if signature != blake3::keyed_hash(&self.0, &claims) {
            return Err(Forged);
        }
        let claims = v1::QuoteClaims::decode(claims.as_slice()).map_err(|_| Forged)?;
        Quote::try_from(claims).map_err(|_| Forged)
    }
}

impl fmt::Debug for QuoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuoteKey(secret)")
    }
}

impl std::str::FromStr for QuoteKey {
    type Err = WeakKey;

    fn from_str(secret: &str) -> Result<Self, WeakKey> {
        Self::new(secret.as_bytes())
    }
}

impl From<&Quote> for v1::QuoteClaims {
    fn from(quote: &Quote) -> Self {
        Self {
            quote_id: quote.quote_id.as_bytes().to_vec(),
            zone: quote.zone.as_u64(),
            pickup: Some(quote.pickup.into()),
            dropoff: Some(quote.dropoff.into()),
            fare_cents: quote.fare_cents,
            surge_multiplier_tenths: u32::from(quote.multiplier.tenths()),
            expires_at: Some(timestamp(quote.expires_at)),
        }
    }
}

impl TryFrom<v1::QuoteClaims> for Quote {
    type Error = Malformed;

    fn try_from(claims: v1::QuoteClaims) -> Result<Self, Malformed> {
        Ok(Self {
            quote_id: Uuid::from_slice(&claims.quote_id)
                .map_err(|_| Malformed::new("quote_id", "is no UUID"))?,
            zone: Zone::from_u64(claims.zone)
                .map_err(|_| Malformed::new("zone", "is no cell of H3"))?,
            pickup: position("pickup", claims.pickup)?,
            dropoff: position("dropoff", claims.dropoff)?,
            fare_cents: claims.fare_cents,
            multiplier: u16::try_from(claims.surge_multiplier_tenths)
                .ok()
                .and_then(|tenths| Multiplier::from_tenths(tenths).ok())
                .ok_or_else(|| Malformed::new("surge_multiplier_tenths", "is out of range"))?,
            expires_at: market_time("expires_at", claims.expires_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use marketplace::{time::MarketTime, zone::Position};

    use super::*;

    fn quote() -> Quote {
        let pickup = Position::new(40.7527, -73.9772).unwrap();
        Quote {
            quote_id: Uuid::now_v7(),
            zone: Zone::at(pickup),
            pickup,
            dropoff: Position::new(40.7075, -74.0113).unwrap(),
            fare_cents: 2_130,
            multiplier: Multiplier::ONE,
            expires_at: MarketTime::from_millis(1_396_645_200_000),
        }
    }

    #[test]
    fn token_carries_its_quote() {
        let key = QuoteKey::new(b"sixteen bytes or more").unwrap();
        let quote = quote();
        assert_eq!(key.verify(&key.sign(&quote)), Ok(quote));
    }

    #[test]
    fn refuses_changed_and_foreign_tokens() {
        let key = QuoteKey::new(b"sixteen bytes or more").unwrap();
        let token = key.sign(&quote());
        for index in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(key.verify(&changed), Err(Forged), "at {index}");
        }
        let stranger = QuoteKey::new(b"another key of some length").unwrap();
        assert_eq!(stranger.verify(&token), Err(Forged));
        for nonsense in ["", ".", "a.b", "é.ü", &"x".repeat(5_000)] {
            assert_eq!(key.verify(nonsense), Err(Forged));
        }
    }

    #[test]
    fn short_key_is_refused() {
        assert!(QuoteKey::new(b"short").is_err());
        let key = QuoteKey::new(b"sixteen bytes or more").unwrap();
        assert_eq!(format!("{key:?}"), "QuoteKey(secret)");
    }
}
