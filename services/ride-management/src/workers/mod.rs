//! The work that goes on beside the requests.
//!
//! ```text
//!   riders ──▶ App ──▶ PostgreSQL ── change log ──▶ demand_follower ──▶ the forecast in memory
//!                       ▲      │                                             │
//!   JetStream ── trips ─┤      │ pending calls         JetStream ◀── demand_publisher
//!        trip_follower ─┘      ▼
//!                         dispatcher ──▶ driver-management
//! ```

pub mod demand_follower;
pub mod demand_publisher;
pub mod dispatcher;
pub mod trip_follower;
